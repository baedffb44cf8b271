//! [`Site`]: a place with a file.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::leftovers::Leftover;
use crate::{Buffer, Place, Result};

/// A place with a file to measure with.
pub(super) struct Site {
    pub(super) place: Place,
    pub(super) file: PathBuf,
    /// Removed at the end.
    _dir: Leftover,
}

impl Site {
    /// One in each of `parents`; if there are none, in `target` or else here, and on tmpfs where that
    /// has direct I/O.
    pub(super) fn all(parents: &[PathBuf], len: u64) -> Result<Vec<Site>> {
        let mut sites: Vec<Site> = Vec::new();
        let mut add = |parent: &Path| {
            let mut site = Site::new(parent, len)?;
            let same = |other: &&Site| other.place.file_system == site.place.file_system;
            let named =
                |other: &&Site| other.place.name.starts_with(&site.place.name) && same(other);
            match sites.iter().filter(named).count() {
                0 => {}
                n => site.place.name = format!("{}-{}", site.place.name, n + 1),
            }
            sites.push(site);
            Result::Ok(())
        };
        if parents.is_empty() {
            let target = Path::new("target");
            add(if target.is_dir() {
                target
            } else {
                Path::new(".")
            })?;
            if let Err(error) = add(Path::new("/dev/shm")) {
                eprintln!("without tmpfs: {error}");
            }
        }
        parents.iter().try_for_each(|parent| add(parent))?;
        Ok(sites)
    }

    pub(super) fn new(parent: &Path, len: u64) -> Result<Site> {
        let dir = Leftover::dir(parent, "kaio-bench-").map_err(|error| {
            let place = parent.display();
            format!("can't make a directory in {place}: {error}")
        })?;
        let site = Site {
            place: Place::of(parent)?,
            file: dir.path().join("blocks"),
            _dir: dir,
        };
        fill(&site.file, len).map_err(|error| {
            let (place, mib) = (parent.display(), len >> 20);
            let way_out = match error.raw_os_error() {
                Some(libc::EINVAL) => ": its file system has no direct I/O; --dir takes another",
                Some(libc::ENOSPC | libc::EDQUOT) => "; --size makes it smaller",
                _ => "",
            };
            format!("can't make a file of {mib} MiB for direct I/O in {place}: {error}{way_out}")
        })?;
        Ok(site)
    }
}

/// Makes a file with all of its bytes on disk, and none in the page cache.
fn fill(path: &Path, len: u64) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    let mut file = options.custom_flags(libc::O_DIRECT).open(path)?;
    let chunk = Buffer::new(1 << 20);
    for _ in 0..len >> 20 {
        file.write_all(&chunk)?;
    }
    file.sync_all()
}
