//! The commands under a limit on the number of processes and threads.
#![allow(unsafe_code)] // sets the limit in the child process before it executes the program

mod common;

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{kaio, names, parts, path, scratch, skipped};
use tempfile::TempDir;

/// A command that takes longer hangs.
const HANG: Duration = Duration::from_secs(300);

/// Limits at which no command finds the threads it needs, and more. The first is the program alone.
const LIMITS: std::ops::RangeInclusive<u64> = 1..=6;

/// A directory that the user of the child process may write to.
fn public_dir() -> TempDir {
    let dir = scratch();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    dir
}

/// Runs the program with at most `limit` threads. Returns `None`, and says that the test is skipped, if
/// the limit can't be set.
///
/// `RLIMIT_NPROC` counts the threads of a user in a user namespace. The process of root changes to a user
/// ID without other processes, that of any other user to a new user namespace.
fn limited(dir: &Path, limit: u64, args: &str) -> Option<Output> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let user = 1_000_000_000 + std::process::id() * 256 + count;
    let set_limit = move || {
        // SAFETY: takes no arguments.
        let is_root = unsafe { libc::geteuid() } == 0;
        check(match is_root {
            // SAFETY: takes a number.
            true => unsafe { libc::setuid(user) },
            // SAFETY: takes a number.
            false => unsafe { libc::unshare(libc::CLONE_NEWUSER) },
        })?;
        let limits = libc::rlimit {
            rlim_cur: limit,
            rlim_max: limit,
        };
        // SAFETY: the kernel reads a structure on the stack.
        check(unsafe { libc::setrlimit(libc::RLIMIT_NPROC, &raw const limits) })
    };
    let mut command = kaio(dir);
    command.args(args.split(' '));
    // SAFETY: `set_limit` only makes system calls.
    unsafe { command.pre_exec(set_limit) };
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    match child {
        Ok(child) => Some(wait(child, args)),
        Err(error) => {
            skipped(&format!("can't limit the threads of a process: {error}"));
            None
        }
    }
}

fn check(code: libc::c_int) -> io::Result<()> {
    match code {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The output fits into a pipe, so it is read when the program has ended.
fn wait(mut child: Child, args: &str) -> Output {
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > HANG {
            child.kill().unwrap();
            panic!("kaio {args} hangs: {:?}", child.wait_with_output());
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// Whether the limits have an effect: the first one does not even allow the thread for signals.
fn are_enforced(dir: &Path) -> bool {
    let Some(output) = limited(dir, 1, "doctor") else {
        return false;
    };
    let (code, _, err) = parts(&output);
    let is_enforced = code == Some(1) && err.contains("can't start the thread that waits");
    if !is_enforced {
        skipped(&format!(
            "a limit on threads is not enforced here: {code:?} {err}"
        ));
    }
    is_enforced
}

/// Asserts that the error is about threads, and says what to do.
#[track_caller]
fn assert_clear_error(output: &Output, context: &str) {
    let (code, out, err) = parts(output);
    assert_eq!((code, &*out), (Some(1), ""), "{context}: {err}");
    assert!(err.starts_with("error: can't start "), "{context}: {err}");
    assert!(
        err.contains("ulimit -u") && err.contains("pids.max"),
        "{err}"
    );
    assert!(!err.contains("panicked"), "{context}: {err}");
}

#[test]
fn bench_fails_with_a_clear_error_and_leaves_no_files() {
    let dir = public_dir();
    if !are_enforced(dir.path()) {
        return;
    }
    for limit in LIMITS {
        for engines in ["", " --engines tokio-kaio", " --engines blocking-pool"] {
            let args = format!("bench --buffered --runtime 0.1 --size 1M --depth 8{engines}");
            let output = limited(dir.path(), limit, &args).unwrap();
            assert_clear_error(&output, &format!("{limit}: {args}"));
            assert_eq!(names(dir.path()), [""; 0]);
        }
    }
}

#[test]
fn doctor_fails_with_a_clear_error_or_needs_no_more_threads() {
    let dir = public_dir();
    if !are_enforced(dir.path()) {
        return;
    }
    let mut failed = 0;
    for limit in LIMITS {
        let output = limited(dir.path(), limit, "doctor --json").unwrap();
        if !output.status.success() {
            failed += 1;
            assert_eq!(failed, limit, "a smaller limit was enough");
            assert_clear_error(&output, &limit.to_string());
        }
        assert_eq!(names(dir.path()), [""; 0]);
    }
    assert!((1..*LIMITS.end()).contains(&failed), "{failed}");
}

#[test]
fn cp_fails_with_a_clear_error_or_copies_the_file() {
    let dir = public_dir();
    if !are_enforced(dir.path()) {
        return;
    }
    // The first is copied by threads, the second by kernel AIO.
    for length in [100_001, (9 << 20) + 1] {
        let source = vec![7; length];
        fs::write(path(&dir, "source"), &source).unwrap();
        let mut failed = 0;
        for limit in LIMITS {
            let output = limited(dir.path(), limit, "cp --verify -q source copy").unwrap();
            if output.status.success() {
                assert!(fs::read(path(&dir, "copy")).unwrap() == source);
                fs::remove_file(path(&dir, "copy")).unwrap();
            } else {
                failed += 1;
                assert_eq!(failed, limit, "a smaller limit was enough");
                assert_clear_error(&output, &limit.to_string());
            }
            assert_eq!(names(dir.path()), ["source"]);
        }
        assert!((1..*LIMITS.end()).contains(&failed), "{failed}");
    }
}
