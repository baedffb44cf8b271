//! Runs a test, or a part of one, in a child process.

use std::env;
use std::io;
use std::process::{Command, Output};

use super::HANG;

/// Set in the environment of a test's child process.
const CHILD: &str = "TOKIO_KAIO_TEST_CHILD";

/// Runs the rest of the test in a child process, for tests that change or count something
/// process-wide: limits, filters, forks, descriptors, mappings.
///
/// Evaluates to `true` in the child. In the parent it checks that the child has passed and
/// evaluates to `false`.
macro_rules! in_child {
    () => {{
        fn here() {}
        $crate::common::is_child_of(std::any::type_name_of_val(&here))
    }};
}
pub(crate) use in_child;

/// The function of [`in_child!`]; `place` is the path of an item in the test's body.
pub fn is_child_of(place: &str) -> bool {
    if is_child() {
        return true;
    }
    let test = place
        .trim_end_matches("::here")
        .trim_end_matches("::{{closure}}");
    let (_crate, name) = test.split_once("::").unwrap();
    let output = run_child(name);
    let ran = String::from_utf8_lossy(&output.stdout).contains("test result: ok. 1 passed");
    assert!(
        output.status.success() && ran,
        "child process of {name}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let said = String::from_utf8_lossy(&output.stderr);
    said.lines()
        .filter(|line| line.starts_with("skipped"))
        .for_each(|line| eprintln!("{line}"));
    false
}

/// Whether this process is the child process of a test.
pub fn is_child() -> bool {
    env::var_os(CHILD).is_some()
}

fn run_child(name: &str) -> Output {
    child_command(&[], name).output().unwrap()
}

/// The command that runs test `name` in a child process, started by the command `by`, if that is not empty.
pub fn child_command(by: &[&str], name: &str) -> Command {
    let test = env::current_exe().unwrap();
    let mut words = by
        .iter()
        .map(|word| word.as_ref())
        .chain([test.as_os_str()]);
    let mut command = Command::new(words.next().unwrap());
    command
        .args(words)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1");
    command
}

/// Runs `child` in a forked child process, which exits with the code that `child` returns. Returns that code.
/// Panics if a signal ends the child: an alarm ends a child that hangs.
///
/// The other threads of this process do not exist in the child, so `child` must wait neither for them nor for a
/// lock that one of them may hold. If `child` starts threads, no thread may start or end during the fork: it
/// could hold a lock of the standard library, which the child's threads need.
pub fn forked(child: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child has this thread only. As demanded above, it needs no lock that another thread holds.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "{}", io::Error::last_os_error());
    if pid == 0 {
        // SAFETY: takes a number.
        unsafe { libc::alarm(HANG.as_secs() as libc::c_uint) };
        let code = child();
        // SAFETY: ends the child without running what is the parent's to run.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: waits for the child that was just made.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid);
    assert!(
        libc::WIFEXITED(status),
        "the child died of signal {}",
        libc::WTERMSIG(status)
    );
    libc::WEXITSTATUS(status)
}

/// Panics if other tests run in this process: their descriptors and mappings would be counted too.
pub(super) fn assert_child() {
    assert!(
        is_child(),
        "this counts for the whole process: use in_child!()"
    );
}
