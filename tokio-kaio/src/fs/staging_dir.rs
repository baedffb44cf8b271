//! [`StagingDir`]: the directory of a staged file, of the kernel or of a simulated disk.

use std::ffi::CStr;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::Path;

use super::File;
use super::direct::NotDirect;
#[cfg(feature = "simulation")]
use super::simulated_open::file_of;
use crate::op::OpenFile;
#[cfg(feature = "simulation")]
use crate::simulation::{Access, OpenDir, OpenMode, OpenedFile, SimulatedPath};
use crate::sys::{self, Directory};

/// An open directory.
#[derive(Debug)]
pub(super) enum StagingDir {
    Kernel(Directory),
    #[cfg(feature = "simulation")]
    Simulated(OpenDir),
}

/// A file that was just created.
#[derive(Debug)]
pub(super) enum CreatedFile {
    Kernel(std::fs::File),
    #[cfg(feature = "simulation")]
    Simulated(OpenedFile),
}

impl CreatedFile {
    /// Makes it a [`File`], direct if possible.
    pub(super) fn into_file(self) -> Result<File, NotDirect> {
        match self {
            CreatedFile::Kernel(file) => File::direct_or_buffered(file),
            #[cfg(feature = "simulation")]
            CreatedFile::Simulated(opened) => file_of(opened).map_err(NotDirect::Failed),
        }
    }
}

/// How staged files are opened on a simulated disk.
#[cfg(feature = "simulation")]
const READ_WRITE: Access = Access {
    read: true,
    write: true,
    append: false,
    dsync: false,
    sync: false,
    direct: true,
};

impl StagingDir {
    /// Opens a directory. Without `needs_sync`, it need not be readable.
    pub(super) fn open(path: &Path, needs_sync: bool) -> io::Result<StagingDir> {
        #[cfg(feature = "simulation")]
        if let Some(simulated) = SimulatedPath::find(path)? {
            return Ok(StagingDir::Simulated(simulated.open_dir()?));
        }
        let opened = match Directory::open(path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !needs_sync => {
                Directory::open_path(path)
            }
            opened => opened,
        };
        Ok(StagingDir::Kernel(opened?))
    }

    /// Whether the directory is on a simulated disk, whose calls do not wait.
    #[cfg(feature = "simulation")]
    pub(super) fn is_simulated(&self) -> bool {
        matches!(self, StagingDir::Simulated(_))
    }

    /// Creates a file without a name. `None`: there are no such files here, or they could not be named later.
    pub(super) fn create_unnamed(&self, mode: u32) -> io::Result<Option<CreatedFile>> {
        match self {
            StagingDir::Kernel(dir) => match dir.create_unnamed(mode) {
                Ok(file) => Ok(sys::is_linkable(&file).then_some(CreatedFile::Kernel(file))),
                Err(error) => match error.raw_os_error() {
                    // What file systems and kernels without such files return. If there is another reason, it
                    // prevents a file with a name, too.
                    Some(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT | libc::EINVAL) => Ok(None),
                    _ => Err(error),
                },
            },
            #[cfg(feature = "simulation")]
            StagingDir::Simulated(dir) => {
                let opened = dir.path().open_unnamed(READ_WRITE)?;
                Ok(Some(CreatedFile::Simulated(opened)))
            }
        }
    }

    /// Creates a file. `AlreadyExists`: the name is taken.
    pub(super) fn create_new(&self, name: &CStr, mode: u32) -> io::Result<CreatedFile> {
        match self {
            StagingDir::Kernel(dir) => Ok(CreatedFile::Kernel(dir.create_new(name, mode)?)),
            #[cfg(feature = "simulation")]
            StagingDir::Simulated(dir) => {
                let mode = OpenMode {
                    read: true,
                    write: true,
                    create: true,
                    create_new: true,
                    ..OpenMode::default()
                };
                let opened = simulated(dir, name)?.open(mode, READ_WRITE)?;
                Ok(CreatedFile::Simulated(opened))
            }
        }
    }

