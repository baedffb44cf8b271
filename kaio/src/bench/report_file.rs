//! [`ReportFile`]: the file that a report is written to.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use kaio_bench::temp_path::TempPath;

use crate::command_error::CommandError;
use crate::paths::{creation_forbidden, identity, parent};
use crate::stdio::{eprint_line, print};

/// The file that a report is written to.
pub(super) struct ReportFile {
    /// The path on the command line.
    path: PathBuf,
    to: ReportTarget,
}

enum ReportTarget {
    /// A file that is replaced when the report is complete.
    File {
        /// The path after following links.
        path: PathBuf,
        /// The temporary file next to it.
        partial: TempPath,
    },
    /// A pipe, a terminal or `/dev/null`: written to, and not replaced.
    Stream(File),
    /// The file of standard output: the report is appended to the output.
    Stdout,
}

impl ReportFile {
    /// Prepares a report at `to`, which must not be the file that is measured.
    ///
    /// # Errors
    ///
    /// The file can't be written.
    pub(super) fn open(to: &Path, measured: Option<&Path>) -> Result<ReportFile, CommandError> {
        let failed = |error: io::Error| match error.kind() {
            ErrorKind::NotFound if !parent(to).exists() => {
                let dir = parent(to).display();
                CommandError::of(
                    "write",
                    to,
                    format!("{dir} does not exist; create it with mkdir -p"),
                )
            }
            ErrorKind::NotFound => match creation_forbidden(parent(to)) {
                Some(why) => CommandError::of("write", to, format!("{why}; name another file")),
                None => CommandError::of("write", to, error),
            },
            _ => CommandError::of("write", to, error),
        };
        let found = match fs::metadata(to) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            found => Some(found.map_err(failed)?),
        };
        let measured = measured.and_then(|path| fs::metadata(path).ok());
        if let (Some(found), Some(measured)) = (&found, measured) {
            if identity(found) == identity(&measured) {
                let name = to.display();
                return Err(CommandError::Usage(format!(
                    "{name} is the file to measure on, and the report would replace it"
                )));
            }
        }
        let opened = match found {
            Some(found) if found.is_dir() => Err(ErrorKind::IsADirectory.into()),
            Some(found) if found.file_type().is_block_device() => {
                let what = "it is a block device, and the report would overwrite its content";
                return Err(CommandError::of("write", to, what));
            }
            Some(found) if is_stdout(&found) => Ok(ReportTarget::Stdout),
            Some(found) if found.is_file() => ReportTarget::replacing(to, &found),
            Some(_) => File::options()
                .write(true)
                .open(to)
                .map(ReportTarget::Stream),
            None => ReportTarget::new_file(to),
        };
        Ok(ReportFile {
            path: to.to_owned(),
            to: opened.map_err(failed)?,
        })
    }

    /// Whether both are the same file.
    pub(super) fn is(&self, other: &ReportFile) -> bool {
        match (&self.to, &other.to) {
            (ReportTarget::File { path: one, .. }, ReportTarget::File { path: other, .. }) => {
                one == other
            }
            _ => false,
        }
    }

    pub(super) fn write(self, text: &str) -> Result<(), CommandError> {
        let written = match self.to {
            ReportTarget::File { path, partial } => {
                fs::write(partial.path(), text).and_then(|()| partial.rename(&path))
            }
            ReportTarget::Stdout => print(text),
            ReportTarget::Stream(mut stream) => match stream.write_all(text.as_bytes()) {
                // Not an error, as on standard output.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
                written => written,
            },
        };
        written.map_err(|error| CommandError::of("write", &self.path, error))?;
        eprint_line(format_args!("wrote {}", self.path.display()));
        Ok(())
    }
}

impl ReportTarget {
    fn replacing(old: &Path, found: &Metadata) -> io::Result<ReportTarget> {
        // A file that the user may not write must not be replaced.
        File::options().write(true).open(old)?;
        let to = ReportTarget::next_to(old.canonicalize()?)?;
        if let ReportTarget::File { partial, .. } = &to {
            let mode = found.permissions().mode() & 0o777;
            fs::set_permissions(partial.path(), Permissions::from_mode(mode))?;
        }
        Ok(to)
    }

    fn new_file(path: &Path) -> io::Result<ReportTarget> {
        if path.is_symlink() {
            let what = "it is a symbolic link to a missing file";
            return Err(io::Error::new(ErrorKind::NotFound, what));
        }
        let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
        ReportTarget::next_to(parent(path).canonicalize()?.join(name))
    }

    fn next_to(path: PathBuf) -> io::Result<ReportTarget> {
        // The mode is that of a new file under the umask.
        let (partial, _) =
            TempPath::make_in(parent(&path), ".kaio-", |path| File::create_new(path))?;
        Ok(ReportTarget::File { path, partial })
    }
}

fn is_stdout(found: &Metadata) -> bool {
    let stdout = rustix::fs::fstat(io::stdout());
    stdout.is_ok_and(|stdout| (stdout.st_dev, stdout.st_ino) == identity(found))
}
