//! [`AioOpenOptionsExt`]: opening files for direct I/O.

use std::fs::OpenOptions;
use std::future::Future;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::File;
use super::direct::make_direct;
use super::dispatch::run_on_path;
use super::open_error::with_path;
#[cfg(feature = "simulation")]
use super::simulated_open::open_simulated;
#[cfg(feature = "simulation")]
use crate::simulation::SimulatedPath;

/// Opens files for direct I/O through [`std::fs::OpenOptions`].
pub trait AioOpenOptionsExt {
    /// Opens the file at `path` with these options, and adds `O_DIRECT`. With `is_sync` it adds `O_SYNC`,
    /// too: each write completes when its data and metadata are durable.
    ///
    /// Runs on tokio's blocking pool, in one job, which also queries the file's
    /// [metadata](File::metadata_at_open) and its [alignment](File::alignment).
    ///
    /// # Custom flags
    ///
    /// Flags that were set with [`OpenOptionsExt::custom_flags`] are kept; `is_sync` adds `O_SYNC` to them.
    /// The standard library has no getter for them, so they are taken from the `Debug` form of the options,
    /// and checked. If a later standard library prints that form differently, `is_sync` together with
    /// custom flags fails ([`io::ErrorKind::Unsupported`]): add `O_SYNC` to the custom flags then, and leave
    /// `is_sync` `false`.
    ///
    /// # Cancel safety
    ///
    /// After the future is dropped, the file may still be opened, created and truncated. Then it
    /// is closed again.
    ///
    /// # Errors
    ///
    /// - The errors of [`open(2)`](https://man7.org/linux/man-pages/man2/open.2.html). The texts of `ENOENT`
    ///   and `ENOTDIR` name the path; [`io::Error::raw_os_error`] of these two is `None`.
    /// - [`io::ErrorKind::InvalidInput`] (`EINVAL`), with a text that says so: the file system can't do
    ///   direct I/O, or not on this file. Either `statx` reports this, or `statx` reports nothing and all
    ///   reads of up to 64 KiB at the start of the file are refused. On ext4 this concerns files with data journaling,
    ///   encryption or verity, and small files whose data is in the inode.
    ///   [`aio_open_or_buffered`](AioOpenOptionsExt::aio_open_or_buffered) opens them.
    /// - [`io::ErrorKind::InvalidInput`] (`EINVAL`), with a text that says so: the path leads to neither a
    ///   regular file nor a block device.
    /// - `EAGAIN`: no [thread](File#threads) of the blocking pool can be started.
    ///
    /// Except with `EAGAIN`, the file may have been created or truncated before the error.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::fs::OpenOptions;
    /// use tokio_kaio::AioOpenOptionsExt;
    ///
    /// # async fn open() -> std::io::Result<()> {
    /// let mut options = OpenOptions::new();
    /// options.read(true).write(true).create(true);
    /// let file = options.aio_open("table".into(), false).await?;
    /// # Ok(())
    /// # }
    /// ```
    fn aio_open(
        self,
        path: PathBuf,
        is_sync: bool,
    ) -> impl Future<Output = io::Result<File>> + Send;

