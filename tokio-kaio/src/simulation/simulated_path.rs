//! [`SimulatedPath`]: a path on a simulated disk, and the calls on it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::disk::{Access, Disk};
use super::mount_points;
use super::simulated_file::{OpenedFile, SimulatedFile};
use super::{DiskState, Errno, Inode, Now, OpenMode, Rename, RequestKind};
use crate::sys::Process;

/// A path on a simulated disk.
#[derive(Clone, Debug)]
pub(crate) struct SimulatedPath {
    disk: Arc<Disk>,
    /// Relative to the root of the disk, without `.` and `..`. The root is `""`.
    path: String,
    /// Whether the path ends in a slash, which only directories may.
    names_dir: bool,
}

impl SimulatedPath {
    /// Returns whether the path is one of a simulated disk.
    pub(crate) fn is_simulated(path: &Path) -> bool {
        mount_points::may_be_below(path) && !matches!(SimulatedPath::find(path), Ok(None))
    }

    /// Finds the disk of a path. `None`: it is a path of the kernel.
    ///
    /// # Errors
    ///
    /// `EILSEQ`: the path is not UTF-8. `ENAMETOOLONG`: a name has more than 255 bytes.
    #[inline]
    pub(crate) fn find(path: &Path) -> io::Result<Option<SimulatedPath>> {
        match mount_points::may_be_below(path) {
            true => SimulatedPath::resolve(path),
            false => Ok(None),
        }
    }

    fn resolve(path: &Path) -> io::Result<Option<SimulatedPath>> {
        // There are no symbolic links, so `..` may be resolved without looking.
        let mut names = Vec::new();
        for component in path.components() {
            match component {
                Component::Normal(name) => names.push(name),
                Component::ParentDir => drop(names.pop()),
                Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            }
        }
        let mut names = names.into_iter();
        let root = names.next();
        let name = names.next().and_then(OsStr::to_str);
        let disk = match (root, name) {
            (Some(root), Some(name)) if mount_points::is_root(root) => mount_points::disk(name),
            _ => None,
        };
        let Some(disk) = disk else {
            return Ok(None);
        };
        let mut relative = String::new();
        for name in names {
            let name = name
                .to_str()
                .ok_or_else(|| io::Error::from_raw_os_error(libc::EILSEQ))?;
            if name.len() > 255 {
                return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
            }
            if !relative.is_empty() {
                relative.push('/');
            }
            relative.push_str(name);
        }
        let bytes = path.as_os_str().as_encoded_bytes();
        Ok(Some(SimulatedPath {
            disk,
            path: relative,
            names_dir: bytes.ends_with(b"/") || bytes.ends_with(b"/."),
        }))
    }

