//! [`all`]: the places that are asked for.

use std::path::{Path, PathBuf};

use crate::{Result, Site};

/// One in each of `parents`; if there are none, in `target` or else here, and on tmpfs where that
/// has direct I/O.
pub(super) fn all(parents: &[PathBuf], len: u64) -> Result<Vec<Site>> {
    let mut sites: Vec<Site> = Vec::new();
    let mut add = |parent: &Path| {
        let mut site = Site::new(parent, len, true)?;
        let same = |other: &&Site| other.place.file_system == site.place.file_system;
        let named = |other: &&Site| other.place.name.starts_with(&site.place.name) && same(other);
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