    /// Opens the file at `path` as [`aio_open`](AioOpenOptionsExt::aio_open) does, and falls back to
    /// buffered I/O, without `O_DIRECT`, if direct I/O is not possible. [`File::is_direct`] returns which of
    /// the two is used.
    ///
    /// The file is opened buffered in exactly the cases in which `aio_open` fails because the file system
    /// can't do direct I/O, or not on this file.
    ///
    /// `O_DIRECT` among the custom flags is part of `open(2)` itself. If that fails, there is no fallback.
    ///
    /// A buffered file is used like any other. The differences:
    ///
    /// - Kernel AIO refuses all reads of some files of procfs, such as those of a process
    ///   (`/proc/self/status`), with `EINVAL`. A context on
    ///   [`Backend::ThreadPool`](crate::Backend::ThreadPool) reads them.
    /// - Its [submit policy](File::set_submit_policy) is
    ///   [`SubmitPolicy::Offload`](crate::SubmitPolicy::Offload): the kernel does a buffered request
    ///   entirely inside its submission, so requests are submitted from the blocking pool. If nearly all
    ///   reads hit the page cache, [`NoWaitFirst`](crate::SubmitPolicy::NoWaitFirst) is faster: it does
    ///   such reads on the calling thread.
    /// - Its [`alignment`](File::alignment) is 1.
    /// - A write is complete when its data is in the page cache. If the kernel fails to write the data out
    ///   later, [`sync_all`](File::sync_all) or [`sync_data`](File::sync_data) reports the error.
    ///
    /// # Cancel safety
    ///
    /// That of [`aio_open`](AioOpenOptionsExt::aio_open).
    ///
    /// # Errors
    ///
    /// The errors of [`open(2)`](https://man7.org/linux/man-pages/man2/open.2.html).
    /// [`io::ErrorKind::InvalidInput`], with a text that says so: the path leads to neither a regular file
    /// nor a block device. `EAGAIN`: no [thread](File#threads) of the blocking pool can be started.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::fs::OpenOptions;
    /// use tokio_kaio::AioOpenOptionsExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let mut options = OpenOptions::new();
    /// options.read(true).write(true).create(true);
    /// let file = options.aio_open_or_buffered(path.clone(), false).await?;
    /// if !file.is_direct() {
    ///     eprintln!("{}: no direct I/O here, it will be slower", path.display());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    fn aio_open_or_buffered(
        self,
        path: PathBuf,
        is_sync: bool,
    ) -> impl Future<Output = io::Result<File>> + Send;

    /// Does what [`aio_open`](AioOpenOptionsExt::aio_open) does, on the calling thread, which may wait for
    /// the disk.
    ///
    /// # Errors
    ///
    /// Those of [`aio_open`](AioOpenOptionsExt::aio_open), except `EAGAIN`.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::fs::OpenOptions;
    /// use tokio_kaio::AioOpenOptionsExt;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let mut options = OpenOptions::new();
    /// let file = options.read(true).write(true).create(true).aio_open_blocking(path, false)?;
    /// assert_eq!(file.metadata_at_open().len(), 0);
    /// # Ok(())
    /// # }
    /// ```
    fn aio_open_blocking(self, path: impl AsRef<Path>, is_sync: bool) -> io::Result<File>;

    /// Does what [`aio_open_or_buffered`](AioOpenOptionsExt::aio_open_or_buffered) does, on the calling
    /// thread, which may wait for the disk.
    ///
    /// # Errors
    ///
    /// Those of [`aio_open_or_buffered`](AioOpenOptionsExt::aio_open_or_buffered), except `EAGAIN`.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::fs::OpenOptions;
    /// use tokio_kaio::AioOpenOptionsExt;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let mut options = OpenOptions::new();
    /// let file = options.read(true).aio_open_or_buffered_blocking("/proc/version", false)?;
    /// assert!(!file.is_direct());
    /// # Ok(())
    /// # }
    /// ```
    fn aio_open_or_buffered_blocking(
        self,
        path: impl AsRef<Path>,
        is_sync: bool,
    ) -> io::Result<File>;
}

impl AioOpenOptionsExt for OpenOptions {
    async fn aio_open(self, path: PathBuf, is_sync: bool) -> io::Result<File> {
        let options = with_sync(self, is_sync)?;
        run_on_path(path, move |path| open_direct(&options, &path)).await
    }

    async fn aio_open_or_buffered(self, path: PathBuf, is_sync: bool) -> io::Result<File> {
        let options = with_sync(self, is_sync)?;
        run_on_path(path, move |path| open_direct_or_buffered(&options, &path)).await
    }

    fn aio_open_blocking(self, path: impl AsRef<Path>, is_sync: bool) -> io::Result<File> {
        open_direct(&with_sync(self, is_sync)?, path.as_ref())
    }

    fn aio_open_or_buffered_blocking(
        self,
        path: impl AsRef<Path>,
        is_sync: bool,
    ) -> io::Result<File> {
        open_direct_or_buffered(&with_sync(self, is_sync)?, path.as_ref())
    }
}

