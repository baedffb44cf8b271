//! [`PipeStep`]: pipes as source or target, such as `-` for standard input and output.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::copy_error::CopyError;
use super::copy_plan::{canonical_dir, is_dir};
use super::cp_args::{CpArgs, ReflinkMode};
use super::destination::Destination;
use super::inode_flags;
use crate::command_error::CommandError;
use crate::paths::{length, parent};

/// A copy from or to a pipe, a terminal or a socket. It is the only step of its run.
#[derive(Debug)]
pub(super) enum PipeStep {
    From {
        source: PathBuf,
        destination: Destination,
    },
    To {
        source: PathBuf,
        target: PathBuf,
    },
}

impl PipeStep {
    /// Returns the step for a command line that names a pipe.
    ///
    /// # Errors
    ///
    /// The copy can't succeed.
    pub(super) fn of(args: &CpArgs) -> Result<Option<PipeStep>, CopyError> {
        let is_target = is_pipe(&args.target);
        let Some(pipe) = args.sources.iter().find(|source| is_pipe(source)) else {
            return match (is_target, &*args.sources) {
                (false, _) => Ok(None),
                (true, [source]) if !is_dir(source) => Ok(Some(PipeStep::To {
                    source: source.clone(),
                    target: args.target.clone(),
                })),
                (true, [_]) => Err(CopyError::new(format!(
                    "{} is a directory, which can't be copied to a pipe; use tar",
                    args.sources[0].display()
                ))),
                (true, _) => Err(CopyError::new(format!(
                    "several sources can't be copied to {}, which is not a directory; use cat",
                    args.target.display()
                ))),
            };
        };
        let (pipe_name, target) = (pipe.display(), args.target.display());
        if is_target {
            return Err(CopyError::new(format!(
                "{pipe_name} and {target} are both pipes; use cat"
            )));
        }
        if args.sources.len() > 1 {
            return Err(CopyError::new(format!(
                "{pipe_name} is a pipe, which is copied alone; copy the other files separately"
            )));
        }
        if is_dir(&args.target) || args.target.as_os_str().as_bytes().ends_with(b"/") {
            return Err(CopyError::new(format!(
                "{pipe_name} has no file name for the directory {target}; name the copy, too"
            )));
        }
        PipeStep::from(args, pipe).map(Some)
    }

    fn from(args: &CpArgs, pipe: &Path) -> Result<PipeStep, CopyError> {
        let target = &args.target;
        canonical_dir(target)?;
        let opened = open_source(pipe).and_then(|file| file.metadata());
        let metadata = opened.map_err(|error| CopyError::of("open", pipe, &error))?;
        let destination = Destination::of(args, pipe, &metadata, target, false)?;
        if destination.is_file() {
            let path = destination.path();
            inode_flags::refuse_protected_dir(path, parent(path))?;
        }
        Ok(PipeStep::From {
            source: pipe.into(),
            destination,
        })
    }

    /// Bytes to copy. `None`: the number is not known.
    pub(super) fn length(&self) -> Option<u64> {
        match self {
            PipeStep::From { .. } => None,
            PipeStep::To { source, .. } => length(source).ok(),
        }
    }

    /// Refuses options that a copy from or to a pipe can't obey.
    pub(super) fn check_usage(args: &CpArgs) -> Result<(), CommandError> {
        let is_target = is_pipe(&args.target);
        if !is_target && !args.sources.iter().any(|source| is_pipe(source)) {
            return Ok(());
        }
        let refused = [
            (
                args.preserve,
                "--preserve",
                "a pipe has no mode, owner or times",
            ),
            (
                args.reflink_mode() == ReflinkMode::Always,
                "--reflink always",
                "a pipe has no blocks to share",
            ),
            (
                is_target && args.verify,
                "--verify",
                "a pipe can't be read back",
            ),
            (
                is_target && args.json,
                "--json",
                "standard output is the copy",
            ),
        ];
        match refused.iter().find(|(is_given, _, _)| *is_given) {
            None => Ok(()),
            Some((_, option, why)) => Err(CommandError::Usage(format!(
                "{option} can't be used with a pipe: {why}; omit it"
            ))),
        }
    }
}

/// Whether `path` is `-`, or an open descriptor of this process that is neither a file nor a directory, as
/// `/dev/stdin` can be.
fn is_pipe(path: &Path) -> bool {
    if path == Path::new("-") {
        return true;
    }
    let is_descriptor = ["/dev/stdin", "/dev/stdout", "/dev/stderr"]
        .iter()
        .any(|name| path == Path::new(name))
        || ["/dev/fd", "/proc/self/fd"]
            .iter()
            .any(|dir| path.parent() == Some(Path::new(dir)));
    is_descriptor
        && fs::metadata(path).is_ok_and(|metadata| {
            let kind = metadata.file_type();
            kind.is_fifo() || kind.is_char_device() || kind.is_socket()
        })
}

/// Whether `path` is the descriptor `number`, which `names` name.
fn is_descriptor(path: &Path, names: [&str; 4]) -> bool {
    names.iter().any(|name| path == Path::new(name))
}

/// Opens a pipe to read from it.
pub(super) fn open_source(path: &Path) -> io::Result<File> {
    // Duplicated where that is possible: sockets can't be opened by a path.
    const STDIN: [&str; 4] = ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"];
    match is_descriptor(path, STDIN) {
        true => Ok(io::stdin().as_fd().try_clone_to_owned()?.into()),
        false => File::open(path),
    }
}

/// Opens a pipe to write to it.
pub(super) fn open_target(path: &Path) -> io::Result<File> {
    const STDOUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];
    match is_descriptor(path, STDOUT) {
        true => Ok(io::stdout().as_fd().try_clone_to_owned()?.into()),
        false => File::options().write(true).open(path),
    }
}

/// Writes all bytes. Returns `false` if the reader has closed the pipe, as `head` does.
pub(super) fn write_to_pipe(mut pipe: &File, bytes: &[u8]) -> io::Result<bool> {
    match pipe.write_all(bytes) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true),
    }
}
