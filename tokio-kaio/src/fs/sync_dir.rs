//! [`sync_dir`]: makes the entries of a directory durable.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::dispatch::run_blocking;
#[cfg(feature = "simulation")]
use crate::simulation::SimulatedPath;
use crate::sys::Directory;

/// Makes the entries of the directory at `path` durable, on tokio's blocking pool: the names of files that
/// were created, renamed or removed in it before.
///
/// [`File::sync_all`](crate::File::sync_all) makes a file durable, but not its name: after a crash, a new
/// file may be missing from its directory until the directory was synced, too
/// ([`fsync(2)`](https://man7.org/linux/man-pages/man2/fsync.2.html)). A new directory needs a sync of its
/// parent. A [`StagedFile`](crate::StagedFile) with [`sync`](crate::StagedFileBuilder::sync) syncs both by
/// itself.
///
/// A file system that can't sync directories returns `EINVAL`. It is not an error here, because there is
/// nothing that the caller could do: such file systems are not on a disk (procfs, sysfs), or leave durability
/// to a server.
///
/// # Errors
///
/// The text names the directory.
///
/// - The errors of [`open(2)`](https://man7.org/linux/man-pages/man2/open.2.html): `ENOENT`, `ENOTDIR`,
///   `EMFILE`; `EACCES` if the directory is not readable.
/// - The errors of `fsync(2)`, except `EINVAL`. `EIO`: some entries may not be durable.
/// - `EAGAIN`: no [thread](crate::File#threads) can be started.
///
/// # Cancel safety
///
/// The sync may or may not take effect after its future is dropped.
///
/// # Panics
///
/// Outside a tokio runtime.
///
/// # Examples
///
/// ```
/// use tokio_kaio::sync_dir;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// std::fs::write(dir.join("old.sst"), "")?;
/// tokio::fs::remove_file(dir.join("old.sst")).await?;
/// sync_dir(dir).await?; // the file does not come back after a crash
/// # Ok(())
/// # }
/// ```
#[doc(alias = "fsync")]
pub async fn sync_dir(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref().to_path_buf();
    #[cfg(feature = "simulation")]
    match SimulatedPath::find(&path) {
        Ok(None) => {}
        Ok(Some(simulated)) => {
            let synced = match simulated.open_dir() {
                Ok(dir) => dir.sync_async().await,
                Err(error) => Err(error),
            };
            return synced.map_err(|error| with_path(error, &path));
        }
        Err(error) => return Err(with_path(error, &path)),
    }
    run_blocking(move || sync_dir_blocking(path)).await
}

/// Does what [`sync_dir`] does, on the calling thread, which waits for the disk.
///
/// # Errors
///
/// Those of [`sync_dir`], except `EAGAIN`.
///
/// # Examples
///
/// ```
/// use tokio_kaio::sync_dir_blocking;
///
/// # fn main() -> std::io::Result<()> {
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// std::fs::create_dir(dir.join("tables"))?;
/// sync_dir_blocking(dir)?; // the new directory is durable, and empty
/// # Ok(())
/// # }
/// ```
pub fn sync_dir_blocking(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    #[cfg(feature = "simulation")]
    if let Some(simulated) = SimulatedPath::find(path).map_err(|error| with_path(error, path))? {
        let synced = simulated.open_dir().and_then(|dir| dir.sync());
        return synced.map_err(|error| with_path(error, path));
    }
    let synced = Directory::open(path).and_then(|dir| dir.sync());
    synced.map_err(|error| with_path(error, path))
}

fn with_path(error: io::Error, path: &Path) -> io::Error {
    let path = path.to_path_buf();
    io::Error::new(error.kind(), SyncDirError { path, error })
}

#[derive(Debug, Error)]
#[error("{}: can't sync the directory: {error}", .path.display())]
struct SyncDirError {
    path: PathBuf,
    #[source]
    error: io::Error,
}
