//! An interrupted copy leaves the target unchanged, and no other files.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::cp_fixture::{Dir, bytes, kaio, text, tree};

/// Starts a copy, and waits until it has created its temporary file.
pub(crate) fn start(dir: &Dir, args: &[&str]) -> Child {
    let before = dir.names().len();
    // The program would inherit ignored signals.
    let mut child = Command::new("env")
        .arg("--default-signal=INT,TERM,HUP")
        .arg(kaio())
        .arg("cp")
        .args(args)
        .current_dir(dir.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while dir.names().len() == before {
        assert!(child.try_wait().unwrap().is_none(), "{args:?} has ended");
        thread::sleep(Duration::from_millis(1));
    }
    child
}

fn ends_with(child: Child, signal: Signal, code: i32) {
    kill_process(Pid::from_child(&child), signal).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(code),
        "{:?}",
        output.status.signal()
    );
    assert!(text(&output.stderr).contains("interrupted"));
}

#[test]
fn a_signal_leaves_the_old_target_and_no_temporary_files() {
    let dir = Dir::new();
    dir.file("source", bytes(20 << 20));
    dir.file("copy", "old content");
    let before = tree(dir.path());
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        ends_with(
            start(&dir, &["--limit", "100k", "source", "copy"]),
            signal,
            code,
        );
        assert_eq!(tree(dir.path()), before);
        assert_eq!(dir.read("copy"), b"old content");
    }
}

#[test]
fn a_signal_leaves_nothing_of_a_new_tree() {
    let dir = Dir::new();
    dir.dir("source/a/b");
    for number in 0..20 {
        dir.file(&format!("source/a/{number}"), bytes(100_000));
    }
    ends_with(
        start(&dir, &["--limit", "100k", "-r", "source", "copy"]),
        Signal::INT,
        130,
    );
    assert_eq!(dir.names(), ["source"]);
}

#[test]
fn a_source_that_is_truncated_during_the_copy_is_an_error_and_the_old_target_is_kept() {
    let dir = Dir::new();
    let source = dir.file("source", bytes(1 << 20));
    dir.file("copy", "old content");
    let child = start(
        &dir,
        &[
            "--limit", "200k", "--depth", "1", "--bs", "64k", "source", "copy",
        ],
    );
    std::fs::File::options()
        .write(true)
        .open(source)
        .unwrap()
        .set_len(4096)
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("source became shorter"), "{said}");
    assert_eq!(dir.read("copy"), b"old content");
    assert_eq!(dir.names(), ["copy", "source"]);
}

#[test]
fn a_source_that_is_written_during_the_copy_is_a_warning() {
    let dir = Dir::new();
    let source = dir.file("source", bytes(1 << 20));
    let child = start(
        &dir,
        &[
            "--limit", "200k", "--depth", "1", "--bs", "64k", "source", "copy",
        ],
    );
    std::fs::File::options()
        .append(true)
        .open(&source)
        .unwrap()
        .set_len(2 << 20)
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let said = text(&output.stderr);
    assert!(said.contains("warning: source changed"), "{said}");
    assert_eq!(dir.read("copy").len(), 1 << 20);
}

#[test]
fn a_source_whose_hole_is_truncated_during_the_copy_is_an_error() {
    let dir = Dir::new();
    let path = dir.file("source", bytes(512 << 10));
    let source = File::options().write(true).open(path).unwrap();
    source.set_len(8 << 20).unwrap();
    let child = start(&dir, &["--limit", "100k", "--bs", "64k", "source", "copy"]);
    source.set_len(1 << 20).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("source became shorter"), "{said}");
    assert_eq!(dir.names(), ["source"]);
}

#[test]
fn a_file_above_the_limit_on_file_sizes_is_an_error_that_leaves_no_files() {
    let dir = Dir::new();
    // The length of the file is not known in advance.
    let output = dir.limited_cp("ulimit -f 0", "-q /proc/self/status copy");
    assert_eq!(output.status.code(), Some(1), "{:?}", output.status);
    assert!(text(&output.stderr).contains("copy"));
    assert_eq!(dir.names(), [""; 0]);
}

#[test]
fn a_target_that_another_program_makes_during_the_copy_is_an_error_and_is_kept() {
    let dir = Dir::new();
    dir.file("source", bytes(1 << 20));
    // First it is created, then it is replaced.
    for round in ["created", "replaced"] {
        let child = start(&dir, &["--limit", "200k", "--bs", "64k", "source", "copy"]);
        dir.file("other", round);
        std::fs::rename(dir.join("other"), dir.join("copy")).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("another program replaced copy"), "{said}");
        assert_eq!(dir.read("copy"), round.as_bytes());
        assert_eq!(dir.names(), ["copy", "source"]);
    }
}

#[test]
fn a_signal_ends_the_copy_if_standard_error_is_full() {
    let dir = Dir::new();
    dir.file("source", bytes(20 << 20));
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut child = Command::new("env")
        .arg("--default-signal=INT")
        .arg(kaio())
        .args(["cp", "--limit", "1M", "source", "copy"])
        .current_dir(dir.path())
        .stderr(full)
        .spawn()
        .unwrap();
    while dir.names().len() == 1 {
        thread::sleep(Duration::from_millis(1));
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(dir.names(), ["source"]);
}

#[test]
fn a_directory_that_is_removed_during_the_copy_does_not_prevent_the_other_copies() {
    let dir = Dir::new();
    dir.dir("tree/sub");
    for number in 0..4 {
        dir.file(&format!("tree/{number}"), bytes(100_000));
    }
    let child = start(&dir, &["-r", "--limit", "100k", "tree", "copy"]);
    std::fs::remove_dir(dir.join("tree/sub")).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("can't examine tree/sub"), "{said}");
    for number in 0..4 {
        assert!(dir.read(&format!("copy/{number}")) == bytes(100_000));
    }
}
