//! Targets whose path is nearly as long as `PATH_MAX`, 4096 bytes with the final zero.

use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::cp_fixture::{Dir, bytes, names, text};
use crate::running_copy::RunningCopy;

/// A relative path of `length` bytes. Its directories exist.
fn path(dir: &Dir, length: usize) -> String {
    let mut path = String::new();
    while path.len() + 201 < length - 1 {
        path += &"d".repeat(199);
        path.push('/');
    }
    create_directories(dir, &path);
    path += &"f".repeat(length - path.len());
    path
}

/// Creates directories below `dir`. Only the relative path is short enough.
fn create_directories(dir: &Dir, path: &str) {
    run_in(dir, &["mkdir", "-p", path]);
}

fn run_in(dir: &Dir, command: &[&str]) {
    let mut program = std::process::Command::new(command[0]);
    let status = program.args(&command[1..]).current_dir(dir.path()).status();
    assert!(status.unwrap().success(), "{}", command[0]);
}

fn assert_same(dir: &Dir, one: &str, other: &str) {
    run_in(dir, &["cmp", one, other]);
}

#[test]
fn a_path_of_maximum_length_can_be_copied_to() {
    let dir = Dir::new();
    for length in [4000, 4075, 4090, 4095] {
        let path = path(&dir, length);
        assert_eq!(path.len(), length);
        // A small file and a large one, new and replaced.
        for bytes in [bytes(5000), bytes(200_000), bytes(10)] {
            dir.file("source", bytes);
            dir.copies(&["source", &path]);
            assert_same(&dir, "source", &path);
        }
        dir.copies(&["-p", "--verify", "source", &path]);
    }
}

#[test]
fn a_tree_is_copied_although_its_temporary_name_makes_the_paths_too_long() {
    let dir = Dir::new();
    // The copy has a shorter path than the source, but not while it has its temporary name.
    let directories = format!("{}/", "d".repeat(100)).repeat(40);
    let file = format!("{directories}{}", "f".repeat(20));
    create_directories(&dir, &format!("source/{directories}"));
    dir.file("source/small", bytes(5000));
    let source = format!("source/{file}");
    run_in(&dir, &["cp", "source/small", &source]);
    dir.copies(&["-r", "source", "copy"]);
    assert_same(&dir, "source/small", &format!("copy/{file}"));
    dir.copies(&["-rp", "source/.", "copy"]);
    assert_same(&dir, "source/small", &format!("copy/{file}"));
    assert_eq!(dir.names(), ["copy", "source"]);
}

#[test]
fn a_signal_leaves_nothing_of_a_tree_with_long_paths() {
    let dir = Dir::new();
    create_directories(
        &dir,
        &format!("source/{}", format!("{}/", "d".repeat(100)).repeat(40)),
    );
    dir.file("source/file", bytes(20 << 20));
    let running = RunningCopy::start(&dir, &["-r", "--limit", "100k", "source", "copy"]);
    let copy = dir
        .names()
        .into_iter()
        .find(|name| name.starts_with(".copy"));
    let copy = dir.join(copy.unwrap());
    // All directories exist when the first file does.
    while !names(&copy).iter().any(|name| name.contains("file")) {
        thread::sleep(Duration::from_millis(1));
    }
    running.send(Signal::TERM);
    let output = running.output();
    assert_eq!(output.status.code(), Some(143));
    assert_eq!(dir.names(), ["source"], "{}", text(&output.stderr));
}
