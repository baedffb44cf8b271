//! [`TempEntry`]: the name of an unpublished file in its directory, removed when dropped.

use std::ffi::{CStr, CString};
use std::io;

use super::staging_dir::{CreatedFile, StagingDir};
use crate::op::OpenFile;
use crate::sys::Process;

/// The place of a file that is not published yet: its directory, and its temporary name, if it has one.
/// Removes the temporary name when dropped, except in a forked child.
#[derive(Debug)]
pub(super) struct TempEntry {
    dir: StagingDir,
    /// `None`: the file has no name (`O_TMPFILE`), or has its final name.
    name: Option<CString>,
    /// The process that created the file.
    process: Process,
}

impl TempEntry {
    /// Creates a file in `dir` that others don't find under `target`: without a name if `named` is not set
    /// and the file system can do that, otherwise with a hidden name that is made from `target`.
    pub(super) fn create(
        dir: StagingDir,
        target: &CStr,
        mode: u32,
        named: bool,
    ) -> io::Result<(TempEntry, CreatedFile)> {
        let mut entry = TempEntry {
            dir,
            name: None,
            process: Process::current(),
        };
        if !named {
            if let Some(file) = entry.dir.create_unnamed(mode)? {
                return Ok((entry, file));
            }
        }
        entry.allows_temp_name()?;
        let (name, file) = entry.with_new_name(target, |name| entry.dir.create_new(name, mode))?;
        entry.name = Some(name);
        Ok((entry, file))
    }

    /// Returns the temporary name, if there is one.
    pub(super) fn name(&self) -> Option<&CStr> {
        self.name.as_deref()
    }

    /// # Errors
    ///
    /// `EPERM`: the directory is append-only, so that a temporary name would stay for ever.
    fn allows_temp_name(&self) -> io::Result<()> {
        match self.dir.is_append_only() {
            true => Err(io::Error::from_raw_os_error(libc::EPERM)),
            false => Ok(()),
        }
    }

    /// Returns whether this process created the file. `false` in a forked child.
    pub(super) fn is_of_this_process(&self) -> bool {
        self.process == Process::current()
    }

    /// Gives `file` a temporary name, unless it has one. It keeps it until it is published or removed: the
    /// kernel does not name a file without a name for the second time.
    ///
    /// # Errors
    ///
    /// `EPERM`: the directory is append-only.
    pub(super) fn ensure_name(&mut self, file: &OpenFile, target: &CStr) -> io::Result<()> {
        if self.name.is_none() {
            self.allows_temp_name()?;
            let (name, ()) = self.with_new_name(target, |name| self.dir.link(file, name))?;
            self.name = Some(name);
        }
        Ok(())
    }

