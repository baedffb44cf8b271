//! [`Destination`]: a file that a report goes to.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use kaio_bench::temp_path::TempPath;

use crate::failure::Failure;
use crate::output::{print, tell};
use crate::paths::{identity, parent};

/// Where a report goes.
pub(super) struct Destination {
    /// As it was asked for.
    asked: PathBuf,
    to: To,
}

enum To {
    /// A file that is written whole, at the end. Until then it is what it was.
    File {
        /// Where links lead.
        path: PathBuf,
        /// Beside it.
        partial: TempPath,
    },
    /// A pipe, a terminal, `/dev/null`: to be written to, not to be replaced.
    Stream(File),
    /// The file that standard output goes to: below what is there by then.
    Stdout,
}

impl Destination {
    /// A report at `to`, which is not to be what is measured on.
    ///
    /// # Errors
    ///
    /// Where it could not be written.
    pub(super) fn open(to: &Path, measured: Option<&Path>) -> Result<Destination, Failure> {
        let failed = |error: io::Error| match error.kind() {
            ErrorKind::NotFound if !parent(to).exists() => {
                let dir = parent(to).display();
                Failure::of("write", to, format!("{dir} is not there; mkdir -p it"))
            }
            _ => Failure::of("write", to, error),
        };
        let found = match fs::metadata(to) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            found => Some(found.map_err(failed)?),
        };
        let measured = measured.and_then(|path| fs::metadata(path).ok());
        if let (Some(found), Some(measured)) = (&found, measured) {
            if identity(found) == identity(&measured) {
                let name = to.display();
                return Err(Failure::Usage(format!(
                    "{name} is what is measured on: a report in its place would destroy it"
                )));
            }
        }
        let opened = match found {
            Some(found) if found.is_dir() => Err(ErrorKind::IsADirectory.into()),
            Some(found) if found.file_type().is_block_device() => {
                let what = "it is a block device, whose content would be lost";
                return Err(Failure::of("write", to, what));
            }
            Some(found) if is_stdout(&found) => Ok(To::Stdout),
            Some(found) if found.is_file() => To::in_place_of(to, &found),
            Some(_) => File::options().write(true).open(to).map(To::Stream),
            None => To::new_file(to),
        };
        Ok(Destination {
            asked: to.to_owned(),
            to: opened.map_err(failed)?,
        })
    }

    /// Whether both would be the same file.
    pub(super) fn is(&self, other: &Destination) -> bool {
        match (&self.to, &other.to) {
            (To::File { path: one, .. }, To::File { path: other, .. }) => one == other,
            _ => false,
        }
    }

    pub(super) fn write(self, text: &str) -> Result<(), Failure> {
        let written = match self.to {
            To::File { path, partial } => {
                fs::write(partial.path(), text).and_then(|()| partial.rename(&path))
            }
            To::Stdout => print(text),
            To::Stream(mut stream) => match stream.write_all(text.as_bytes()) {
                // As on standard output.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
                written => written,
            },
        };
        written.map_err(|error| Failure::of("write", &self.asked, error))?;
        tell(format_args!("written: {}", self.asked.display()));
        Ok(())
    }
}

impl To {
    fn in_place_of(old: &Path, found: &Metadata) -> io::Result<To> {
        // A file that may not be written is not to be replaced, either.
        File::options().write(true).open(old)?;
        let to = To::beside(old.canonicalize()?)?;
        if let To::File { partial, .. } = &to {
            let mode = found.permissions().mode() & 0o777;
            fs::set_permissions(partial.path(), Permissions::from_mode(mode))?;
        }
        Ok(to)
    }

    fn new_file(path: &Path) -> io::Result<To> {
        if path.is_symlink() {
            let what = "it is a symbolic link that leads to nothing";
            return Err(io::Error::new(ErrorKind::NotFound, what));
        }
        let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
        To::beside(parent(path).canonicalize()?.join(name))
    }

    fn beside(path: PathBuf) -> io::Result<To> {
        // The mode is that of a new file, less what the umask takes.
        let (partial, _) =
            TempPath::make_in(parent(&path), ".kaio-", |path| File::create_new(path))?;
        Ok(To::File { path, partial })
    }
}

fn is_stdout(found: &Metadata) -> bool {
    let stdout = rustix::fs::fstat(io::stdout());
    stdout.is_ok_and(|stdout| (stdout.st_dev, stdout.st_ino) == identity(found))
}