    /// Returns whether the path leads to a directory. `None`: it leads nowhere.
    pub(crate) fn is_dir(&self) -> io::Result<Option<bool>> {
        match self.disk.lock().state.stat(&self.path) {
            Ok(stat) => Ok(Some(stat.is_dir)),
            Err(libc::ENOENT) => Ok(None),
            Err(errno) => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Returns the path as callers write it.
    pub(crate) fn to_path_buf(&self) -> PathBuf {
        self.disk.mount_point().join(&self.path)
    }

    /// Opens the file.
    pub(crate) fn open(&self, mode: OpenMode, access: Access) -> io::Result<OpenedFile> {
        if self.names_dir && (mode.create || mode.create_new) {
            return Err(io::Error::from_raw_os_error(libc::EISDIR));
        }
        let mode = OpenMode {
            directory: mode.directory || self.names_dir,
            ..mode
        };
        self.open_file(access, |state, now| state.open(now, &self.path, mode))
    }

    /// Opens a file without a name in this directory.
    pub(crate) fn open_unnamed(&self, access: Access) -> io::Result<OpenedFile> {
        self.open_file(access, |state, now| state.open_unnamed(now, &self.path))
    }

    fn open_file(
        &self,
        access: Access,
        open: impl FnOnce(&mut DiskState, Now) -> Result<Inode, Errno>,
    ) -> io::Result<OpenedFile> {
        let mount_point = self.disk.mount_point().display();
        let name = format!("{mount_point}/{}", self.path);
        let name = name.trim_start_matches('/');
        SimulatedFile::open(Arc::clone(&self.disk), access, name, open)
    }

    /// Returns the path of a name in this directory.
    pub(crate) fn join(&self, name: &str) -> SimulatedPath {
        SimulatedPath {
            disk: Arc::clone(&self.disk),
            path: match self.path.is_empty() {
                true => name.to_owned(),
                false => format!("{}/{name}", self.path),
            },
            names_dir: false,
        }
    }

    /// Returns a number that no other call on this disk has returned.
    pub(crate) fn next_number(&self) -> u64 {
        self.disk.next_name()
    }

    /// Gives an open file this name.
    pub(crate) fn link_file(&self, file: &SimulatedFile) -> io::Result<()> {
        self.check_same_disk(file.disk())?;
        let inode = file.inode();
        self.disk
            .call(|state, now| state.link(now, inode, &self.path))
    }

    pub(crate) fn rename(&self, to: &SimulatedPath) -> io::Result<()> {
        self.rename_as(to, Rename::Replace)
    }

    /// Renames, unless the new name is taken (`EEXIST`).
    pub(crate) fn rename_new(&self, to: &SimulatedPath) -> io::Result<()> {
        self.rename_as(to, Rename::NoReplace)
    }

    fn rename_as(&self, to: &SimulatedPath, how: Rename) -> io::Result<()> {
        self.check_same_disk(&to.disk)?;
        self.disk
            .call(|state, now| state.rename(now, &self.path, &to.path, how))
    }

    pub(crate) fn hard_link(&self, to: &SimulatedPath) -> io::Result<()> {
        self.check_same_disk(&to.disk)?;
        self.disk
            .call(|state, now| state.hard_link(now, &self.path, &to.path))
    }

    pub(crate) fn remove_file(&self) -> io::Result<()> {
        self.disk.call(|state, now| state.unlink(now, &self.path))
    }

    pub(crate) fn create_dir(&self) -> io::Result<()> {
        self.disk
            .call(|state, now| state.create_dir(now, &self.path))
    }

    pub(crate) fn create_dir_all(&self) -> io::Result<()> {
        let ends = self
            .path
            .match_indices('/')
            .map(|(at, _)| at)
            .chain([self.path.len()]);
        for end in ends.filter(|&end| end > 0) {
            let parent = &self.path[..end];
            let created = self.disk.call(|state, now| match state.stat(parent) {
                Ok(stat) if stat.is_dir => Ok(()),
                Ok(_) if end < self.path.len() => Err(libc::ENOTDIR),
                Ok(_) => Err(libc::EEXIST),
                Err(_) => state.create_dir(now, parent),
            });
            created?;
        }
        Ok(())
    }

    pub(crate) fn remove_dir(&self) -> io::Result<()> {
        self.disk
            .call(|state, now| state.remove_dir(now, &self.path))
    }

    pub(crate) fn read_dir(&self) -> io::Result<Vec<OsString>> {
        let names = self
            .disk
            .call(|state, now| state.read_dir(now, &self.path))?;
        Ok(names.into_iter().map(OsString::from).collect())
    }

    pub(crate) fn try_exists(&self) -> io::Result<bool> {
        Ok(self.is_dir()?.is_some())
    }

    /// Opens the directory, whose entries can be synced then.
    pub(crate) fn open_dir(&self) -> io::Result<OpenDir> {
        let mode = OpenMode {
            directory: true,
            ..OpenMode::default()
        };
        let inode = self
            .disk
            .call(|state, now| state.open(now, &self.path, mode))?;
        Ok(OpenDir {
            path: self.clone(),
            inode,
            owner: Process::current(),
        })
    }

    fn check_same_disk(&self, other: &Arc<Disk>) -> io::Result<()> {
        match Arc::ptr_eq(&self.disk, other) {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::EXDEV)),
        }
    }
}

/// An open directory of a simulated disk. It is closed when dropped.
#[derive(Debug)]
pub(crate) struct OpenDir {
    path: SimulatedPath,
    inode: Inode,
    owner: Process,
}

impl OpenDir {
    /// Returns the path that it was opened with.
    pub(crate) fn path(&self) -> &SimulatedPath {
        &self.path
    }

    /// Makes the entries durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let disk = &self.path.disk;
        disk.perform_blocking(self.inode, RequestKind::SyncDir)
    }

    /// Does what [`sync`](OpenDir::sync) does, and waits until the disk has completed it.
    pub(crate) async fn sync_async(&self) -> io::Result<()> {
        let disk = &self.path.disk;
        disk.perform(self.inode, RequestKind::SyncDir).await
    }
}

impl Drop for OpenDir {
    fn drop(&mut self) {
        if self.owner != Process::current() {
            return self.path.disk.keep(); // a thread of the parent may have held the lock at the fork
        }
        let mut core = self.path.disk.lock();
        let now = core.now();
        core.state.close(now, self.inode);
    }
}
