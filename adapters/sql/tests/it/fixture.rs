//! Runs the program in a directory of its own.

use std::fs::File;
use std::io::IoSliceMut;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use assert_cmd::Command as Run;
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tempfile::TempDir;

/// Creates a directory on the file system of the build.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The program in `dir`, with a home directory there and no settings in the environment.
pub(crate) fn kaio_sql(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kaio-sql"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DATAFUSION_")) {
        command.env_remove(name);
    }
    command.current_dir(dir).env("HOME", dir);
    command.env_remove("XDG_STATE_HOME").stdin(Stdio::null());
    command
}

/// Runs the program in `dir` with `args`.
pub(crate) fn run(dir: &Path, args: &[&str]) -> Output {
    kaio_sql(dir).args(args).output().unwrap()
}

/// Runs the program in `dir` with `args` and `input` as its standard input.
pub(crate) fn run_with_input(dir: &Path, args: &[&str], input: &str) -> Output {
    let mut run = Run::from_std(kaio_sql(dir));
    run.args(args).write_stdin(input).output().unwrap()
}

/// The exit code, standard output and standard error.
pub(crate) fn parts(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    (output.status.code(), out, err)
}

/// Returns standard output and standard error. The run must have succeeded.
#[track_caller]
pub(crate) fn succeeded(output: &Output) -> (String, String) {
    let (code, out, err) = parts(output);
    assert_eq!(code, Some(0), "{out}\n{err}");
    (out, err)
}

/// Returns standard error. The run must have failed with `code`.
#[track_caller]
pub(crate) fn failed(output: &Output, code: i32) -> String {
    let (actual, out, err) = parts(output);
    assert_eq!(actual, Some(code), "{out}\n{err}");
    err
}

/// The result of statements as CSV. They must succeed.
#[track_caller]
pub(crate) fn csv(dir: &Path, args: &[&str]) -> String {
    let mut command = kaio_sql(dir);
    command.args(["--quiet", "--format", "csv"]).args(args);
    succeeded(&command.output().unwrap()).0
}

/// Writes a Parquet file of about 3 MiB in several row groups, whose columns are `n` (0 to 199,999) and
/// `t`.
pub(crate) fn write_parquet(dir: &Path, name: &str) {
    let copy = format!(
        "copy (select value as n, md5(cast(value as text)) as t from generate_series(0, 199999)) \
         to '{name}' options ('format.max_row_group_size' '50000')"
    );
    succeeded(&run(dir, &[&copy]));
}

/// Whether a file can be opened for direct I/O. Says so, if it can't.
pub(crate) fn has_direct_io(path: &Path) -> bool {
    match rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECT, Mode::empty()) {
        Ok(_) => true,
        Err(error) => {
            eprintln!("skipped: no direct I/O for {}: {error}", path.display());
            false
        }
    }
}

/// Whether all of a file is in the page cache. Says that a test is skipped, and why, if not.
pub(crate) fn is_cached(path: &Path) -> bool {
    let file = File::open(path).unwrap();
    let mut memory = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    let memory = &mut [IoSliceMut::new(&mut memory)];
    let read = preadv2(&file, memory, 0, ReadWriteFlags::NOWAIT);
    let why = match read {
        Ok(read) if read == memory[0].len() => return true,
        Ok(_) | Err(Errno::AGAIN) => "the kernel has evicted a part of it",
        Err(Errno::OPNOTSUPP) => "the file system does not say what is cached",
        Err(error) => panic!("{}: {error}", path.display()),
    };
    eprintln!("skipped: {}: {why}", path.display());
    false
}

/// The line of a report that starts with `name`.
#[track_caller]
pub(crate) fn report_line<'a>(report: &'a str, name: &str) -> &'a str {
    let line = report.lines().find(|line| line.starts_with(name));
    line.unwrap_or_else(|| panic!("no {name} in {report}"))
}
