//! Calls on the names of files: [`rename`], [`remove_file`], [`create_dir`] and others. They exist beside those
//! of tokio because they work on the paths of a simulated disk, too.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::dispatch::run_on_path;
#[cfg(feature = "simulation")]
use crate::simulation::SimulatedPath;

/// Defines a call on one path, and its twin.
macro_rules! path_call {
    (
        $(#[$doc:meta])* async $name:ident;
        $(#[$blocking_doc:meta])* blocking $blocking:ident;
        $what:literal, $real:path, $simulated:ident -> $result:ty
    ) => {
        $(#[$doc])*
        pub async fn $name(path: impl AsRef<Path>) -> io::Result<$result> {
            let path = path.as_ref().to_path_buf();
            run_on_path(path, |path| $blocking(path)).await
        }

        $(#[$blocking_doc])*
        pub fn $blocking(path: impl AsRef<Path>) -> io::Result<$result> {
            let path = path.as_ref();
            on_path(path, $what, || {
                #[cfg(feature = "simulation")]
                if let Some(simulated) = SimulatedPath::find(path)? {
                    return simulated.$simulated();
                }
                $real(path)
            })
        }
    };
}

/// Defines a call on two paths, and its twin.
macro_rules! two_path_call {
    (
        $(#[$doc:meta])* async $name:ident;
        $(#[$blocking_doc:meta])* blocking $blocking:ident;
        $what:literal, $real:path, $simulated:path
    ) => {
        $(#[$doc])*
        pub async fn $name(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
            let (from, to) = (from.as_ref().to_path_buf(), to.as_ref().to_path_buf());
            run_on_path(from, |from| $blocking(from, to)).await
        }

        $(#[$blocking_doc])*
        pub fn $blocking(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
            let (from, to) = (from.as_ref(), to.as_ref());
            let call = || {
                #[cfg(feature = "simulation")]
                match (SimulatedPath::find(from)?, SimulatedPath::find(to)?) {
                    (None, None) => {}
                    (Some(from), Some(to)) => return $simulated(&from, &to),
                    _ => return Err(io::Error::from_raw_os_error(libc::EXDEV)),
                }
                $real(from, to)
            };
            call().map_err(|error| {
                let call = concat!("can't ", $what, " to");
                let (path, to) = (from.to_path_buf(), Some(to.to_path_buf()));
                io::Error::new(error.kind(), EntryError { call, path, to, error })
            })
        }
    };
}

two_path_call! {
    /// Renames the file or directory `from` to `to`, and replaces a file that is there, on tokio's blocking
    /// pool: [`rename(2)`](https://man7.org/linux/man-pages/man2/rename.2.html).
    ///
    /// The rename is atomic: `to` leads to the old file or to the new one at any time. It is durable after
    /// [`sync_dir`](crate::sync_dir) of the directory, or of both directories. The data of the file is durable
    /// only if it was [synced](crate::File::sync_all) before.
    ///
    /// # Errors
    ///
    /// The text names both paths. The kind is that of the error of the system call. That error, with the errno,
    /// is the [source](std::error::Error::source).
    ///
    /// - The errors of the system call: `ENOENT`, `ENOTDIR`, `EISDIR`, `ENOTEMPTY`, `EACCES`, `EXDEV` if the
    ///   paths are on different file systems.
    /// - `EAGAIN`: no [thread](crate::File#threads) can be started.
    ///
    /// # Cancel safety
    ///
    /// The call may or may not take effect after its future is dropped.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{File, rename, sync_dir, try_exists};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// File::create(dir.join("log.new"), false).await?;
    /// rename(dir.join("log.new"), dir.join("log")).await?;
    /// sync_dir(dir).await?; // after a crash, the file has its new name
    /// assert!(try_exists(dir.join("log")).await?);
    /// # Ok(())
    /// # }
    /// ```
    async rename;
    /// Does what [`rename`] does, on the calling thread.
    ///
    /// # Errors
    ///
    /// Those of [`rename`], except `EAGAIN`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{rename_blocking, sync_dir_blocking};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// std::fs::write(dir.join("log.new"), "")?;
    /// rename_blocking(dir.join("log.new"), dir.join("log"))?;
    /// sync_dir_blocking(dir)?;
    /// # Ok(())
    /// # }
    /// ```
    blocking rename_blocking;
    "rename it", std::fs::rename, SimulatedPath::rename
}

two_path_call! {
    /// Gives the file `from` a second name, `to`, on tokio's blocking pool:
    /// [`link(2)`](https://man7.org/linux/man-pages/man2/link.2.html).
    ///
    /// # Errors
    ///
    /// The text names both paths. The kind is that of the error of the system call. That error, with the errno,
    /// is the [source](std::error::Error::source).
    ///
    /// - The errors of the system call: `EEXIST` if there is a file under the path `to`; `ENOENT`, `ENOTDIR`,
    ///   `EACCES`, `EPERM`, `EXDEV`.
    /// - `EAGAIN`: no [thread](crate::File#threads) can be started.
    ///
    /// # Cancel safety
    ///
    /// The call may or may not take effect after its future is dropped.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{File, hard_link, read_dir};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// File::create(dir.join("000001.sst"), false).await?;
    /// hard_link(dir.join("000001.sst"), dir.join("checkpoint.sst")).await?;
    /// assert_eq!(read_dir(dir).await?, ["000001.sst", "checkpoint.sst"]);
    /// # Ok(())
    /// # }
    /// ```
    async hard_link;
    /// Does what [`hard_link`] does, on the calling thread.
    ///
    /// # Errors
    ///
    /// Those of [`hard_link`], except `EAGAIN`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::hard_link_blocking;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// std::fs::write(dir.join("000001.sst"), "")?;
    /// hard_link_blocking(dir.join("000001.sst"), dir.join("checkpoint.sst"))?;
    /// # Ok(())
    /// # }
    /// ```
    blocking hard_link_blocking;
    "link it", std::fs::hard_link, SimulatedPath::hard_link
}

path_call! {
    /// Removes the name of a file, on tokio's blocking pool:
    /// [`unlink(2)`](https://man7.org/linux/man-pages/man2/unlink.2.html). The file is freed when it has no
    /// other name, and nobody has it open.
    ///
    /// The removal is durable after [`sync_dir`](crate::sync_dir) of the directory.
    ///
    /// # Errors
    ///
    /// The text names the path. The [source](std::error::Error::source) has the errno, as that of [`rename`].
    ///
    /// - The errors of the system call: `ENOENT`, `ENOTDIR`, `EISDIR` if it is a directory, `EACCES`.
    /// - `EAGAIN`: no [thread](crate::File#threads) can be started.
    ///
    /// # Cancel safety
    ///
    /// The call may or may not take effect after its future is dropped.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{File, remove_file, try_exists};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("segment");
    /// File::create(&path, false).await?;
    /// remove_file(&path).await?;
    /// assert!(!try_exists(&path).await?);
    /// # Ok(())
    /// # }
    /// ```
    async remove_file;
    /// Does what [`remove_file`] does, on the calling thread.
    ///
    /// # Errors
    ///
    /// Those of [`remove_file`], except `EAGAIN`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{remove_file_blocking, try_exists_blocking};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("segment");
    /// std::fs::write(&path, "")?;
    /// remove_file_blocking(&path)?;
    /// assert!(!try_exists_blocking(&path)?);
    /// # Ok(())
    /// # }
    /// ```
    blocking remove_file_blocking;
    "can't remove the file", std::fs::remove_file, remove_file -> ()
}

path_call! {
    /// Creates a directory, on tokio's blocking pool:
    /// [`mkdir(2)`](https://man7.org/linux/man-pages/man2/mkdir.2.html). It is durable after
    /// [`sync_dir`](crate::sync_dir) of its parent.
    ///
    /// # Errors
    ///
    /// The text names the path. The [source](std::error::Error::source) has the errno, as that of [`rename`].
    ///
    /// - The errors of the system call: `EEXIST`, `ENOENT` if there is no parent, `ENOTDIR`, `EACCES`,
    ///   `ENOSPC`.
    /// - `EAGAIN`: no [thread](crate::File#threads) can be started.
    ///
    /// # Cancel safety
    ///
    /// The call may or may not take effect after its future is dropped.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{create_dir, read_dir, sync_dir};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// create_dir(dir.join("tables")).await?;
    /// sync_dir(dir).await?;
    /// assert_eq!(read_dir(dir).await?, ["tables"]);
    /// # Ok(())
    /// # }
    /// ```
    async create_dir;
    /// Does what [`create_dir`] does, on the calling thread.
    ///
    /// # Errors
    ///
    /// Those of [`create_dir`], except `EAGAIN`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{create_dir_blocking, read_dir_blocking};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// create_dir_blocking(dir.join("tables"))?;
    /// assert_eq!(read_dir_blocking(dir)?, ["tables"]);
    /// # Ok(())
    /// # }
    /// ```
    blocking create_dir_blocking;
    "can't create the directory", std::fs::create_dir, create_dir -> ()
}

path_call! {
    /// Creates a directory and its parents, where they are missing, on tokio's blocking pool. Each new
    /// directory is durable after [`sync_dir`](crate::sync_dir) of its parent.
    ///
    /// # Errors
    ///
    /// Those of [`create_dir`], except that a directory may exist.
    ///
    /// # Cancel safety
    ///
    /// The call may or may not take effect after its future is dropped.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{create_dir_all, try_exists};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// create_dir_all(dir.join("shards/7")).await?;
    /// create_dir_all(dir.join("shards/7")).await?;
    /// assert!(try_exists(dir.join("shards/7")).await?);
    /// # Ok(())
    /// # }
    /// ```
    async create_dir_all;
    /// Does what [`create_dir_all`] does, on the calling thread.
    ///
    /// # Errors
    ///
    /// Those of [`create_dir_all`], except `EAGAIN`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::create_dir_all_blocking;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// create_dir_all_blocking(dir.join("shards/7"))?;
    /// create_dir_all_blocking(dir.join("shards/7"))?;
    /// # Ok(())
    /// # }
    /// ```
    blocking create_dir_all_blocking;
    "can't create the directory", std::fs::create_dir_all, create_dir_all -> ()
}

path_call! {
    /// Removes an empty directory, on tokio's blocking pool:
    /// [`rmdir(2)`](https://man7.org/linux/man-pages/man2/rmdir.2.html). The removal is durable after
    /// [`sync_dir`](crate::sync_dir) of its parent.
    ///
    /// # Errors
    ///
    /// The text names the path. The [source](std::error::Error::source) has the errno, as that of [`rename`].
    ///
    /// - The errors of the system call: `ENOENT`, `ENOTDIR`, `ENOTEMPTY`, `EACCES`, `EBUSY`.
    /// - `EAGAIN`: no [thread](crate::File#threads) can be started.
    ///
    /// # Cancel safety
    ///
    /// The call may or may not take effect after its future is dropped.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{create_dir, remove_dir, try_exists};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("tables");
    /// create_dir(&path).await?;
    /// remove_dir(&path).await?;
    /// assert!(!try_exists(&path).await?);
    /// # Ok(())
    /// # }
    /// ```
    async remove_dir;
    /// Does what [`remove_dir`] does, on the calling thread.
    ///
    /// # Errors
    ///
    /// Those of [`remove_dir`], except `EAGAIN`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{create_dir_blocking, remove_dir_blocking};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("tables");
    /// create_dir_blocking(&path)?;
    /// remove_dir_blocking(&path)?;
    /// # Ok(())
    /// # }
    /// ```
    blocking remove_dir_blocking;
    "can't remove the directory", std::fs::remove_dir, remove_dir -> ()
}

path_call! {
    /// Returns the names in a directory, sorted by their bytes, without `.` and `..`, on tokio's blocking
    /// pool.
    ///
    /// # Errors
    ///
    /// The text names the path. The [source](std::error::Error::source) has the errno, as that of [`rename`].
    ///
    /// - The errors of [`open(2)`](https://man7.org/linux/man-pages/man2/open.2.html) and
    ///   [`getdents(2)`](https://man7.org/linux/man-pages/man2/getdents.2.html): `ENOENT`, `ENOTDIR`, `EACCES`,
    ///   `EMFILE`, `EIO`.
    /// - `EAGAIN`: no [thread](crate::File#threads) can be started.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect on the file system.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{File, read_dir};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// for name in ["000002.log", "000001.log"] {
    ///     File::create(dir.join(name), false).await?;
    /// }
    /// assert_eq!(read_dir(dir).await?, ["000001.log", "000002.log"]);
    /// # Ok(())
    /// # }
    /// ```
    async read_dir;
    /// Does what [`read_dir`] does, on the calling thread.
    ///
    /// # Errors
    ///
    /// Those of [`read_dir`], except `EAGAIN`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::read_dir_blocking;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// std::fs::write(dir.join("000001.log"), "")?;
    /// assert_eq!(read_dir_blocking(dir)?, ["000001.log"]);
    /// # Ok(())
    /// # }
    /// ```
    blocking read_dir_blocking;
    "can't read the directory", sorted_names, read_dir -> Vec<OsString>
}

path_call! {
    /// Returns whether a path leads to a file or directory, on tokio's blocking pool. See
    /// [`std::fs::exists`].
    ///
    /// # Errors
    ///
    /// The text names the path. The [source](std::error::Error::source) has the errno, as that of [`rename`].
    ///
    /// - The errors of [`stat(2)`](https://man7.org/linux/man-pages/man2/stat.2.html), except `ENOENT`:
    ///   `EACCES`, `ENOTDIR`, `EIO`.
    /// - `EAGAIN`: no [thread](crate::File#threads) can be started.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect on the file system.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::try_exists;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// assert!(try_exists(dir).await?);
    /// assert!(!try_exists(dir.join("manifest")).await?);
    /// # Ok(())
    /// # }
    /// ```
    async try_exists;
    /// Does what [`try_exists`] does, on the calling thread.
    ///
    /// # Errors
    ///
    /// Those of [`try_exists`], except `EAGAIN`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::try_exists_blocking;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// assert!(!try_exists_blocking(dir.join("manifest"))?);
    /// # Ok(())
    /// # }
    /// ```
    blocking try_exists_blocking;
    "can't find out whether it exists", std::fs::exists, try_exists -> bool
}

fn sorted_names(dir: &Path) -> io::Result<Vec<OsString>> {
    let entries = std::fs::read_dir(dir)?;
    let names: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.file_name())).collect();
    let mut names = names?;
    names.sort_unstable();
    Ok(names)
}

/// Makes `call`, and adds `path` to its error.
fn on_path<T>(
    path: &Path,
    what: &'static str,
    call: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    call().map_err(|error| {
        let (call, path, to) = (what, path.to_path_buf(), None);
        io::Error::new(
            error.kind(),
            EntryError {
                call,
                path,
                to,
                error,
            },
        )
    })
}

/// Why a call on a name has failed.
#[derive(Debug)]
struct EntryError {
    call: &'static str,
    path: PathBuf,
    to: Option<PathBuf>,
    error: io::Error,
}

impl fmt::Display for EntryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.call)?;
        if let Some(to) = &self.to {
            write!(f, " {}", to.display())?;
        }
        write!(f, ": {}", self.error)
    }
}

impl std::error::Error for EntryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}
