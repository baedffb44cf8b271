//! An interrupted copy leaves the target unchanged, and no other files.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cp_fixture::{Dir, bytes, text, tree};
use crate::running_copy::RunningCopy;

/// Prepares a directory, and calls `change` during a copy in it that takes longer than `least`. Returns the
/// directory and the output.
///
/// If `change` returns later than `least` after the start, the copy may have been over before. Everything is then
/// repeated, with ten attempts at most.
fn changed_during_copy(
    least: Duration,
    args: &[&str],
    prepare: impl Fn(&Dir),
    change: impl Fn(&Dir),
) -> (Dir, Output) {
    for _ in 0..10 {
        let dir = Dir::new();
        prepare(&dir);
        let before = Instant::now();
        let started = RunningCopy::try_start(&dir, args, Stdio::piped());
        change(&dir);
        let is_in_time = before.elapsed() < least;
        match started {
            Ok(copy) => {
                let output = copy.output();
                if is_in_time {
                    return (dir, output);
                }
            }
            Err(output) => assert!(!is_in_time, "{args:?} has ended: {output:?}"),
        }
    }
    panic!("the change was late ten times");
}

fn ends_with(copy: RunningCopy, signal: Signal, code: i32) {
    copy.send(signal);
    let output = copy.output();
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
            RunningCopy::start(&dir, &["--limit", "100k", "source", "copy"]),
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
        dir.file(&format!("source/a/{number}"), bytes(1_000_000));
    }
    ends_with(
        RunningCopy::start(&dir, &["--limit", "100k", "-r", "source", "copy"]),
        Signal::INT,
        130,
    );
    assert_eq!(dir.names(), ["source"]);
}

#[test]
fn a_source_that_is_truncated_during_the_copy_is_an_error_and_the_old_target_is_kept() {
    let dir = Dir::new();
    let source = dir.file("source", bytes(20 << 20));
    dir.file("copy", "old content");
    let copy = RunningCopy::start(
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
    let output = copy.output();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("source became shorter"), "{said}");
    assert_eq!(dir.read("copy"), b"old content");
    assert_eq!(dir.names(), ["copy", "source"]);
}

#[test]
fn a_source_that_is_written_during_the_copy_is_a_warning() {
    let (dir, output) = changed_during_copy(
        Duration::from_secs(4),
        &[
            "--limit", "200k", "--depth", "1", "--bs", "64k", "source", "copy",
        ],
        |dir| _ = dir.file("source", bytes(1 << 20)),
        |dir| set_len(dir, 2 << 20),
    );
    assert_eq!(output.status.code(), Some(0));
    let said = text(&output.stderr);
    assert!(said.contains("warning: source changed"), "{said}");
    assert_eq!(dir.read("copy").len(), 1 << 20);
}

/// Sets the length of the file `source`.
fn set_len(dir: &Dir, length: u64) {
    let source = File::options().write(true).open(dir.join("source"));
    source.unwrap().set_len(length).unwrap();
}

#[test]
fn a_source_whose_hole_is_truncated_during_the_copy_is_an_error() {
    let (dir, output) = changed_during_copy(
        Duration::from_secs(4),
        &["--limit", "100k", "--bs", "64k", "source", "copy"],
        |dir| {
            dir.file("source", bytes(512 << 10));
            set_len(dir, 8 << 20);
        },
        |dir| set_len(dir, 1 << 20),
    );
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
    // It is created, or replaced.
    for old in [None, Some("old content")] {
        let (dir, output) = changed_during_copy(
            Duration::from_secs(4),
            &["--limit", "200k", "--bs", "64k", "source", "copy"],
            |dir| {
                dir.file("source", bytes(1 << 20));
                old.map(|old| dir.file("copy", old));
            },
            |dir| {
                let other = dir.file("other", "of another program");
                std::fs::rename(other, dir.join("copy")).unwrap();
            },
        );
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("another program replaced copy"), "{said}");
        assert_eq!(dir.read("copy"), b"of another program");
        assert_eq!(dir.names(), ["copy", "source"]);
    }
}

#[test]
fn a_signal_ends_the_copy_if_standard_error_is_full() {
    let dir = Dir::new();
    dir.file("source", bytes(20 << 20));
    let full = File::options().write(true).open("/dev/full").unwrap();
    let copy = RunningCopy::try_start(&dir, &["--limit", "100k", "source", "copy"], full);
    let copy = copy.expect("it has ended");
    copy.send(Signal::INT);
    assert_eq!(copy.output().status.code(), Some(130));
    assert_eq!(dir.names(), ["source"]);
}

#[test]
fn a_directory_that_is_removed_during_the_copy_does_not_prevent_the_other_copies() {
    let (dir, output) = changed_during_copy(
        Duration::from_secs(3),
        &["-r", "--limit", "100k", "tree", "copy"],
        |dir| {
            dir.dir("tree/sub");
            for number in 0..4 {
                dir.file(&format!("tree/{number}"), bytes(100_000));
            }
        },
        |dir| std::fs::remove_dir(dir.join("tree/sub")).unwrap(),
    );
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("can't examine tree/sub"), "{said}");
    for number in 0..4 {
        assert!(dir.read(&format!("copy/{number}")) == bytes(100_000));
    }
}
