//! The example `cluster`: it is run as a user would run it.
//!
//! `cargo test` builds the examples of the package before it runs the tests. `cargo test --test it` does not:
//! then `cargo build --example cluster` has to come first.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::files_on_disk::disk_dir;

/// Much longer than anything here takes, because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(300);

/// One cluster at a time: each has several processes.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static RUNNING: Mutex<()> = Mutex::new(());
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn example(dir: &Path, args: &[&str]) -> Command {
    let test = std::env::current_exe().unwrap();
    let target = test.parent().unwrap().parent().unwrap();
    let example = target.join("examples/cluster");
    assert!(
        example.exists(),
        "{example:?} is missing: cargo build --example cluster"
    );
    let mut command = Command::new(example);
    command.arg("--dir").arg(dir).args(args);
    command.stdin(Stdio::null());
    command
}

/// A run of the example that has ended.
struct Run {
    status: ExitStatus,
    out: String,
    err: String,
}

fn run(dir: &Path, args: &[&str]) -> Run {
    let output = example(dir, args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run {
        status: output.status,
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

impl Run {
    fn has_line(&self, parts: &[&str]) -> bool {
        let mut lines = self.out.lines();
        lines.any(|line| parts.iter().all(|part| line.contains(part)))
    }

    #[track_caller]
    fn assert_line(&self, parts: &[&str]) {
        let (out, err) = (&self.out, &self.err);
        assert!(
            self.has_line(parts),
            "no line with {parts:?}:\n{out}\n{err}"
        );
    }

    #[track_caller]
    fn assert_code(&self, code: i32) {
        let (out, err) = (&self.out, &self.err);
        assert_eq!(self.status.code(), Some(code), "{out}\n{err}");
    }
}

/// A run of the example that goes on. Its errors are those of the test.
struct Running {
    example: Child,
    out: BufReader<ChildStdout>,
}

impl Running {
    /// Starts the example, and waits for a line with `part`.
    fn start(dir: &Path, part: &str) -> Running {
        let mut example = example(dir, &[]).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(example.stdout.take().unwrap());
        let mut running = Running { example, out };
        let mut line = String::new();
        while !line.contains(part) {
            line.clear();
            let read = running.out.read_line(&mut line).unwrap();
            assert!(read > 0, "the example ended without a line with {part:?}");
        }
        running
    }

    /// Sends a signal, and waits for the end.
    fn end_by(mut self, signal: &str) -> ExitStatus {
        let id = self.example.id().to_string();
        let kill = ["-c", "kill -s \"$0\" \"$1\"", signal, &id];
        let killed = Command::new("sh").args(kill).status().unwrap();
        assert!(killed.success());
        let mut rest = Vec::new();
        self.out.read_to_end(&mut rest).unwrap();
        self.example.wait().unwrap()
    }
}

/// If a test fails. The nodes of the cluster end with the example.
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.example.kill();
        let _ = self.example.wait();
    }
}

/// Processes that have `dir` in their arguments: the example, and its nodes.
fn processes(dir: &TempDir) -> Vec<PathBuf> {
    let name = dir.path().file_name().unwrap().as_encoded_bytes();
    let entries = fs::read_dir("/proc").unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|process| {
            let arguments = fs::read(process.join("cmdline")).unwrap_or_default();
            arguments.windows(name.len()).any(|window| window == name)
        })
        .collect()
}

fn is_empty(dir: &TempDir) -> bool {
    fs::read_dir(dir.path()).unwrap().next().is_none()
}

#[track_caller]
fn assert_nothing_left(dir: &TempDir) {
    assert_eq!(processes(dir), Vec::<PathBuf>::new());
    assert!(is_empty(dir), "there are files in {:?}", dir.path());
}

