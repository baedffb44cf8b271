//! [`Leftover`]: what is on disk for as long as the process needs it, and not when a signal ends it
//! either.
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

/// What is to go.
static PATHS: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A descriptor that is given up where none is left to look into a directory with.
static SPARE: Mutex<Option<File>> = Mutex::new(None);

fn paths() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    PATHS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file, or a directory with all that is in it, that is removed when this is dropped, or a signal
/// ends the process (see [`remove_on_signal`]).
#[derive(Debug)]
pub struct Leftover(PathBuf);

impl Leftover {
    /// What `make` makes: its path, and something else. A signal comes before it is made or after
    /// this is there, never in between.
    ///
    /// # Errors
    ///
    /// Those of `make`, which then has made nothing.
    pub fn new<T>(make: impl FnOnce() -> io::Result<(PathBuf, T)>) -> io::Result<(Leftover, T)> {
        let mut paths = paths();
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.is_none() {
            *spare = Some(File::open("/")?);
        }
        let (path, made) = make()?;
        // A name that is good wherever the process goes.
        let path = std::path::absolute(&path).unwrap_or(path);
        paths.insert(path.clone());
        Ok((Leftover(path), made))
    }

    /// What `make` makes at a path in `parent`, of a name at random that begins with `prefix`.
    ///
    /// # Errors
    ///
    /// Those of `make`, as they are, without the name; it is called again where that is taken.
    pub fn make_in<T>(
        parent: &Path,
        prefix: impl AsRef<OsStr>,
        make: impl FnMut(&Path) -> io::Result<T>,
    ) -> io::Result<(Leftover, T)> {
        Leftover::new(|| {
            let mut name = tempfile::Builder::new();
            let made = name.prefix(&prefix).make_in(parent, make)?;
            let (made, path) = made.keep().map_err(|error| error.error)?;
            Ok((path, made))
        })
    }

    /// A new directory in `parent`, of a name that begins with `prefix`.
    ///
    /// # Errors
    ///
    /// Where it can't be made.
    pub fn dir(parent: &Path, prefix: &str) -> io::Result<Leftover> {
        let make = |path: &Path| fs::DirBuilder::new().mode(0o700).create(path);
        Ok(Leftover::make_in(parent, prefix, make)?.0)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Gives it the name `to`, in place of what has that; it is no leftover any more.
    ///
    /// # Errors
    ///
    /// Those of [`rename(2)`](https://man7.org/linux/man-pages/man2/rename.2.html); it is removed
    /// then.
    pub fn rename(self, to: &Path) -> io::Result<()> {
        let mut paths = paths();
        fs::rename(&self.0, to)?;
        paths.remove(&self.0);
        Ok(())
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        let mut paths = paths();
        // Not there: it has another name now, and who has this one since is somebody else.
        if paths.remove(&self.0) {
            remove(&self.0);
        }
    }
}

/// Gone already is well too. What can't be helped is told.
fn remove(path: &Path) {
    let removed = match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::IsADirectory => {
            drop(SPARE.lock().unwrap_or_else(PoisonError::into_inner).take());
            remove_dir_in_use(path)
        }
        removed => removed,
    };
    if let Err(error) = removed.or_else(if_it_was_there) {
        // As a literal, since names are anybody's. Where nobody hears of it, that is all.
        let _ = writeln!(
            io::stderr(),
            "warning: {path:?} is left: {error}; remove it"
        );
    }
}

/// As [`remove_dir`], a while long: another thread may just be making a file in it, or may have taken
/// the descriptor.
fn remove_dir_in_use(dir: &Path) -> io::Result<()> {
    for _ in 0..100 {
        match remove_dir(dir) {
            Err(error)
                if error.kind() == ErrorKind::DirectoryNotEmpty
                    || error.raw_os_error() == Some(libc::EMFILE) =>
            {
                thread::sleep(Duration::from_millis(1));
            }
            removed => return removed,
        }
    }
    remove_dir(dir)
}

