//! [`TempPath`]: a temporary file or directory, removed on drop and when a signal ends the process.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::mem::MaybeUninit;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fs, process, ptr, thread};

/// Paths to remove when a signal ends the process.
static PATHS: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A spare descriptor, closed to open a directory for removal when the process has none left.
static SPARE: Mutex<Option<File>> = Mutex::new(None);

fn paths() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    PATHS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file, or a directory with its contents, that is removed on drop, and when a signal ends the process
/// (see [`remove_on_signal`]).
#[derive(Debug)]
pub struct TempPath(PathBuf);

impl TempPath {
    /// Registers the path that `make` creates and returns. Signals are handled before `make` or after the
    /// registration, never in between.
    ///
    /// # Errors
    ///
    /// Those of `make`, which must then leave nothing behind.
    pub fn new<T>(make: impl FnOnce() -> io::Result<(PathBuf, T)>) -> io::Result<(TempPath, T)> {
        let mut paths = paths();
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.is_none() {
            *spare = Some(File::open("/")?);
        }
        let (path, made) = make()?;
        // Absolute, so that it survives a change of the working directory.
        let path = std::path::absolute(&path).unwrap_or(path);
        paths.insert(path.clone());
        Ok((TempPath(path), made))
    }

    /// Calls `make` with a path in `parent` whose random name begins with `prefix`, and again with another
    /// name if it fails with `AlreadyExists`.
    ///
    /// # Errors
    ///
    /// Those of `make`, without the path.
    pub fn make_in<T>(
        parent: &Path,
        prefix: impl AsRef<OsStr>,
        make: impl FnMut(&Path) -> io::Result<T>,
    ) -> io::Result<(TempPath, T)> {
        TempPath::new(|| {
            let mut name = tempfile::Builder::new();
            let made = name.prefix(&prefix).make_in(parent, make)?;
            let (made, path) = made.keep().map_err(|error| error.error)?;
            Ok((path, made))
        })
    }

    /// Creates a directory in `parent` whose random name begins with `prefix`.
    ///
    /// # Errors
    ///
    /// Those of `mkdir`, and `EMFILE`.
    pub fn dir(parent: &Path, prefix: &str) -> io::Result<TempPath> {
        let make = |path: &Path| fs::DirBuilder::new().mode(0o700).create(path);
        Ok(TempPath::make_in(parent, prefix, make)?.0)
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Renames the file or directory to `to`, replacing a file of that name, and keeps it.
    ///
    /// # Errors
    ///
    /// Those of [`rename(2)`](https://man7.org/linux/man-pages/man2/rename.2.html); the file or
    /// directory is then removed.
    pub fn rename(self, to: &Path) -> io::Result<()> {
        self.keep_if(|path| fs::rename(path, to))
    }

    /// Calls `publish`, which gives the file or directory another name, with the path, and keeps it if that
    /// succeeds. Signals are handled before `publish` or after it, never in between.
    ///
    /// # Errors
    ///
    /// Those of `publish`; the file or directory is then removed.
    pub fn keep_if<E>(self, publish: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
        let mut paths = paths();
        publish(&self.0)?;
        paths.remove(&self.0);
        Ok(())
    }
}

impl Drop for TempPath {
    fn drop(&mut self) {
        let mut paths = paths();
        // If the path is not registered, `rename` has moved the file, and the old name may belong to
        // another file by now.
        if paths.remove(&self.0) {
            remove(&self.0);
        }
    }
}

/// Removes a file or directory. Prints a warning on failure, unless it is gone already.
fn remove(path: &Path) {
    let removed = match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::IsADirectory => {
            drop(SPARE.lock().unwrap_or_else(PoisonError::into_inner).take());
            remove_dir_in_use(path)
        }
        removed => removed,
    };
    if let Err(error) = removed.or_else(ignore_not_found) {
        // Debug formatting, since a path may contain control characters. Errors of stderr are ignored.
        let _ = writeln!(
            io::stderr(),
            "warning: can't remove {path:?}: {error}; remove it by hand"
        );
    }
}

/// Calls [`remove_dir`] until it succeeds, up to 100 times: another thread may just have created a file
/// in the directory, or have taken the spare descriptor.
fn remove_dir_in_use(dir: &Path) -> io::Result<()> {
    for _ in 0..100 {
        match remove_dir(dir) {
            Err(error)
                if error.kind() == ErrorKind::DirectoryNotEmpty
                    || error.raw_os_error() == Some(libc::EMFILE) =>
            {
                thread::sleep(Duration::from_millis(1));
            }
            // Deep down, paths can be too long. This needs more descriptors, but no paths.
            Err(error) if error.raw_os_error() == Some(libc::ENAMETOOLONG) => {
                return fs::remove_dir_all(dir);
            }
            removed => return removed,
        }
    }
    remove_dir(dir)
}

