//! [`Plan`]: what is to be copied to where, found out, and refused, before anything is written.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::args::Args;
use super::place::{self, Place};
use super::space::Space;
use super::trouble::Trouble;
use super::{source, tree};
use crate::paths::parent;

/// All steps of a run.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// New directories whose parent is there: each is filled under a temporary name.
    pub(super) roots: Vec<PathBuf>,
    /// Those before the ones in them.
    pub(super) directories: Vec<Directory>,
    pub(super) symlinks: Vec<Symlink>,
    pub(super) files: Vec<FileStep>,
    /// What is left out.
    pub(super) failed: Vec<(PathBuf, Trouble)>,
    /// Bytes to be read, as far as it is known.
    pub(super) bytes: u64,
    pub(super) space: Space,
    /// True names that a step has already.
    taken: HashSet<PathBuf>,
}

/// A directory to be made, or merged into.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) source: PathBuf,
    pub(super) target: PathBuf,
    pub(super) is_new: bool,
    /// Which of the plan's roots it is, or is in.
    pub(super) root: Option<usize>,
}

/// A symbolic link to be made.
#[derive(Debug)]
pub(super) struct Symlink {
    pub(super) source: PathBuf,
    pub(super) target: PathBuf,
    pub(super) root: Option<usize>,
}

/// A file to be copied.
#[derive(Debug)]
pub(super) struct FileStep {
    pub(super) source: PathBuf,
    pub(super) place: Place,
    pub(super) root: Option<usize>,
    /// It was found in a directory: it is to be a regular file when it is opened, not a link to one.
    pub(super) is_found: bool,
}

/// Where something goes: the path, and what is known of the directory that it is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot<'a> {
    pub(super) target: &'a Path,
    /// The directory's true name.
    pub(super) dir: &'a Path,
    pub(super) root: Option<usize>,
}

impl Plan {
    /// # Errors
    ///
    /// Whatever is wrong with what the command line names. What is wrong with what is found in a
    /// directory is in [`failed`](Plan::failed).
    pub(super) fn new(args: &Args) -> Result<Plan, Trouble> {
        let mut plan = Plan::default();
        let into = is_dir(&args.target);
        if !into && args.sources.len() > 1 {
            return Err(Trouble::new(format!(
                "{} is no directory, and several sources need one; mkdir it",
                args.target.display()
            )));
        }
        for source in &args.sources {
            plan.add(args, source, into)?;
        }
        plan.space.check()?;
        Ok(plan)
    }

    fn add(&mut self, args: &Args, source: &Path, into: bool) -> Result<(), Trouble> {
        // As cp has it: with -r, a link is copied as one.
        let metadata = match args.recursive {
            true => fs::symlink_metadata(source),
            false => fs::metadata(source),
        };
        let metadata = metadata.map_err(|error| unreadable(source, &error))?;
        let target = match (into, own_name(source)) {
            (true, Some(name)) => args.target.join(name),
            _ => args.target.clone(),
        };
        let ends_with = |end: &[u8]| target.as_os_str().as_bytes().ends_with(end);
        if ends_with(b"/.") && !is_dir(&target) {
            return Err(Trouble::new(format!(
                "{} is no directory; mkdir it, or leave the /. out",
                target.display()
            )));
        }
        let dir = true_dir(&target)?;
        let spot = Spot {
            target: &target,
            dir: &dir,
            root: None,
        };
        let kind = metadata.file_type();
        if kind.is_dir() {
            if !args.recursive {
                return Err(Trouble::new(format!(
                    "{} is a directory; --recursive (-r) copies it with all that is in it",
                    source.display()
                )));
            }
            return tree::walk(self, args, source, &metadata, spot);
        }
        if ends_with(b"/") {
            return Err(Trouble::new(format!(
                "{} is no directory; mkdir it, or leave the slash out",
                target.display()
            )));
        }
        match kind.is_symlink() {
            true => self.add_symlink(source, &metadata, spot),
            false => self.add_file(args, source, &metadata, spot, false),
        }
    }

