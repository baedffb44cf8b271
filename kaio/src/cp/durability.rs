//! [`Durability`]: how the copies of a run become durable.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::syncfs;
use rustix::system::uname;

use super::copy_error::CopyError;
use super::copy_plan::CopyPlan;
use super::cp_args::CpArgs;
use super::file_system_type::{self, BTRFS, EXT4, TMPFS, XFS};

/// Up to this many files are flushed one by one: `syncfs` also writes what other programs have changed.
const FLUSHED_ONE_BY_ONE: usize = 16;

/// The first version whose `syncfs` reports every error: of the data since 5.8, of the file system since
/// 5.17.
const RELIABLE_SYNCFS: (u32, u32) = (5, 17);

/// How the copies of a run become durable.
#[derive(Debug)]
pub(super) enum Durability {
    /// Not at all: `--no-fsync`.
    None,
    /// Each file is flushed before it gets its name, and each directory.
    EachFile,
    /// All new names are given after everything is written and every file system is flushed, once. A new
    /// directory gets its name then, so its content needs no flush of its own.
    ///
    /// Opened before the first write: `syncfs` reports the errors since then.
    FileSystems(Vec<(PathBuf, File)>),
}

impl Durability {
    pub(super) fn of(args: &CpArgs, plan: &CopyPlan) -> Durability {
        if !args.durable() {
            return Durability::None;
        }
        let is_deferred = |step: &&super::copy_plan::FileStep| step.is_small || step.root.is_some();
        let deferred = plan.files.iter().filter(is_deferred).count();
        if deferred <= FLUSHED_ONE_BY_ONE || !is_syncfs_reliable() {
            return Durability::EachFile;
        }
        let open = |dir: &Path| {
            // Others, such as overlayfs and FUSE, don't report all errors, or don't flush at all.
            let kind = file_system_type::of(dir)?;
            let is_known = [BTRFS, EXT4, TMPFS, XFS].contains(&kind);
            Some((dir.into(), File::open(dir).ok().filter(|_| is_known)?))
        };
        let opened: Option<Vec<_>> = plan.space.directories().map(open).collect();
        opened.map_or(Durability::EachFile, Durability::FileSystems)
    }

    /// Whether a small file, or a file in a new directory, is flushed by itself.
    pub(super) fn is_each_file(&self) -> bool {
        matches!(self, Durability::EachFile)
    }

    /// Whether names are given after [`flush`](Durability::flush).
    pub(super) fn is_deferred(&self) -> bool {
        matches!(self, Durability::FileSystems(_))
    }

    /// Flushes what is not flushed one by one.
    ///
    /// # Errors
    ///
    /// Something that was written since the start of the run is not durable.
    pub(super) fn flush(&self) -> Result<(), CopyError> {
        let Durability::FileSystems(file_systems) = self else {
            return Ok(());
        };
        for (dir, file) in file_systems {
            syncfs(file).map_err(|errno| {
                CopyError::of("make durable the file system of", dir, &errno.into())
            })?;
        }
        Ok(())
    }
}

fn is_syncfs_reliable() -> bool {
    let release = uname();
    let release = release.release().to_string_lossy();
    version(&release).is_some_and(|version| version >= RELIABLE_SYNCFS)
}

/// Major and minor version of a release such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']);
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_a_kernel_is_compared_by_numbers() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("5.17-rc1"), Some((5, 17)));
        assert!(version("5.4.0").unwrap() < RELIABLE_SYNCFS);
        assert!(version("10.0").unwrap() > RELIABLE_SYNCFS);
        assert_eq!(version("unknown"), None);
    }
}
