//! Tests of the program `kaio doctor`.
#![allow(unsafe_code)] // restricts the child process before it executes the program

#[allow(dead_code, unreachable_pub)]
#[path = "../../tokio-kaio/tests/common/limits.rs"]
mod limits;

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use assert_cmd::assert::OutputAssertExt;
use limits::{drop_root, forbid_syscall, is_root, set_limit};
use predicates::prelude::*;
use predicates::str::{contains, is_empty};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_kaio");

const CLASSES: [&str; 6] = [
    "read",
    "overwrite",
    "hole",
    "preallocated",
    "extending",
    "fdatasync",
];

fn doctor() -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("doctor");
    command
}

/// Creates a directory on the file system of the build.
fn on_disk() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Creates a directory that every user can access.
fn public_dir() -> TempDir {
    let dir = on_disk();
    allow(dir.path(), 0o777);
    dir
}

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The names of the backends on which reads were measured.
fn measured_backends(path: &Value) -> Vec<String> {
    let backends = path["backends"].as_array().unwrap().iter();
    let names = backends.map(|backend| backend["backend"].as_str().unwrap().to_owned());
    names.collect()
}

fn names(dir: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

/// Runs the command after calling `change` in its process. Returns `None`, and says that the test is
/// skipped, if `change` fails or the restricted process can't execute the program.
fn restricted(
    command: &mut Command,
    change: impl Fn() -> bool + Send + Sync + 'static,
) -> Option<Output> {
    let change = move || match change() {
        true => Ok(()),
        false => Err(io::Error::from(ErrorKind::Unsupported)),
    };
    // SAFETY: the functions of `limits` make system calls on memory of their own stack. On failure they
    // write to standard error, whose lock no other thread could have held at the fork.
    unsafe { command.pre_exec(change) };
    match command.output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("skipped: can't restrict a process: {error}");
            None
        }
    }
}

#[test]
fn the_limit_on_file_sizes_is_an_error_that_leaves_no_files() {
    let dir = on_disk();
    let mut command = doctor();
    command.arg(dir.path());
    let Some(output) = restricted(&mut command, || {
        set_limit(libc::RLIMIT_FSIZE, 1 << 19);
        true
    }) else {
        return;
    };
    let run = output.assert().code(1);
    run.stderr(contains("RLIMIT_FSIZE (ulimit -f)"));
    assert!(names(dir.path()).is_empty());
}

#[test]
fn the_machine_and_the_current_directory_are_reported() {
    let dir = on_disk();
    let run = doctor().current_dir(&dir).assert().success();
    let verdict = predicate::str::is_match("(?m)^  extending +(async|inline|blocks)").unwrap();
    let said = contains("io_setup works")
        .and(contains("fs.aio-nr"))
        .and(contains("RLIMIT_MEMLOCK"))
        .and(contains("io_uring"))
        .and(contains("file system"))
        .and(contains("alignment"))
        .and(contains("advice: "))
        .and(verdict);
    // Without a terminal there is no progress.
    run.stdout(said).stderr(is_empty());
}

