//! [`Site`]: a place with a file.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::leftovers::Leftover;
use crate::{Buffer, Place, Result, Unavailable};

/// A place with a file to measure with, which is removed when this is dropped.
#[derive(Debug)]
pub struct Site {
    /// The directory that it was made in.
    pub place: Place,
    /// The file. All of its bytes are on disk.
    pub file: PathBuf,
    _dir: Leftover,
}

impl Site {
    /// A file of `len` bytes, a multiple of what direct I/O wants, in a directory of its own in
    /// `parent`. `direct`: it has to be one that direct I/O can be done on.
    ///
    /// # Errors
    ///
    /// Where it can't be made: no space; no direct I/O, which is [`Unavailable`].
    pub fn new(parent: &Path, len: u64, direct: bool) -> Result<Site> {
        let dir = Leftover::dir(parent, "kaio-bench-").map_err(|error| {
            let place = parent.display();
            format!("can't make a directory in {place}: {error}; name another place")
        })?;
        let site = Site {
            place: Place::of(parent)?,
            file: dir.path().join("blocks"),
            _dir: dir,
        };
        let made = room_for(len, parent).and_then(|()| fill(&site.file, len, direct));
        made.map_err(|error| {
            let (place, mib) = (parent.display(), len.div_ceil(1 << 20));
            let kind = if direct { " for direct I/O" } else { "" };
            let what = format!("can't make a file of {mib} MiB{kind} in {place}: {error}");
            match error.raw_os_error() {
                Some(libc::EINVAL) if direct => Unavailable(format!(
                    "{what}: its file system has no direct I/O; take another"
                ))
                .into(),
                Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => {
                    format!("{what}; --size makes it smaller").into()
                }
                _ => Error::from(what),
            }
        })?;
        Ok(site)
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Whether `len` bytes can be had in `dir`. Asked first, lest the disk be filled to find out.
///
/// # Errors
///
/// `ENOSPC`, where they can't.
pub(crate) fn room_for(len: u64, dir: &Path) -> std::io::Result<()> {
    let space = rustix::fs::statvfs(dir)?;
    // None at all: one that does not count, as ramfs.
    let is_short = space.f_blocks > 0 && space.f_bfree.saturating_mul(space.f_frsize) < len;
    match is_short {
        true => Err(std::io::Error::from_raw_os_error(libc::ENOSPC)),
        false => Ok(()),
    }
}

/// Makes a file with all of its bytes on disk; if it is `direct`, none are in the page cache.
fn fill(path: &Path, len: u64, direct: bool) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    let flags = if direct { libc::O_DIRECT } else { 0 };
    let mut file = options.custom_flags(flags).open(path)?;
    let chunk = Buffer::new(1 << 20);
    let mut left = len;
    while left > 0 {
        let part = left.min(chunk.len() as u64);
        file.write_all(&chunk[..part as usize])?;
        left -= part;
    }
    file.sync_all()
}