fn open_direct(options: &OpenOptions, path: &Path) -> io::Result<File> {
    #[cfg(feature = "simulation")]
    if let Some(simulated) = SimulatedPath::find(path)? {
        return open_simulated(options, &simulated).map_err(|error| with_path(error, path));
    }
    let file = options.open(path).map_err(|error| with_path(error, path))?;
    // Not with `custom_flags(O_DIRECT)`, which would replace the caller's custom flags.
    match make_direct(&file) {
        Ok(facts) => Ok(File::new(file, facts)),
        Err(reason) => Err(reason.into_error(path.into())),
    }
}

fn open_direct_or_buffered(options: &OpenOptions, path: &Path) -> io::Result<File> {
    #[cfg(feature = "simulation")]
    if let Some(simulated) = SimulatedPath::find(path)? {
        return open_simulated(options, &simulated).map_err(|error| with_path(error, path));
    }
    let file = options.open(path).map_err(|error| with_path(error, path))?;
    File::direct_or_buffered(file).map_err(|reason| reason.into_error(path.into()))
}

/// For method chains: `OpenOptions::new().read(true).aio_open(…)`.
impl AioOpenOptionsExt for &mut OpenOptions {
    fn aio_open(
        self,
        path: PathBuf,
        is_sync: bool,
    ) -> impl Future<Output = io::Result<File>> + Send {
        self.clone().aio_open(path, is_sync)
    }

    fn aio_open_or_buffered(
        self,
        path: PathBuf,
        is_sync: bool,
    ) -> impl Future<Output = io::Result<File>> + Send {
        self.clone().aio_open_or_buffered(path, is_sync)
    }

    fn aio_open_blocking(self, path: impl AsRef<Path>, is_sync: bool) -> io::Result<File> {
        self.clone().aio_open_blocking(path, is_sync)
    }

    fn aio_open_or_buffered_blocking(
        self,
        path: impl AsRef<Path>,
        is_sync: bool,
    ) -> io::Result<File> {
        self.clone().aio_open_or_buffered_blocking(path, is_sync)
    }
}

impl File {
    /// Opens an existing file for reading. See [`AioOpenOptionsExt::aio_open`] for `is_sync`, errors, cancel
    /// safety and panics.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::File;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, vec![7; 4096])?;
    /// let file = File::open(path, false).await?;
    /// assert_eq!(file.metadata().await?.len(), 4096);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn open(path: impl AsRef<Path>, is_sync: bool) -> io::Result<File> {
        let path = path.as_ref().to_path_buf();
        run_on_path(path, move |path| File::open_blocking(path, is_sync)).await
    }

    /// Does what [`open`](File::open) does, on the calling thread, which may wait for the disk.
    ///
    /// # Errors
    ///
    /// Those of [`aio_open`](AioOpenOptionsExt::aio_open), except `EAGAIN`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::File;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # for name in ["1.sst", "2.sst"] { std::fs::write(dir.path().join(name), vec![7; 4096])?; }
    /// # let dir = dir.path().to_path_buf();
    /// // All files of a directory, opened in one job on the blocking pool.
    /// let job = move || {
    ///     let entries = std::fs::read_dir(dir)?;
    ///     let open = |entry: std::io::Result<std::fs::DirEntry>| File::open_blocking(entry?.path(), false);
    ///     entries.map(open).collect()
    /// };
    /// let tables: Vec<File> = tokio::task::spawn_blocking(job).await.unwrap_or_else(|e| Err(e.into()))?;
    /// assert_eq!(tables.len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn open_blocking(path: impl AsRef<Path>, is_sync: bool) -> io::Result<File> {
        let mut options = OpenOptions::new();
        open_direct(custom_sync(options.read(true), is_sync), path.as_ref())
    }

    /// Opens a file for writing; creates it if it does not exist, and truncates it if it does. See
    /// [`AioOpenOptionsExt::aio_open`] for `is_sync`, errors, cancel safety and panics.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::File;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, vec![7; 4096])?;
    /// let file = File::create(path, false).await?;
    /// assert_eq!(file.metadata().await?.len(), 0); // truncated
    /// # Ok(())
    /// # }
    /// ```
    pub async fn create(path: impl AsRef<Path>, is_sync: bool) -> io::Result<File> {
        let path = path.as_ref().to_path_buf();
        run_on_path(path, move |path| File::create_blocking(path, is_sync)).await
    }

    /// Does what [`create`](File::create) does, on the calling thread, which may wait for the disk.
    ///
    /// # Errors
    ///
    /// Those of [`aio_open`](AioOpenOptionsExt::aio_open), except `EAGAIN`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::File;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let file = File::create_blocking(path, false)?;
    /// assert!(file.is_direct());
    /// # Ok(())
    /// # }
    /// ```
    pub fn create_blocking(path: impl AsRef<Path>, is_sync: bool) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        open_direct(custom_sync(&mut options, is_sync), path.as_ref())
    }
}