#[test]
fn json_follows_the_schema_and_has_a_verdict_on_every_class() {
    let dir = on_disk();
    let run = doctor().arg("--json").arg(dir.path()).assert().success();
    let report = json(run.get_output());

    let text = String::from_utf8_lossy(&run.get_output().stdout);
    assert!(text.starts_with("{\n  \"schema\": 1,"), "{text}");
    assert_eq!(report["usable"], true);
    let machine = &report["machine"];
    assert_eq!(machine["io_setup"]["works"], true);
    for number in ["cores", "memory", "aio_nr", "aio_max_nr"] {
        assert!(machine[number].is_u64(), "{number}: {machine}");
    }
    for field in [
        "kernel",
        "cpu",
        "user_space_ring",
        "memlock",
        "io_uring",
        "backend",
    ] {
        assert!(!machine[field].is_null(), "{field}: {machine}");
    }

    let [path] = &report["paths"].as_array().unwrap()[..] else {
        panic!("{report}");
    };
    assert_eq!(path["path"], dir.path().to_str().unwrap());
    assert_eq!(path["kind"], "directory");
    assert_eq!(path["measured_on"], "scratch");
    assert_eq!(path["direct"], true);
    assert!(path["error"].is_null() && path["file_system"].is_string());
    let block = path["block"].as_u64().unwrap();
    assert_eq!(block % path["alignment"]["offset"].as_u64().unwrap(), 0);
    let classes = path["classes"].as_array().unwrap();
    let measured: Vec<_> = classes.iter().map(|class| &class["class"]).collect();
    assert_eq!(measured, CLASSES);
    for class in classes {
        let verdict = class["verdict"].as_str().unwrap();
        assert!(["async", "inline", "blocks"].contains(&verdict), "{class}");
        let share = class["share_inside"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&share), "{class}");
        assert_eq!(class["nowait"].is_null(), class["class"] == "fdatasync");
    }
    let chosen = machine["backend"]["chosen"].as_str().unwrap();
    let measured = measured_backends(path);
    assert_eq!(measured[0], chosen, "the first that is available");
    assert_eq!(measured.last().unwrap(), "thread_pool");
    for backend in path["backends"].as_array().unwrap() {
        for number in ["reads_per_second", "cpu_us"] {
            assert!(backend[number].as_f64().unwrap() > 0.0, "{backend}");
        }
    }
    for advice in path["advice"].as_array().unwrap() {
        assert!(advice["about"].is_string() && advice["text"].is_string());
    }
}

#[test]
fn no_files_are_left_in_the_directory() {
    let dir = on_disk();
    fs::write(dir.path().join("there"), "before").unwrap();
    doctor().arg(dir.path()).assert().success();
    assert_eq!(names(dir.path()), ["there"]);
}

#[test]
fn a_missing_path_is_an_error_and_the_other_paths_are_reported() {
    let dir = on_disk();
    let missing = dir.path().join("missing");
    let paths = [missing.as_path(), dir.path()];
    let run = doctor().arg("--json").args(paths).assert().code(1);
    let run = run.stderr(contains("error: can't examine").and(contains("missing")));
    let report = json(run.get_output());
    assert_eq!(report["usable"], false);
    let [first, second] = &report["paths"].as_array().unwrap()[..] else {
        panic!("{report}");
    };
    assert!(first["error"].as_str().unwrap().contains("missing"));
    assert!(first["usable"] == false && first["kind"].is_null());
    assert_eq!(second["usable"], true);
    assert_eq!(second["classes"].as_array().unwrap().len(), CLASSES.len());
}

#[test]
fn wrong_usage_has_exit_code_2() {
    let run = doctor().arg("--no-such-option").assert().code(2);
    run.stdout(is_empty()).stderr(contains("--no-such-option"));
}

#[test]
fn help_has_examples() {
    let run = doctor().arg("--help").assert().success();
    run.stdout(contains("Examples:").and(contains("Exit codes:")));
}

