//! Reflinks. Making file systems that have them requires root.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::cp_fixture::{Dir, allocated, bytes, is_root, text};

/// A new file system on a loop device, unmounted when this is dropped.
struct LoopMount<'a>(&'a Dir);

impl LoopMount<'_> {
    /// Mounts it at `mounted`. `None`: not available.
    fn new<'a>(dir: &'a Dir, make: &[&str]) -> Option<LoopMount<'a>> {
        if !is_root() {
            eprintln!("skipped: mounting requires root");
            return None;
        }
        let image = dir.join("image");
        File::create(&image).unwrap().set_len(400 << 20).unwrap();
        let succeeds =
            |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let is_made = succeeds(Command::new(make[0]).args(&make[1..]).arg(&image));
        let mount = ["-o", "loop", "image"];
        let mounted = dir.dir("mounted");
        if is_made
            && succeeds(
                Command::new("mount")
                    .args(mount)
                    .arg(mounted)
                    .current_dir(dir.path()),
            )
        {
            return Some(LoopMount(dir));
        }
        eprintln!("skipped: {} or its file system is not available", make[0]);
        None
    }
}

impl Drop for LoopMount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.join("mounted")).status();
    }
}

fn summary(dir: &Dir, args: &[&str]) -> Value {
    let output = dir.cp(&[args, &["--json"]].concat());
    assert!(
        output.status.success(),
        "{args:?}: {}",
        text(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Copies within a file system that has reflinks.
fn within(make: &[&str]) {
    let dir = Dir::new();
    let Some(_mounted) = LoopMount::new(&dir, make) else {
        return;
    };
    const LENGTH: usize = (3 << 20) + 77;
    dir.dir("mounted/tree");
    dir.file("mounted/tree/large", bytes(LENGTH));
    dir.file("mounted/tree/small", bytes(20_000));
    let source = |name: &str| dir.read(&format!("mounted/tree/{name}"));
    for (options, reflinks) in [
        (&[][..], true),
        (&["--reflink", "always"], true),
        (&["--reflink", "never"], false),
        (&["--verify"], false),
        (&["--sparse", "always"], false),
    ] {
        let args = [options, &["-rp", "mounted/tree", "mounted/copy"]].concat();
        let summary = summary(&dir, &args);
        let bytes = (LENGTH + 20_000) as u64;
        let shared = if reflinks { bytes } else { 0 };
        assert_eq!(summary["reflink_bytes"], shared, "{options:?}");
        assert_eq!(summary["written_bytes"], bytes - shared, "{options:?}");
        for name in ["large", "small"] {
            assert!(
                dir.read(&format!("mounted/copy/{name}")) == source(name),
                "{options:?}"
            );
        }
        std::fs::remove_dir_all(dir.join("mounted/copy")).unwrap();
    }
    let said = dir.copies(&["mounted/tree/large", "mounted/copy"]);
    assert!(
        said.contains("in reflinks") && !said.contains("/s"),
        "{said}"
    );
    // A reflink is replaced like any other file.
    dir.copies(&["mounted/tree/small", "mounted/copy"]);
    assert!(dir.read("mounted/copy") == source("small"));
    // To another file system, data is copied.
    let summary = summary(&dir, &["mounted/tree/large", "other"]);
    assert_eq!(summary["reflink_bytes"], 0);
    dir.refuses_after_start(&["--reflink", "always", "mounted/tree/large", "refused"]);
    assert!(!dir.join("refused").exists());
}

trait RefusesAfterStart {
    fn refuses_after_start(&self, args: &[&str]);
}

impl RefusesAfterStart for Dir {
    /// Runs a copy that can't be a reflink.
    fn refuses_after_start(&self, args: &[&str]) {
        let output = self.cp(args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("as a reflink of") && said.contains("--reflink auto"),
            "{said}"
        );
    }
}

#[test]
fn files_on_btrfs_share_their_blocks() {
    within(&["mkfs.btrfs", "-q"]);
}

#[test]
fn files_on_xfs_share_their_blocks() {
    within(&["mkfs.xfs", "-q", "-m", "reflink=1"]);
}

#[test]
fn a_reflink_larger_than_the_free_space_is_created() {
    let dir = Dir::new();
    let Some(_mounted) = LoopMount::new(&dir, &["mkfs.btrfs", "-q"]) else {
        return;
    };
    dir.file("mounted/source", bytes(200 << 20));
    dir.copies(&["mounted/source", "mounted/copy"]);
    assert!(allocated(dir.join("mounted/copy")) >= 200 << 20);
    assert!(dir.read("mounted/copy") == dir.read("mounted/source"));
}

#[test]
fn reflinks_that_are_not_possible_are_refused_only_on_request() {
    let dir = Dir::new();
    let Some(shm) = Some(Path::new("/dev/shm")).filter(|shm| shm.is_dir()) else {
        eprintln!("skipped: /dev/shm does not exist");
        return;
    };
    let elsewhere = tempfile::tempdir_in(shm).unwrap();
    let target = elsewhere.path().join("copy");
    let target = target.to_str().unwrap();
    for length in [5000, 200_000] {
        dir.file("source", bytes(length));
        dir.copies(&["--reflink", "auto", "source", target]);
        assert!(std::fs::read(target).unwrap() == bytes(length));
        std::fs::remove_file(target).unwrap();
        dir.refuses_after_start(&["--reflink", "always", "source", target]);
        assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }
}

#[test]
fn options_that_a_reflink_can_not_obey_are_wrong_usage() {
    let dir = Dir::new();
    dir.file("a", "a");
    for option in [
        &["--verify"][..],
        &["--sparse", "always"],
        &["--sparse", "never"],
    ] {
        let output = dir.cp(&[option, &["--reflink", "always", "a", "b"]].concat());
        assert_eq!(output.status.code(), Some(2), "{option:?}");
        assert!(text(&output.stderr).contains("omit one of them"));
    }
    assert_eq!(dir.names(), ["a"]);
}