impl File {
    /// Opens the file at `path` with any options, as [`aio_open`](AioOpenOptionsExt::aio_open) does, which
    /// has `is_sync`, errors, cancel safety and panics. It takes a path of any type, which `aio_open` does not.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::fs::OpenOptions;
    /// use tokio_kaio::File;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let mut options = OpenOptions::new();
    /// options.read(true).write(true).create(true);
    /// let table = File::open_with(&options, &path, false).await?;
    /// assert!(path.exists());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn open_with(
        options: &OpenOptions,
        path: impl AsRef<Path>,
        is_sync: bool,
    ) -> io::Result<File> {
        let options = options.clone();
        options.aio_open(path.as_ref().to_path_buf(), is_sync).await
    }
}

/// Makes options without custom flags synchronous if `is_sync` is set.
fn custom_sync(options: &mut OpenOptions, is_sync: bool) -> &OpenOptions {
    options.custom_flags(if is_sync { libc::O_SYNC } else { 0 })
}

/// Makes any options synchronous if `is_sync` is set. See [`add_sync`].
fn with_sync(mut options: OpenOptions, is_sync: bool) -> io::Result<OpenOptions> {
    if is_sync {
        add_sync(&mut options)?;
    }
    Ok(options)
}

/// Adds `O_SYNC` to the custom flags.
///
/// # Errors
///
/// `Unsupported`: the custom flags that are already set can't be read.
fn add_sync(options: &mut OpenOptions) -> io::Result<()> {
    let Some(flags) = custom_flags(options) else {
        let text = "is_sync: the custom flags of these OpenOptions can't be read and would be lost; add \
                    O_SYNC to the custom flags, and leave is_sync false";
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    };
    options.custom_flags(flags | libc::O_SYNC);
    Ok(())
}

/// Returns the custom flags of `options`. `None`: they can't be read.
///
/// `O_SYNC` has to be among the flags of `open(2)` itself: it can't be set later (`F_SETFL` ignores it).
/// Opening the file once more requires `/proc` and permissions that the first opening may not have needed,
/// and closing one of the two descriptors releases the process' record locks on the file. `OpenOptions` has
/// no getter, so the flags are parsed from the `Debug` form. That form is not stable, so the result is
/// checked: the same options with the parsed flags must print the same.
fn custom_flags(options: &OpenOptions) -> Option<i32> {
    let print_with = |flags| {
        let mut options = options.clone();
        options.custom_flags(flags);
        format!("{options:?}")
    };
    let printed = format!("{options:?}");
    let guess = if printed == print_with(0) {
        0
    } else {
        let (_, from) = printed.split_once("custom_flags: ")?;
        let end = from.find(|c: char| c != '-' && !c.is_ascii_digit())?;
        from[..end].parse().ok()?
    };
    // If the flags are not printed at all, every guess prints the same.
    let is_printed = print_with(guess) != print_with(guess ^ 1);
    (is_printed && printed == print_with(guess)).then_some(guess)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn custom_flags_are_read_with_any_other_options() {
        let mut plain = OpenOptions::new();
        let mut full = OpenOptions::new();
        plain.read(true);
        full.read(true).append(true).create_new(true).mode(0o123);
        for options in [plain, full] {
            assert_eq!(custom_flags(&options), Some(0));
            for flags in [
                1,
                libc::O_NOFOLLOW,
                libc::O_TMPFILE | libc::O_NOATIME,
                -1,
                i32::MIN,
            ] {
                let mut options = options.clone();
                options.custom_flags(flags);
                assert_eq!(custom_flags(&options), Some(flags));
                add_sync(&mut options).unwrap();
                assert_eq!(custom_flags(&options), Some(flags | libc::O_SYNC));
            }
        }
    }
}