    pub(super) fn add_file(
        &mut self,
        args: &Args,
        source: &Path,
        metadata: &Metadata,
        spot: Spot<'_>,
        is_found: bool,
    ) -> Result<(), Trouble> {
        source::refuse_others(source, metadata, is_found)?;
        let place = Place::of(args, source, metadata, spot.target, is_found)?;
        self.take(source, spot, place.path())?;
        let extent = source::extent(args, source, metadata, &place)?;
        place.refuse_too_long(source, extent.length)?;
        if place.is_file() {
            self.space.add(spot.dir, extent.allocated)?;
        }
        self.bytes += extent.read;
        self.files.push(FileStep {
            source: source.into(),
            place,
            root: spot.root,
            is_found,
        });
        Ok(())
    }

    pub(super) fn add_symlink(
        &mut self,
        source: &Path,
        metadata: &Metadata,
        spot: Spot<'_>,
    ) -> Result<(), Trouble> {
        let target = spot.target;
        let there = place::there(target)?;
        if let Some(there) = &there {
            place::refuse_same(source, metadata, target, there)?;
            if there.is_dir() {
                return Err(place::is_a_directory(source, target));
            }
            // A device's name, for one, is not lost for a link.
            if !there.is_file() && !there.is_symlink() {
                return Err(place::is_of_no_kind(target, " nor a symbolic link"));
            }
        }
        self.take(source, spot, target)?;
        self.symlinks.push(Symlink {
            source: source.into(),
            target: target.into(),
            root: spot.root,
        });
        Ok(())
    }

    /// No two steps have one target. `path` is where a link at the spot leads, which is a true name, or
    /// the spot's own.
    pub(super) fn take(
        &mut self,
        source: &Path,
        spot: Spot<'_>,
        path: &Path,
    ) -> Result<(), Trouble> {
        let name = spot.target.file_name().unwrap_or(OsStr::new("."));
        let true_name = match path == spot.target {
            true => spot.dir.join(name),
            false => path.into(),
        };
        if self.taken.insert(true_name) {
            return Ok(());
        }
        Err(Trouble::new(format!(
            "{} would be copied to {}, to which another source is; copy one of them by itself, under \
             another name",
            source.display(),
            spot.target.display()
        )))
    }
}

pub(super) fn unreadable(source: &Path, error: &io::Error) -> Trouble {
    let is_link = fs::symlink_metadata(source).is_ok_and(|metadata| metadata.is_symlink());
    match error.kind() {
        ErrorKind::NotFound if is_link => Trouble::new(format!(
            "can't read {}: it is a symbolic link to what is not there; -r copies the link",
            source.display()
        )),
        _ => Trouble::of("read", source, error),
    }
}

fn is_dir(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// The name that a source has in a directory. `None`: it is what is in it that is copied, as for
/// `dir/.`.
fn own_name(source: &Path) -> Option<&OsStr> {
    let bytes = source.as_os_str().as_bytes();
    let inside = bytes == b"." || bytes.ends_with(b"/.");
    source.file_name().filter(|_| !inside)
}

/// The true name of the directory that `target` is in.
fn true_dir(target: &Path) -> Result<PathBuf, Trouble> {
    let dir = parent(target);
    fs::canonicalize(dir).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Trouble::new(format!(
            "can't create {}: its directory {} is not there; mkdir -p it",
            target.display(),
            dir.display()
        )),
        _ => Trouble::of("look into", dir, &error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_its_last_name_unless_what_is_in_it_is_meant() {
        let name = |path| own_name(Path::new(path)).map(OsStr::as_bytes);
        assert_eq!(name("a/b"), Some(&b"b"[..]));
        assert_eq!(name("a/b/"), Some(&b"b"[..]));
        for inside in [".", "a/.", "..", "a/..", "/"] {
            assert_eq!(name(inside), None, "{inside}");
        }
    }
}