    /// Gives an open file a name. `AlreadyExists`: the name is taken.
    pub(super) fn link(&self, file: &OpenFile, name: &CStr) -> io::Result<()> {
        match self {
            StagingDir::Kernel(dir) => dir.link(file.file(), name),
            #[cfg(feature = "simulation")]
            StagingDir::Simulated(dir) => match file.simulated() {
                Some(file) => simulated(dir, name)?.link_file(file),
                None => Err(io::Error::from_raw_os_error(libc::EXDEV)),
            },
        }
    }

    /// Gives a file another name. `AlreadyExists`: the name is taken.
    pub(super) fn link_name(&self, from: &CStr, to: &CStr) -> io::Result<()> {
        match self {
            StagingDir::Kernel(dir) => dir.link_name(from, to),
            #[cfg(feature = "simulation")]
            StagingDir::Simulated(dir) => simulated(dir, from)?.hard_link(&simulated(dir, to)?),
        }
    }

    /// Renames a file, and replaces another one.
    pub(super) fn rename(&self, from: &CStr, to: &CStr) -> io::Result<()> {
        match self {
            StagingDir::Kernel(dir) => dir.rename(from, to),
            #[cfg(feature = "simulation")]
            StagingDir::Simulated(dir) => simulated(dir, from)?.rename(&simulated(dir, to)?),
        }
    }

    /// Renames a file. `AlreadyExists`: the name is taken.
    pub(super) fn rename_new(&self, from: &CStr, to: &CStr) -> io::Result<()> {
        match self {
            StagingDir::Kernel(dir) => dir.rename_new(from, to),
            #[cfg(feature = "simulation")]
            StagingDir::Simulated(dir) => simulated(dir, from)?.rename_new(&simulated(dir, to)?),
        }
    }

    /// Removes the name of a file.
    pub(super) fn unlink(&self, name: &CStr) -> io::Result<()> {
        match self {
            StagingDir::Kernel(dir) => dir.unlink(name),
            #[cfg(feature = "simulation")]
            StagingDir::Simulated(dir) => simulated(dir, name)?.remove_file(),
        }
    }

    /// Makes the entries durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        match self {
            StagingDir::Kernel(dir) => dir.sync(),
            #[cfg(feature = "simulation")]
            StagingDir::Simulated(dir) => dir.sync(),
        }
    }

    /// Does what [`sync`](StagingDir::sync) does on a simulated disk, and waits until it has completed.
    #[cfg(feature = "simulation")]
    pub(super) async fn sync_async(&self) -> io::Result<()> {
        match self {
            StagingDir::Kernel(dir) => dir.sync(),
            StagingDir::Simulated(dir) => dir.sync_async().await,
        }
    }

    /// Whether names can't be removed (`chattr +a`).
    pub(super) fn is_append_only(&self) -> bool {
        match self {
            StagingDir::Kernel(dir) => dir.is_append_only(),
            #[cfg(feature = "simulation")]
            StagingDir::Simulated(_) => false,
        }
    }

    /// Returns a number for a temporary name, which others can't predict. On a simulated disk they can: its
    /// names must be the same in every run.
    pub(super) fn number(&self) -> u64 {
        match self {
            // A keyed hash, whose key the system made at random.
            StagingDir::Kernel(_) => RandomState::new().hash_one(()),
            #[cfg(feature = "simulation")]
            StagingDir::Simulated(dir) => dir.path().next_number(),
        }
    }
}

/// Returns the path of a name in the directory.
#[cfg(feature = "simulation")]
fn simulated(dir: &OpenDir, name: &CStr) -> io::Result<SimulatedPath> {
    let name = name
        .to_str()
        .map_err(|_| io::Error::from_raw_os_error(libc::EILSEQ))?;
    Ok(dir.path().join(name))
}
