//! [`Destination`]: a file that a report goes to.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kaio_bench::leftovers::Leftover;

use crate::failure::Failure;
use crate::output::tell;

/// A file that is written whole, at the end. Until then it is what it was.
pub(super) struct Destination {
    to: PathBuf,
    /// Beside it.
    partial: Leftover,
}

impl Destination {
    /// # Errors
    ///
    /// Where it could not be written.
    pub(super) fn open(to: &Path) -> Result<Destination, Failure> {
        let failed = |error: io::Error| Failure::of("write", to, error);
        if to.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        let dir = match to.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let make = || {
            let mut name = tempfile::Builder::new();
            name.prefix(".kaio-").permissions(ordinary());
            let (_, path) = name.tempfile_in(dir)?.keep()?;
            Ok((path, ()))
        };
        let (partial, ()) = Leftover::new(make).map_err(failed)?;
        let to = to.to_owned();
        Ok(Destination { to, partial })
    }

    pub(super) fn write(self, text: &str) -> Result<(), Failure> {
        let Destination { to, partial } = self;
        let written = fs::write(partial.path(), text).and_then(|()| partial.rename(&to));
        written.map_err(|error| Failure::of("write", &to, error))?;
        tell(format_args!("written: {}", to.display()));
        Ok(())
    }
}

/// As a new file mostly has them, less what the umask takes.
fn ordinary() -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    fs::Permissions::from_mode(0o666)
}
