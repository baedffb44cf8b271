//! Functions that the tests of the program share.
#![allow(dead_code)] // each test binary uses a part of this module

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Creates a directory on the file system of the build.
pub(crate) fn scratch() -> TempDir {
    let parent = env!("CARGO_TARGET_TMPDIR");
    tempfile::Builder::new()
        .prefix("kaio-test-")
        .tempdir_in(parent)
        .unwrap()
}

/// The program, with `dir` as its current directory.
pub(crate) fn kaio(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kaio"));
    command.current_dir(dir).stdin(Stdio::null());
    command
}

/// The program, with `dir` as its current directory and the default handling of signals. Tests may be run
/// by a process that ignores signals, as a shell does for background jobs, and the program would inherit
/// that.
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

/// The exit code, standard output and standard error.
pub(crate) fn parts(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// Returns standard output. The run must have succeeded.
#[track_caller]
pub(crate) fn succeeded(output: &Output) -> String {
    let (code, out, err) = parts(output);
    assert_eq!(code, Some(0), "{out}\n{err}");
    out
}

/// Returns standard error. The run must have ended with `code` without output.
#[track_caller]
pub(crate) fn failed(output: &Output, code: i32) -> String {
    let (ended, out, err) = parts(output);
    assert_eq!((ended, &*out), (Some(code), ""), "{err}");
    err
}

/// Parses the JSON on standard output.
#[track_caller]
pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_str(&succeeded(output)).unwrap()
}

/// The sorted names of the entries of `dir`.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> = entries
        .map(|entry| name(entry).to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A run in the background, which is killed when this is dropped.
pub(crate) struct Running(Child);

impl Running {
    /// Starts `command`, with its standard error connected to `stderr`.
    pub(crate) fn start(command: &mut Command, stderr: impl Into<Stdio>) -> Running {
        let command = command.stdout(Stdio::piped()).stderr(stderr);
        Running(command.spawn().unwrap())
    }

    /// Waits until `is_true` returns true.
    #[track_caller]
    pub(crate) fn until(&mut self, mut is_true: impl FnMut() -> bool) {
        for _ in 0..3000 {
            if is_true() {
                return;
            }
            let ended = self.0.try_wait().unwrap();
            assert!(ended.is_none(), "the program has ended: {ended:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the condition did not become true");
    }

    /// Sends `signal`, and waits until the program has ended.
    pub(crate) fn end(mut self, signal: Signal) -> ExitStatus {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, signal).unwrap();
        self.0.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill(); // usually it has ended already
        let _ = self.0.wait();
    }
}

/// Reports that a test is skipped, and why.
pub(crate) fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}

pub(crate) fn path(dir: &TempDir, name: &str) -> PathBuf {
    dir.path().join(name)
}