/// Interrupts the program while it has files in `dir`. `None`: it has ended before.
fn interrupted(dir: &Path) -> Option<Output> {
    // The program would inherit an ignored signal.
    let mut child = Command::new("env")
        .args(["--default-signal=INT", PROGRAM, "doctor"])
        .arg(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while names(dir).is_empty() {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        thread::yield_now();
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    (!output.status.success()).then_some(output)
}

#[test]
fn an_interrupt_leaves_no_files_and_has_exit_code_130() {
    let dir = on_disk();
    // Its files exist for a few milliseconds.
    let output = (0..100).find_map(|_| {
        let output = interrupted(dir.path());
        assert!(names(dir.path()).is_empty());
        output
    });
    let run = output.expect("it always ends first").assert().code(130);
    run.stderr(contains("interrupted").and(contains("error:").not()));
}

#[test]
fn a_closed_standard_output_is_not_an_error() {
    let dir = on_disk();
    for json in [&["--json"][..], &[]] {
        let mut child = doctor()
            .args(json)
            .arg(dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let run = child.wait_with_output().unwrap().assert();
        run.success().stderr(is_empty());
    }
}

#[test]
fn a_file_is_measured_on_a_scratch_file_next_to_it() {
    let dir = on_disk();
    let path = dir.path().join("table");
    fs::write(&path, [7; 10_000]).unwrap();
    let modified = || fs::metadata(&path).unwrap().modified().unwrap();
    let before = modified();
    let run = doctor().arg("--json").arg(&path).assert().success();
    let report = &json(run.get_output())["paths"][0];
    assert_eq!(report["kind"], "file");
    assert_eq!(report["measured_on"], "scratch");
    assert_eq!(report["classes"].as_array().unwrap().len(), CLASSES.len());
    assert_eq!(modified(), before);
    assert_eq!(fs::read(&path).unwrap(), [7; 10_000]);
    assert_eq!(names(dir.path()), ["table"]);
}

#[test]
fn if_io_setup_is_forbidden_there_is_advice() {
    let dir = on_disk();
    for (errno, advice) in [
        (libc::EPERM, "A seccomp filter forbids io_setup"),
        (libc::ENOSYS, "A seccomp filter forbids io_setup"),
        (libc::EAGAIN, "sysctl fs.aio-max-nr="),
    ] {
        let forbidden = move || forbid_syscall(libc::SYS_io_setup, errno);
        let Some(output) = restricted(doctor().arg(dir.path()), forbidden) else {
            return;
        };
        // The rest of the report is complete.
        let run = output.assert().code(1);
        run.stdout(contains(advice).and(contains("alignment")));
        assert!(names(dir.path()).is_empty());
    }
}

#[test]
fn if_io_uring_is_forbidden_aio_is_usable() {
    let dir = on_disk();
    let forbidden = || forbid_syscall(libc::SYS_io_uring_setup, libc::EPERM);
    let Some(output) = restricted(doctor().arg("--json").arg(dir.path()), forbidden) else {
        return;
    };
    let run = output.assert().success();
    let machine = &json(run.get_output())["machine"];
    assert_eq!(machine["seccomp"], "filter");
    assert_eq!(machine["io_uring"]["works"], false);
    assert_eq!(machine["io_uring"]["errno"], libc::EPERM);
    let backend = &machine["backend"];
    assert_eq!(backend["chosen"], "kernel_aio");
    let refused = &backend["refused"][0];
    assert_eq!(refused["backend"], "io_uring");
    assert_eq!(refused["errno"], libc::EPERM);
    assert!(
        refused["error"]
            .as_str()
            .unwrap()
            .contains("seccomp filter")
    );
    let path = &json(run.get_output())["paths"][0];
    assert_eq!(measured_backends(path), ["kernel_aio", "thread_pool"]);
}

#[test]
fn if_io_uring_and_aio_are_forbidden_both_reasons_are_reported_and_threads_are_measured() {
    let dir = on_disk();
    let forbidden = || {
        forbid_syscall(libc::SYS_io_uring_setup, libc::ENOSYS)
            && forbid_syscall(libc::SYS_io_setup, libc::EPERM)
    };
    let Some(output) = restricted(doctor().arg("--json").arg(dir.path()), forbidden) else {
        return;
    };
    let run = output.assert().code(1);
    let report = json(run.get_output());
    let backend = &report["machine"]["backend"];
    assert_eq!(backend["chosen"], "thread_pool");
    let errors: Vec<_> = (0..2).map(|i| &backend["refused"][i]["errno"]).collect();
    assert_eq!(errors, [libc::ENOSYS, libc::EPERM]);
    assert_eq!(measured_backends(&report["paths"][0]), ["thread_pool"]);
    assert!(names(dir.path()).is_empty());

    let Some(output) = restricted(doctor().arg(dir.path()), forbidden) else {
        return;
    };
    let run = output.assert().code(1);
    let said =
        "the thread pool, the first that is available of io_uring, kernel AIO and the thread pool";
    let text = String::from_utf8_lossy(&run.get_output().stdout).into_owned();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains(said), "{text}");
    assert!(text.contains("8 reads at a time"), "{text}");
}

#[test]
fn a_small_limit_on_locked_memory_is_reported_and_not_an_error() {
    let dir = public_dir();
    let output = restricted(doctor().arg(dir.path()), || {
        set_limit(libc::RLIMIT_MEMLOCK, 65536);
        drop_root()
    });
    if let Some(output) = output {
        let run = output.assert().success();
        run.stdout(contains("16 LockedBufs of 4 KiB"));
    }
}

#[test]
fn if_the_directory_is_not_writable_reads_of_a_file_are_measured() {
    let dir = on_disk();
    let path = dir.path().join("table");
    fs::write(&path, vec![7; 1 << 20]).unwrap();
    allow(dir.path(), 0o555);
    let paths = [&path, dir.path()];
    let output = restricted(doctor().arg("--json").args(paths), drop_root);
    allow(dir.path(), 0o755);
    let Some(output) = output else { return };

    let run = output.assert().code(1);
    let run = run.stderr(contains("can't create a scratch directory in"));
    let report = json(run.get_output());
    let (file, directory) = (&report["paths"][0], &report["paths"][1]);
    assert_eq!(file["usable"], true);
    assert_eq!(file["measured_on"], "itself");
    assert!(file["only_reads"].is_string());
    let classes = file["classes"].as_array().unwrap();
    assert_eq!(classes.len(), 1);
    assert_eq!(classes[0]["class"], "read");
    let error = directory["error"].as_str().unwrap();
    assert!(error.contains("you may write to"), "{error}");
}

#[test]
fn a_file_without_read_permission_is_an_error() {
    let dir = public_dir();
    let path = dir.path().join("secret");
    fs::write(&path, "secret").unwrap();
    allow(&path, 0);
    if let Some(output) = restricted(doctor().arg(&path), drop_root) {
        let run = output.assert().code(1);
        run.stderr(contains("can't open").and(contains("you need read permission")));
    }
}

#[test]
fn procfs_has_no_aio_and_the_error_says_why() {
    let run = doctor().args(["/proc", "/proc/version"]).assert().code(1);
    run.stderr(
        contains("can't create a scratch directory in /proc: proc is a file system of the kernel")
            .and(contains("not usable").and(contains("No such file").not())),
    )
    .stdout(contains("direct I/O is not supported").and(contains("aio_open_or_buffered")));
}

#[test]
fn a_file_that_is_a_mount_point_is_measured_itself() {
    let dir = on_disk();
    fs::write(dir.path().join("table"), "").unwrap();
    // A file on tmpfs, whose directory is on another file system.
    let mount = "mount -t tmpfs tmpfs /mnt && head -c 65536 /dev/zero >/mnt/table && \
                 mount --bind /mnt/table \"$1/table\"";
    let Some(output) = mounted(dir.path(), mount, "table") else {
        return;
    };
    let path = &json(&output)["paths"][0];
    assert_eq!(path["file_system"], "tmpfs");
    if path["direct"] == false {
        eprintln!("skipped: tmpfs has no direct I/O before Linux 6.6");
        return;
    }
    assert_eq!(path["measured_on"], "itself");
    let why = path["only_reads"].as_str().unwrap();
    assert!(why.contains("another file system"), "{why}");
}

#[test]
fn a_fifo_is_refused_without_waiting_for_its_writer() {
    let dir = on_disk();
    let pipe = dir.path().join("pipe");
    Command::new("mkfifo").arg(&pipe).assert().success();
    let run = doctor().arg(&pipe).assert().code(1);
    run.stderr(contains(
        "not a directory, a regular file or a block device",
    ));
}

/// Runs doctor on `name` in `dir`, in a new mount namespace, after the shell command `mount`, in which `$1`
/// is the directory. Returns `None`, and says that the test is skipped, if this process may not mount.
fn mounted(dir: &Path, mount: &str, name: &str) -> Option<Output> {
    if !is_root() {
        eprintln!("skipped: mounting a file system requires root");
        return None;
    }
    let script = format!("({mount}) >&2 || exit 77; exec \"$0\" doctor --json \"$1/$2\"");
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .arg(PROGRAM)
        .arg(dir)
        .arg(name)
        .output();
    match output {
        Ok(output) if !output.stdout.is_empty() => Some(output),
        other => {
            eprintln!("skipped: can't mount a file system here: {other:?}");
            None
        }
    }
}

#[test]
fn a_file_system_without_direct_io_is_reported() {
    let dir = on_disk();
    let Some(output) = mounted(dir.path(), "mount -t ramfs ramfs \"$1\"", ".") else {
        return;
    };
    let run = output.assert().code(1);
    let path = &json(run.get_output())["paths"][0];
    assert_eq!(path["file_system"], "ramfs");
    assert!(path["direct"] == false && path["usable"] == false);
    let advice = path["advice"].to_string();
    assert!(advice.contains("aio_open_or_buffered"), "{advice}");
}

#[test]
fn a_read_only_file_system_is_reported() {
    let dir = on_disk();
    let mount = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\"";
    if let Some(output) = mounted(dir.path(), mount, ".") {
        let run = output.assert().code(1);
        run.stderr(contains("the file system is read-only"));
    }
}

#[test]
fn a_full_file_system_is_reported() {
    let dir = on_disk();
    // Large enough for the probe, but not for the measurements.
    let mount = "mount -t tmpfs -o size=256k tmpfs \"$1\"";
    if let Some(output) = mounted(dir.path(), mount, ".") {
        if json(&output)["paths"][0]["direct"] == false {
            eprintln!("skipped: tmpfs has no direct I/O before Linux 6.6");
            return;
        }
        let run = output.assert().code(1);
        run.stderr(contains("error: can't").and(contains("the file system has no free blocks")));
    }
}

/// A loop device, which is detached when this is dropped.
struct Loop(PathBuf);

impl Loop {
    fn new(image: &Path) -> Option<Loop> {
        let attach = ["--find", "--show"];
        let output = Command::new("losetup").args(attach).arg(image).output();
        match output {
            Ok(output) if output.status.success() => {
                let path = String::from_utf8(output.stdout).unwrap();
                Some(Loop(path.trim().into()))
            }
            other => {
                eprintln!("skipped: no loop device is available: {other:?}");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let mut detach = Command::new("losetup");
        let detached = detach.arg("--detach").arg(&self.0).status();
        assert!(detached.is_ok_and(|status| status.success()) || thread::panicking());
    }
}

#[test]
fn a_block_device_is_only_read() {
    let dir = on_disk();
    let image = dir.path().join("image");
    let bytes: Vec<_> = (0..1_u32 << 20).flat_map(u32::to_ne_bytes).collect();
    fs::write(&image, &bytes).unwrap();
    let Some(device) = Loop::new(&image) else {
        return;
    };
    let run = doctor().arg("--json").arg(&device.0).assert().success();
    let path = &json(run.get_output())["paths"][0];
    assert_eq!(path["kind"], "block_device");
    assert_eq!(path["device"]["size"], bytes.len());
    assert_eq!(path["measured_on"], "itself");
    assert_eq!(path["classes"].as_array().unwrap().len(), 1);
    let why = path["only_reads"].as_str().unwrap();
    assert!(why.contains("block device"), "{why}");
    drop(device);
    assert!(fs::read(&image).unwrap() == bytes, "the device has changed");
}