/// Removes a directory with its contents. [`fs::remove_dir_all`] opens a descriptor for each level;
/// this needs only one at a time.
fn remove_dir(dir: &Path) -> io::Result<()> {
    // The directory may be read-only.
    let _ = fs::set_permissions(dir, Permissions::from_mode(0o700));
    let entries = fs::read_dir(dir)?.map(|entry| {
        let entry = entry?;
        Ok((entry.path(), entry.file_type()?.is_dir()))
    });
    // Collected first, so that the directory is closed before descending.
    for (path, is_dir) in entries.collect::<io::Result<Vec<_>>>()? {
        let removed = match is_dir {
            true => remove_dir(&path),
            false => fs::remove_file(&path),
        };
        removed.or_else(ignore_not_found)?;
    }
    fs::remove_dir(dir)
}

fn ignore_not_found(error: io::Error) -> io::Result<()> {
    match error.kind() {
        ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}

/// Handles SIGINT, SIGTERM and SIGHUP from now on: removes every [`TempPath`], calls `end` with the signal's
/// number and, if that returns, ends the process by the signal.
///
/// Ignores SIGXFSZ, so that writes past `RLIMIT_FSIZE` fail with `EFBIG` instead of ending the process
/// before it has removed its files.
///
/// Call this before any other thread is started: threads inherit the blocked signals, which only the
/// thread started here receives.
///
/// # Errors
///
/// If the thread can't be started. Signals are then handled as before.
pub fn remove_on_signal(end: fn(libc::c_int)) -> io::Result<()> {
    // SAFETY: SIG_IGN is not a handler.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let mut signals = MaybeUninit::uninit();
    // SAFETY: `signals` is valid for writes.
    unsafe { libc::sigemptyset(signals.as_mut_ptr()) };
    // SAFETY: `sigemptyset` has initialised it.
    let mut signals = unsafe { signals.assume_init() };
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // A signal ignored from the start, as under nohup, stays ignored.
        if !is_ignored(signal) {
            // SAFETY: `signals` is an initialised set.
            unsafe { libc::sigaddset(&raw mut signals, signal) };
        }
    }
    // SAFETY: `signals` is an initialised set; the old mask may be null.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, ptr::null_mut()) };
    let started = thread::Builder::new().spawn(move || wait_for_signal(&signals, end));
    if let Err(error) = started {
        // SAFETY: `signals` is an initialised set; the old mask may be null.
        unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const signals, ptr::null_mut()) };
        return Err(error);
    }
    Ok(())
}

fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: `action` is valid for writes; a null new action changes nothing.
    let code = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: the call succeeded, so it has written `action`.
    code == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

fn wait_for_signal(signals: &libc::sigset_t, end: fn(libc::c_int)) {
    let mut signal = 0;
    // SAFETY: `signals` is an initialised set, and `signal` is valid for writes.
    if unsafe { libc::sigwait(signals, &raw mut signal) } != 0 {
        return; // the set is empty
    }
    // Locked until the process ends, so that no path is added after this.
    let paths = paths();
    paths.iter().for_each(|path| remove(path));
    end(signal);
    // Ends the process by the signal itself, so that the parent sees which one it was.
    // SAFETY: `signals` is an initialised set.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, signals, ptr::null_mut()) };
    // SAFETY: no handler is installed for the signal.
    unsafe { libc::raise(signal) };
    // Process 1 of a container is not ended by `raise`.
    process::exit(128 + signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_removed_on_drop_unless_renamed() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = dir.path().join(name);
            let make = || fs::write(&path, name).map(|()| (path.clone(), ()));
            TempPath::new(make).unwrap().0
        };
        let (goes, stays) = (make("goes"), make("stays"));
        let full = TempPath::dir(dir.path(), "full-").unwrap();
        fs::write(full.path().join("file"), "").unwrap();

        drop((goes, full));
        stays.rename(&dir.path().join("kept")).unwrap();

        let left = fs::read_dir(dir.path()).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["kept"]);
    }

    #[test]
    fn a_directory_is_removed_although_it_has_read_only_subdirectories() {
        let dir = tempfile::tempdir().unwrap();
        let full = TempPath::dir(dir.path(), "full-").unwrap();
        let (sub, closed) = (full.path().join("sub"), full.path().join("sub/closed"));
        fs::create_dir_all(&closed).unwrap();
        fs::write(closed.join("file"), "").unwrap();
        for dir in [closed, sub] {
            fs::set_permissions(dir, Permissions::from_mode(0o500)).unwrap();
        }

        drop(full);

        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
