//! Copies from and to block devices. The tests use loop devices, which require root.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cp_fixture::{Dir, bytes, is_root, text, unmount};
use crate::running_copy::RunningCopy;

/// A loop device, which is detached when this is dropped.
struct Loop(PathBuf);

impl Loop {
    /// A device on the file `name` of `length` bytes with the value 7. `None`: not available.
    fn new(dir: &Dir, name: &str, length: usize) -> Option<Loop> {
        if !is_root() {
            eprintln!("skipped: loop devices require root");
            return None;
        }
        let image = dir.file(name, vec![7; length]);
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(image)
            .output();
        match output {
            Ok(output) if output.status.success() => {
                Some(Loop(text(&output.stdout).trim_end().into()))
            }
            other => {
                eprintln!("skipped: no loop device is available: {other:?}");
                None
            }
        }
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

/// A mount, which is unmounted when this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(device: &str, at: PathBuf) -> Mounted {
        fs::create_dir(&at).unwrap();
        let mount = Command::new("mount").arg(device).arg(&at).status();
        assert!(mount.unwrap().success());
        Mounted(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

#[test]
fn a_device_is_copied_to_a_file() {
    let dir = Dir::new();
    let Some(device) = Loop::new(&dir, "image", (3 << 20) + 512) else {
        return;
    };
    dir.copies(&["--verify", device.path(), "copy"]);
    assert!(dir.read("copy") == vec![7; (3 << 20) + 512]);
}

#[test]
fn a_file_is_copied_to_a_device_with_force_and_the_rest_of_the_device_is_kept() {
    let dir = Dir::new();
    let Some(device) = Loop::new(&dir, "image", 4 << 20) else {
        return;
    };
    // Data, a hole, and a length that is not a multiple of a block.
    let source = dir.file("source", bytes(1 << 20));
    let file = File::options().write(true).open(source).unwrap();
    file.set_len((2 << 20) + 77).unwrap();
    dir.refuses(
        &["source", device.path()],
        &[device.path(), "block device", "--force"],
    );
    for sparse in ["auto", "always", "never"] {
        let said = dir.copies(&[
            "-f",
            "--verify",
            "--sparse",
            sparse,
            "source",
            device.path(),
        ]);
        assert_eq!(said.contains("has no effect"), sparse == "always", "{said}");
        let (source, image) = (dir.read("source"), fs::read(&device.0).unwrap());
        assert!(image[..source.len()] == source);
        assert!(
            image[source.len()..].iter().all(|byte| *byte == 7),
            "{sparse}"
        );
        fs::write(&device.0, vec![7; 4 << 20]).unwrap();
    }
    let name = device.0.file_name().unwrap().to_string_lossy().into_owned();
    let entries = fs::read_dir("/dev").unwrap().flatten();
    let hidden = format!(".{name}.kaio");
    assert!(
        entries
            .map(|it| it.file_name())
            .all(|it| !it.to_string_lossy().starts_with(&hidden))
    );
}

#[test]
fn a_device_that_is_too_small_or_is_the_source_is_refused() {
    let dir = Dir::new();
    let Some(device) = Loop::new(&dir, "image", 1 << 20) else {
        return;
    };
    dir.file("source", bytes((1 << 20) + 1));
    dir.refuses(
        &["-f", "source", device.path()],
        &[
            "source has 1048577 bytes",
            device.path(),
            "has only 1048576",
        ],
    );
    dir.refuses(&["-f", device.path(), device.path()], &["the same file"]);
    assert!(fs::read(&device.0).unwrap() == vec![7; 1 << 20]);
}

#[test]
fn a_source_device_that_becomes_smaller_during_the_copy_is_an_error() {
    for _ in 0..10 {
        let dir = Dir::new();
        let Some(device) = Loop::new(&dir, "image", 20 << 20) else {
            return;
        };
        let limits = ["--limit", "200k", "--bs", "64k", "--depth", "1"];
        let copy = RunningCopy::start(&dir, &[&limits[..], &[device.path(), "copy"]].concat());
        let image = File::options().write(true).open(dir.join("image"));
        image.unwrap().set_len(256 << 10).unwrap();
        let resized = Command::new("losetup").arg("-c").arg(&device.0).status();
        assert!(resized.unwrap().success());
        let output = copy.output();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(dir.names(), ["image"]);
        // If `losetup` is late, the copy reads behind the end of the image before the device is smaller.
        if !said.contains("Input/output error") {
            assert!(said.contains("became shorter"), "{said}");
            return;
        }
    }
    panic!("losetup was late ten times");
}

/// A loop device with a file system on it.
fn ext4(dir: &Dir) -> Option<Loop> {
    let device = Loop::new(dir, "image", 16 << 20)?;
    let made = Command::new("mkfs.ext4").arg("-q").arg(&device.0).status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("skipped: mkfs.ext4 is not available");
        return None;
    }
    Some(device)
}

#[test]
fn a_device_that_is_mounted_is_refused() {
    let dir = Dir::new();
    let Some(device) = ext4(&dir) else {
        return;
    };
    dir.file("source", bytes(4096));
    let _mounted = Mounted::new(device.path(), dir.join("mounted"));
    let output = dir.cp(&["-f", "source", device.path()]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains("in use") && said.contains("unmount"),
        "{said}"
    );
}

#[test]
fn a_file_system_with_too_little_space_is_refused_before_anything_is_written() {
    let dir = Dir::new();
    let Some(device) = ext4(&dir) else {
        return;
    };
    let mounted = Mounted::new(device.path(), dir.join("mounted"));
    let old = mounted.0.join("copy");
    fs::write(&old, "old content").unwrap();
    dir.file("large", bytes(20 << 20));
    let refused = |args: &[&str]| {
        let output = dir.cp(args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(fs::read(&old).unwrap(), b"old content");
        assert_eq!(
            crate::cp_fixture::names(Path::new(&mounted.0)),
            ["copy", "lost+found"]
        );
        said
    };
    let said = refused(&["large", "mounted/copy"]);
    assert!(
        said.contains("too little space") && said.contains("20.00 MiB"),
        "{said}"
    );
    // The space is not known in advance. The copy fails, and releases what it has allocated.
    let said = refused(&["--sparse", "always", "large", "mounted/copy"]);
    assert!(
        said.contains("No space left") && said.contains("free some space"),
        "{said}"
    );

    // Nothing is left of a tree, either.
    dir.dir("tree/sub");
    dir.file("tree/sub/small", "x");
    fs::rename(dir.join("large"), dir.join("tree/sub/large")).unwrap();
    let said = refused(&["-r", "--sparse", "always", "tree", "mounted"]);
    assert!(said.contains("free some space"), "{said}");

    // Holes take no space.
    File::create(dir.join("hole"))
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    dir.copies(&["hole", "mounted/copy"]);
    let read_only = Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(&mounted.0)
        .status();
    assert!(read_only.unwrap().success());
    let output = dir.cp(&["image", "mounted/other"]);
    assert!(text(&output.stderr).contains("mounted read-only"));
}