    /// Names `file` `target`, and replaces the file of that name, if there is one.
    pub(super) fn replace(&mut self, file: &OpenFile, target: &CStr) -> io::Result<()> {
        if self.name.is_none() {
            match self.dir.link(file, target) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                linked => return linked,
            }
            self.ensure_name(file, target)?; // only a rename replaces
        }
        if let Some(name) = &self.name {
            self.dir.rename(name, target)?;
        }
        self.name = None;
        Ok(())
    }

    /// Names `file` `target`, unless that name is taken.
    pub(super) fn create_new(&mut self, file: &OpenFile, target: &CStr) -> io::Result<()> {
        let Some(name) = &self.name else {
            return self.dir.link(file, target);
        };
        match self.dir.rename_new(name, target) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
                self.dir.link_name(name, target)?;
                // The file is published. If its temporary name can't be removed, nobody can do better.
                let _ = self.dir.unlink(name);
            }
            renamed => renamed?,
        }
        self.name = None;
        Ok(())
    }

    /// Makes the entries of the directory durable.
    pub(super) fn sync_dir(&self) -> io::Result<()> {
        self.dir.sync()
    }

    /// Does what [`sync_dir`](TempEntry::sync_dir) does on a simulated disk, and waits until it has completed.
    #[cfg(feature = "simulation")]
    pub(super) async fn sync_dir_async(&self) -> io::Result<()> {
        self.dir.sync_async().await
    }

    /// Whether the file is on a simulated disk.
    #[cfg(feature = "simulation")]
    pub(super) fn is_simulated(&self) -> bool {
        self.dir.is_simulated()
    }

    /// Calls `make` with a new temporary name.
    fn with_new_name<T>(
        &self,
        target: &CStr,
        make: impl Fn(&CStr) -> io::Result<T>,
    ) -> io::Result<(CString, T)> {
        with_new_name(target, || self.dir.number(), make)
    }

    /// Removes the temporary name, if there is one.
    ///
    /// # Errors
    ///
    /// The name, and why it could not be removed.
    pub(super) fn remove(&mut self) -> Result<(), (String, io::Error)> {
        match self.name.take() {
            Some(name) if self.is_of_this_process() => match self.dir.unlink(&name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err((name.to_string_lossy().into_owned(), error))
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

impl Drop for TempEntry {
    fn drop(&mut self) {
        let _ = self.remove(); // `StagedFile::discard` reports errors
    }
}

/// Calls `make` with a temporary name, and again with another name while it fails with `AlreadyExists`.
fn with_new_name<T>(
    target: &CStr,
    number: impl Fn() -> u64,
    make: impl Fn(&CStr) -> io::Result<T>,
) -> io::Result<(CString, T)> {
    const ATTEMPTS: usize = 64;
    let mut attempt = 1;
    loop {
        let name = temp_name(target, number());
        match make(&name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < ATTEMPTS => {
                attempt += 1;
            }
            made => return made.map(|made| (name, made)),
        }
    }
}

/// `.NAME.kaio-NUMBER`, with NAME cut so that no file system finds the name too long.
fn temp_name(target: &CStr, number: u64) -> CString {
    const LONGEST: usize = 100;
    let target = target.to_bytes();
    let mut end = target.len().min(LONGEST);
    // Not within a character: some file systems refuse names that are not UTF-8.
    if let Ok(text) = std::str::from_utf8(target) {
        while !text.is_char_boundary(end) {
            end -= 1;
        }
    }
    let number = format!(".kaio-{number:016x}");
    let name = [b".", &target[..end], number.as_bytes()].concat();
    CString::new(name).unwrap_or_default() // no part has a 0
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn opened(dir: &Path) -> StagingDir {
        StagingDir::open(dir, false).unwrap()
    }

    #[test]
    fn numbers_of_temporary_names_differ() {
        let dir = tempfile::tempdir_in(".").unwrap();
        assert_ne!(opened(dir.path()).number(), opened(dir.path()).number());
    }

    #[test]
    fn a_temporary_name_is_hidden_and_never_too_long() {
        let name = |target: &str| {
            let target = CString::new(target).unwrap();
            temp_name(&target, 0x1f).into_string().unwrap()
        };
        assert_eq!(name("big.img"), ".big.img.kaio-000000000000001f");
        let long = "ä".repeat(127);
        let cut = format!(".{}.kaio-000000000000001f", "ä".repeat(50));
        assert_eq!(name(&long), cut);
        let cut = format!(".a{}.kaio-000000000000001f", "ä".repeat(49));
        assert_eq!(name(&format!("a{long}")), cut);
        let no_text = CString::new([0xff; 255]).unwrap();
        assert_eq!(temp_name(&no_text, 1).to_bytes().len(), 123);
    }

    #[test]
    fn a_taken_temporary_name_is_not_used_and_another_one_is_tried() {
        let taken = std::cell::Cell::new(2);
        let make = |_: &CStr| match taken.replace(taken.get() - 1) {
            0 => Ok(()),
            _ => Err(io::ErrorKind::AlreadyExists.into()),
        };
        assert!(with_new_name(c"a", || 1, make).is_ok());
        let always = |_: &CStr| Err::<(), _>(io::ErrorKind::AlreadyExists.into());
        assert!(with_new_name(c"a", || 1, always).is_err());
    }

    #[test]
    fn a_file_that_could_not_replace_its_target_keeps_a_temporary_name_until_it_is_dropped() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let names = || fs::read_dir(dir.path()).unwrap().count();
        fs::create_dir(dir.path().join("target")).unwrap();
        let dir_of_entry = opened(dir.path());
        let (mut entry, file) = TempEntry::create(dir_of_entry, c"target", 0o600, false).unwrap();
        let file = file.into_file().unwrap();
        let file = file.open_file();
        if entry.name.is_some() {
            return eprintln!("skipped: there are no files without a name here");
        }
        assert_eq!(names(), 1);
        let refused = entry.replace(file, c"target").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::IsADirectory);
        assert_eq!(names(), 2);
        entry.replace(file, c"other").unwrap();
        assert_eq!(names(), 2);
        drop(entry);
        assert_eq!(names(), 2);
    }
}