/// Removes a directory with all that is in it. Not [`fs::remove_dir_all`], which has a descriptor open
/// for each level, and there may be one left.
fn remove_dir(dir: &Path) -> io::Result<()> {
    // Some are not to be written to when they are complete.
    let _ = fs::set_permissions(dir, Permissions::from_mode(0o700));
    let entries = fs::read_dir(dir)?.map(|entry| {
        let entry = entry?;
        Ok((entry.path(), entry.file_type()?.is_dir()))
    });
    // All of them, and with that the directory is closed.
    for (path, is_dir) in entries.collect::<io::Result<Vec<_>>>()? {
        let removed = match is_dir {
            true => remove_dir(&path),
            false => fs::remove_file(&path),
        };
        removed.or_else(if_it_was_there)?;
    }
    fs::remove_dir(dir)
}

fn if_it_was_there(error: io::Error) -> io::Result<()> {
    match error.kind() {
        ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}

/// From now on, a signal that asks the process to end removes every [`Leftover`] first, and then
/// calls `end` with its number; if that returns, the process ends as by the signal.
///
/// SIGXFSZ is ignored: what is written past `RLIMIT_FSIZE` fails with `EFBIG`, as other errors do,
/// and ends no process that has something to remove.
///
/// To be called before any other thread is started: all are to have these signals blocked, so that
/// they come to the one that waits for them.
///
/// # Errors
///
/// Where there can be no such thread. Signals are as before then.
pub fn remove_on_signal(end: fn(libc::c_int)) -> io::Result<()> {
    // SAFETY: sets no handler.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let mut signals = MaybeUninit::uninit();
    // SAFETY: room for a set.
    unsafe { libc::sigemptyset(signals.as_mut_ptr()) };
    // SAFETY: just initialised.
    let mut signals = unsafe { signals.assume_init() };
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // One that is ignored, as under nohup, is to stay so.
        if !is_ignored(signal) {
            // SAFETY: a set of ours.
            unsafe { libc::sigaddset(&raw mut signals, signal) };
        }
    }
    // SAFETY: a set of ours; what was blocked before is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, ptr::null_mut()) };
    let started = thread::Builder::new().spawn(move || wait_and_end(&signals, end));
    if let Err(error) = started {
        // SAFETY: as above.
        unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const signals, ptr::null_mut()) };
        return Err(error);
    }
    Ok(())
}

fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: room for what it is now; nothing is changed.
    let code = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: written, since it succeeded.
    code == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

fn wait_and_end(signals: &libc::sigset_t, end: fn(libc::c_int)) {
    let mut signal = 0;
    // SAFETY: a set, and a number to write to.
    if unsafe { libc::sigwait(signals, &raw mut signal) } != 0 {
        return; // nothing to wait for
    }
    // Held to the end, so that none comes later.
    let paths = paths();
    paths.iter().for_each(|path| remove(path));
    end(signal);
    // As it would have ended: the caller is to see by which signal.
    // SAFETY: a set of ours, for this thread alone.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, signals, ptr::null_mut()) };
    // SAFETY: a signal that has not been given a handler.
    unsafe { libc::raise(signal) };
    // The first process of a container is not ended by that.
    process::exit(128 + signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_with_its_value_unless_it_is_renamed() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = dir.path().join(name);
            let make = || fs::write(&path, name).map(|()| (path.clone(), ()));
            Leftover::new(make).unwrap().0
        };
        let (goes, stays) = (make("goes"), make("stays"));
        let full = Leftover::dir(dir.path(), "full-").unwrap();
        fs::write(full.path().join("file"), "").unwrap();

        drop((goes, full));
        stays.rename(&dir.path().join("kept")).unwrap();

        let left = fs::read_dir(dir.path()).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["kept"]);
    }

    #[test]
    fn a_directory_goes_also_if_something_in_it_is_not_to_be_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let full = Leftover::dir(dir.path(), "full-").unwrap();
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