#[test]
fn answers_are_those_of_one_process_also_after_an_executor_is_killed() {
    let _one = one_at_a_time();
    let dir = disk_dir();
    let run = run(dir.path(), &["--queries", "1,6,12"]);
    run.assert_code(0);
    run.assert_line(&["query  1: equal, 4 rows"]);
    run.assert_line(&["query  6: equal, 1 row,"]);
    run.assert_line(&["query 12: equal, 2 rows"]);
    for executor in ["executor-1: ", "executor-2: "] {
        run.assert_line(&[executor, "ready"]);
        run.assert_line(&[executor, "direct reads", "requests in", "row groups ahead"]);
    }
    run.assert_line(&["executor-1: killed (signal: 9 (SIGKILL)) with a task of query 9"]);
    let survived = run.has_line(&["query  9: equal, ", "after the loss"]);
    let failed = run.has_line(&["query  9: failed ", "after the loss: "]);
    assert!(survived || failed, "{}", run.out);
    run.assert_line(&["query  1 on the executors that are left: equal"]);
    run.assert_line(&["executor-2: stopped"]);
    run.assert_line(&["scheduler: stopped"]);
    run.assert_line(&["all checks held"]);
    assert_nothing_left(&dir);
}

#[test]
fn local_executors_read_nothing_through_the_store_and_kept_data_is_used_again() {
    let _one = one_at_a_time();
    let (dir, data) = (disk_dir(), disk_dir());
    let keep = data.path().to_str().unwrap();
    let mut written = Vec::new();
    for _ in 0..2 {
        let mut args = vec!["--local", "--no-kill", "--executors", "1"];
        args.extend(["--queries", "6", "--scale", "0.001", "--keep-data", keep]);
        let run = run(dir.path(), &args);
        run.assert_code(0);
        run.assert_line(&["query  6: equal"]);
        run.assert_line(&[
            "executor-1: ",
            " 0 direct reads",
            " 0 reads from the page cache",
        ]);
        assert!(!run.has_line(&["killed"]), "{}", run.out);
        assert_nothing_left(&dir);
        let sets = fs::read_dir(data.path()).unwrap();
        let sets: Vec<_> = sets.map(|set| set.unwrap().metadata().unwrap()).collect();
        assert_eq!(sets.len(), 1);
        written.push(sets[0].modified().unwrap());
    }
    assert_eq!(written[0], written[1]);
}

#[test]
fn a_query_that_takes_too_long_ends_the_cluster_and_fails() {
    let _one = one_at_a_time();
    let dir = disk_dir();
    let args = ["--queries", "6", "--time-limit", "0", "--scale", "0.001"];
    let run = run(dir.path(), &args);
    run.assert_code(1);
    let error = "query 6: no answer within 0 s; raise --time-limit";
    assert!(run.err.contains(error), "{}", run.err);
    run.assert_line(&["executor-1: stopped"]);
    run.assert_line(&["executor-2: stopped"]);
    run.assert_line(&["scheduler: stopped"]);
    assert_nothing_left(&dir);
}

#[test]
fn an_interrupted_cluster_ends_its_processes_and_removes_its_files() {
    let _one = one_at_a_time();
    for signal in ["INT", "TERM"] {
        let dir = disk_dir();
        let running = Running::start(dir.path(), "query  1: ");
        assert_eq!(processes(&dir).len(), 4);
        assert_eq!(running.end_by(signal).code(), Some(130));
        assert_nothing_left(&dir);
    }
}

#[test]
fn the_processes_of_a_killed_cluster_end_and_its_files_are_removed() {
    let _one = one_at_a_time();
    let dir = disk_dir();
    let running = Running::start(dir.path(), "query  1: ");
    assert_eq!(processes(&dir).len(), 4);
    assert_eq!(running.end_by("KILL").code(), None);
    // Nobody waits for the nodes.
    let started = Instant::now();
    while !(processes(&dir).is_empty() && is_empty(&dir)) && started.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(50));
    }
    assert_nothing_left(&dir);
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let dir = disk_dir();
    for (args, hint) in [
        (["--queries", "23"], "1..=22"),
        (["--queries", "1,x"], "invalid digit"),
        (["--executors", "0"], "1..=64"),
        (["--scale", "0"], "a number above 0"),
    ] {
        let run = run(dir.path(), &args);
        run.assert_code(2);
        assert!(run.err.contains(hint), "{args:?}: {}", run.err);
    }
    let run = run(&dir.path().join("missing"), &[]);
    run.assert_code(1);
    assert!(run.err.contains("give another by --dir"), "{}", run.err);
    assert_nothing_left(&dir);
}
