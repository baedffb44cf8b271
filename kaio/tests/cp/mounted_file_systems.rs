//! Copies on file systems without direct I/O, and on tmpfs. Mounting them requires root.

use std::process::Command;

use crate::cp_fixture::{Dir, bytes, is_root, text, unmount};

/// A mounted file system, which is unmounted when this is dropped.
pub(crate) struct Mounted<'a>(&'a Dir);

impl Mounted<'_> {
    /// Mounts it at `mounted`. `None`: not available.
    pub(crate) fn new<'a>(dir: &'a Dir, kind: &str, options: &str) -> Option<Mounted<'a>> {
        if !is_root() {
            eprintln!("skipped: mounting {kind} requires root");
            return None;
        }
        let mount = Command::new("mount")
            .args(["-t", kind, "-o", options, kind])
            .arg(dir.dir("mounted"))
            .output();
        match mount {
            Ok(output) if output.status.success() => Some(Mounted(dir)),
            other => {
                eprintln!("skipped: {kind} is not available: {other:?}");
                None
            }
        }
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        unmount(&self.0.join("mounted"));
    }
}

#[test]
fn without_direct_io_the_page_cache_is_used_and_noted_once() {
    let dir = Dir::new();
    let Some(_mounted) = Mounted::new(&dir, "ramfs", "mode=700") else {
        return;
    };
    let source = bytes((9 << 20) + 77);
    dir.file("source", &source);
    dir.file("other", "x");
    let said = dir.copies(&["--verify", "source", "other", "mounted"]);
    assert!(dir.read("mounted/source") == source);
    assert!(said.contains("is written through the page cache"), "{said}");
    assert!(
        said.contains("is read back through the page cache"),
        "{said}"
    );
    assert_eq!(said.matches("note: ").count(), 2, "{said}");
    let output = dir.cp(&["--json", "mounted/source", "back"]);
    assert!(dir.read("back") == source);
    assert!(text(&output.stderr).contains("mounted/source is read through the page cache"));
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["direct"], false);
}

#[test]
fn files_with_holes_are_copied_to_and_from_tmpfs() {
    let dir = Dir::new();
    let Some(_mounted) = Mounted::new(&dir, "tmpfs", "size=4M") else {
        return;
    };
    let source = dir.file("source", bytes((1 << 20) + 5));
    let file = std::fs::File::options().write(true).open(source).unwrap();
    file.set_len(64 << 20).unwrap();
    dir.copies(&["--verify", "source", "mounted/copy"]);
    dir.copies(&["--verify", "mounted/copy", "back"]);
    assert!(dir.read("back") == dir.read("source"));
    assert!(crate::cp_fixture::allocated(dir.join("back")) < 2 << 20);
    dir.file("large", bytes(5 << 20));
    let output = dir.cp(&["large", "mounted/large"]);
    let said = text(&output.stderr);
    assert!(said.contains("too little space"), "{said}");
    assert_eq!(crate::cp_fixture::names(&dir.join("mounted")), ["copy"]);
}
