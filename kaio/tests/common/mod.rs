//! What tests of the program share.
#![allow(dead_code)] // each file is a program of its own, which uses a part of it

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// A directory of its own, on the file system that the build is on.
pub(crate) fn scratch() -> TempDir {
    let parent = env!("CARGO_TARGET_TMPDIR");
    tempfile::Builder::new()
        .prefix("kaio-test-")
        .tempdir_in(parent)
        .unwrap()
}

/// The program, to be run in `dir`.
pub(crate) fn kaio(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kaio"));
    command.current_dir(dir).stdin(Stdio::null());
    command
}

/// The program, to be run in `dir`, with signals as they are by default. Whoever runs the tests may
/// ignore them, as a shell does for what it runs in the background, and so would the program.
pub(crate) fn interruptible(dir: &Path) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=INT,TERM,HUP", env!("CARGO_BIN_EXE_kaio")]);
    command.current_dir(dir).stdin(Stdio::null());
    command
}

/// Runs the program in `dir` with `args`, separated by spaces.
pub(crate) fn run(dir: &Path, args: &str) -> Output {
    kaio(dir).args(args.split_whitespace()).output().unwrap()
}

/// Its exit code, standard output and standard error.
pub(crate) fn parts(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// Standard output of a run that has succeeded.
#[track_caller]
pub(crate) fn succeeded(output: &Output) -> String {
    let (code, out, err) = parts(output);
    assert_eq!(code, Some(0), "{out}\n{err}");
    out
}

/// Standard error of a run that has ended with `code` and has printed no data.
#[track_caller]
pub(crate) fn failed(output: &Output, code: i32) -> String {
    let (ended, out, err) = parts(output);
    assert_eq!((ended, &*out), (Some(code), ""), "{err}");
    err
}

/// The JSON that a run has printed.
#[track_caller]
pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_str(&succeeded(output)).unwrap()
}

/// Names of what is in `dir`, in order.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> = entries
        .map(|entry| name(entry).to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A run that goes on in the background, and is killed when this is dropped.
pub(crate) struct Running(Child);

impl Running {
    /// `stderr` takes its talk.
    pub(crate) fn start(command: &mut Command, stderr: impl Into<Stdio>) -> Running {
        let command = command.stdout(Stdio::piped()).stderr(stderr);
        Running(command.spawn().unwrap())
    }

    /// Waits until `is_there` says so.
    #[track_caller]
    pub(crate) fn until(&mut self, mut is_there: impl FnMut() -> bool) {
        for _ in 0..3000 {
            if is_there() {
                return;
            }
            let ended = self.0.try_wait().unwrap();
            assert!(ended.is_none(), "ended before: {ended:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("never came");
    }

    /// Sends it `signal`, and waits until it has ended.
    pub(crate) fn end(mut self, signal: Signal) -> ExitStatus {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, signal).unwrap();
        self.0.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill(); // ended already, mostly
        let _ = self.0.wait();
    }
}

/// Whether standard error says that something can't be tested here, and why.
pub(crate) fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}

pub(crate) fn path(dir: &TempDir, name: &str) -> PathBuf {
    dir.path().join(name)
}
