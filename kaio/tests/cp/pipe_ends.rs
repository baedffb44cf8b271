//! Pipes as source and target.

use std::fs::{self, File};
use std::io::Write;
use std::process::{Output, Stdio};
use std::thread;

use crate::cp_fixture::{Dir, allocated, bytes, mode, text};
use crate::mounted_file_systems::Mounted;

const LONG: usize = (5 << 20) + 77;

/// Runs `kaio cp` with `input` on its standard input, a pipe.
fn cp_from(dir: &Dir, args: &[&str], input: Vec<u8>) -> Output {
    let mut command = std::process::Command::new(crate::cp_fixture::kaio());
    command.arg("cp").args(args).current_dir(dir.path());
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    // Fails if the program ends without reading.
    let writer = thread::spawn(move || _ = pipe.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

#[track_caller]
fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn standard_input_is_copied_to_a_file() {
    let dir = Dir::new();
    for length in [0, 1, 4096, 1 << 20, LONG] {
        let input = bytes(length);
        for source in ["-", "/dev/stdin", "/dev/fd/0"] {
            succeeded(&cp_from(&dir, &["--verify", source, "copy"], input.clone()));
            assert!(dir.read("copy") == input, "{length} {source}");
        }
    }
    assert_eq!(dir.names(), ["copy"]);
    // The space that was allocated ahead is released.
    assert!(allocated(dir.join("copy")) < 6 << 20);
}

#[test]
fn a_copy_of_a_pipe_has_the_usual_mode_and_a_replaced_file_keeps_its_own() {
    let dir = Dir::new();
    let run = |target: &str| {
        let script = format!("umask 027; printf x | \"$0\" cp -q - {target}");
        let mut shell = std::process::Command::new("sh");
        let shell = shell.args(["-c", &script]).arg(crate::cp_fixture::kaio());
        assert!(shell.current_dir(dir.path()).status().unwrap().success());
    };
    run("new");
    assert_eq!(mode(dir.join("new")), 0o640);
    let old = dir.file("old", "old content");
    fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o604)).unwrap();
    run("old");
    assert_eq!((mode(old), dir.read("old")), (0o604, b"x".to_vec()));
}

#[test]
fn blocks_of_zeroes_from_a_pipe_become_holes_on_request() {
    let dir = Dir::new();
    let mut input = vec![0; 4 << 20];
    input[3 << 20] = 1;
    succeeded(&cp_from(
        &dir,
        &["--sparse", "always", "-", "copy"],
        input.clone(),
    ));
    assert!(dir.read("copy") == input);
    assert!(allocated(dir.join("copy")) < 1 << 20);
}

#[test]
fn a_file_is_copied_to_standard_output() {
    let dir = Dir::new();
    for length in [0, 1, 4096, LONG] {
        let source = bytes(length);
        dir.file("source", &source);
        for target in ["-", "/dev/stdout", "/dev/fd/1"] {
            let output = dir.cp(&["-q", "source", target]);
            succeeded(&output);
            assert!(output.stdout == source, "{length} {target}");
        }
    }
    let output = dir.cp(&["-q", "/proc/version", "-"]);
    assert_eq!(output.stdout, fs::read("/proc/version").unwrap());
    assert_eq!(dir.names(), ["source"]);
}

#[test]
fn holes_are_written_to_a_pipe_as_zeroes() {
    let dir = Dir::new();
    let source = dir.file("source", bytes(100_000));
    let file = File::options().write(true).open(source).unwrap();
    file.set_len(3 << 20).unwrap();
    let output = dir.cp(&["-q", "source", "-"]);
    succeeded(&output);
    assert!(output.stdout == dir.read("source"));
}

#[test]
fn a_reader_that_closes_the_pipe_ends_the_copy_without_an_error() {
    let dir = Dir::new();
    dir.file("source", bytes(LONG));
    let script = "\"$0\" cp source - | head -c 1000 > part; exit ${PIPESTATUS[0]}";
    let mut bash = std::process::Command::new("bash");
    bash.args(["-c", script]).arg(crate::cp_fixture::kaio());
    let output = bash.current_dir(dir.path()).output().unwrap();
    succeeded(&output);
    assert!(text(&output.stderr).contains("closed it after"));
    assert!(dir.read("part") == bytes(LONG)[..1000]);
}

#[test]
fn a_signal_while_the_pipe_is_read_leaves_the_old_target() {
    let dir = Dir::new();
    dir.file("copy", "old content");
    let mut command = std::process::Command::new("env");
    command
        .arg("--default-signal=INT")
        .arg(crate::cp_fixture::kaio());
    command.args(["cp", "-", "copy"]).current_dir(dir.path());
    let command = command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // `wait` would close the pipe, and the copy could end before it handles the signal.
    let pipe = child.stdin.take();
    while dir.names().len() == 1 {
        assert!(child.try_wait().unwrap().is_none());
        thread::sleep(std::time::Duration::from_millis(1));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(pipe);
    assert_eq!(
        (dir.names(), dir.read("copy")),
        (vec!["copy".into()], b"old content".to_vec())
    );
}

#[test]
fn a_failed_write_ends_the_copy_although_the_pipe_stays_open() {
    let dir = Dir::new();
    let Some(_mounted) = Mounted::new(&dir, "tmpfs", "size=2M") else {
        return;
    };
    let mut command = std::process::Command::new(crate::cp_fixture::kaio());
    command
        .args(["cp", "-", "mounted/copy"])
        .current_dir(dir.path());
    let command = command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let written = pipe.write_all(&bytes(LONG));
    // Not closed: the program must not wait for the end of the pipe.
    let output = child.wait_with_output().unwrap();
    drop(pipe);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said} {written:?}");
    assert!(
        said.contains("mounted/copy") && said.contains("free some space"),
        "{said}"
    );
    assert_eq!(crate::cp_fixture::names(&dir.join("mounted")), [""; 0]);
}

#[test]
fn what_a_pipe_has_not_is_refused() {
    let dir = Dir::new();
    dir.file("a", "a");
    dir.dir("into");
    dir.refuses(&["-", "into"], &["no file name", "name the copy"]);
    dir.refuses(&["-", "new/"], &["no file name"]);
    dir.refuses(&["-", "a", "into"], &["copied alone"]);
    dir.refuses(&["-", "-"], &["use cat"]);
    dir.refuses(&["-", "no/such/b"], &["mkdir -p"]);
    dir.refuses(&["a", "a", "-"], &["not a directory", "use cat"]);
    dir.refuses(&["-r", "into", "-"], &["into is a directory", "use tar"]);
    dir.refuses(&["nothing", "-"], &["nothing: No such file"]);
    for args in [
        &["-p", "-", "b"][..],
        &["--reflink", "always", "-", "b"],
        &["--verify", "a", "-"],
        &["--json", "a", "-"],
        &["-p", "a", "-"],
    ] {
        let output = dir.cp(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(
            text(&output.stderr).contains("can't be used with a pipe"),
            "{args:?}"
        );
    }
    assert_eq!(dir.names(), ["a", "into"]);
}

#[test]
fn a_file_with_the_name_of_a_dash_is_copied_by_its_path() {
    let dir = Dir::new();
    dir.file("-", "dash");
    dir.copies(&["./-", "copy"]);
    assert_eq!(dir.read("copy"), b"dash");
}
