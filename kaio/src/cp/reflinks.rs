//! [`Reflinks`]: copies that share their blocks with the source, for `--reflink`.

use std::collections::HashSet;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::ioctl_ficlone;
use rustix::io::Errno;

use super::copy_error::CopyError;
use super::cp_args::{CpArgs, ReflinkMode};

/// Makes reflinks with
/// [`FICLONE`](https://man7.org/linux/man-pages/man2/ioctl_ficlone.2.html), and remembers between which
/// devices that is not possible.
#[derive(Debug)]
pub(super) struct Reflinks {
    mode: ReflinkMode,
    /// Pairs of a source's and a target's device.
    impossible: Mutex<HashSet<(u64, u64)>>,
}

impl Reflinks {
    pub(super) fn new(args: &CpArgs) -> Reflinks {
        Reflinks {
            mode: args.reflink_mode(),
            impossible: Mutex::default(),
        }
    }

    /// Lets the empty file `target` share all blocks of `source`. `devices` are those of the source and of
    /// the target. Returns `false` if the data has to be copied.
    ///
    /// # Errors
    ///
    /// `--reflink always`, and the file system can't do it.
    pub(super) fn clone_file(
        &self,
        (source, source_path): (impl AsFd, &Path),
        (target, target_path): (impl AsFd, &Path),
        devices: (u64, u64),
    ) -> Result<bool, CopyError> {
        match self.mode {
            ReflinkMode::Never => return Ok(false),
            ReflinkMode::Auto if self.impossible().contains(&devices) => return Ok(false),
            ReflinkMode::Auto | ReflinkMode::Always => {}
        }
        let Err(errno) = ioctl_ficlone(target, source) else {
            return Ok(true);
        };
        match (self.mode, errno) {
            (_, Errno::NOSPC | Errno::DQUOT) => {
                let error = io::Error::from(errno);
                Err(CopyError::of("create a reflink at", target_path, &error))
            }
            (ReflinkMode::Always, _) => Err(CopyError::new(format!(
                "can't create {} as a reflink of {}: {}; use --reflink auto, or copy within one file system \
                 that has reflinks (btrfs, XFS)",
                target_path.display(),
                source_path.display(),
                io::Error::from(errno)
            ))),
            (_, Errno::OPNOTSUPP | Errno::XDEV | Errno::NOTTY | Errno::NOSYS) => {
                self.impossible().insert(devices);
                Ok(false)
            }
            // This file can't be shared: a swap file, for example.
            _ => Ok(false),
        }
    }

    fn impossible(&self) -> std::sync::MutexGuard<'_, HashSet<(u64, u64)>> {
        self.impossible
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
