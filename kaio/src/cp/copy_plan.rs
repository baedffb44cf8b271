//! [`CopyPlan`]: the steps of a run. Requests that can't succeed are refused before anything is written.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::copy_error::CopyError;
use super::cp_args::{CpArgs, ReflinkMode};
use super::destination::{self, Destination};
use super::free_space::SpaceCheck;
use super::hard_links::{self, HardLink, KnownFiles};
use super::pipes::PipeStep;
use super::{inode_flags, small_files, source_file, tree_walk};
use crate::paths::parent;

/// The steps of a run.
#[derive(Debug, Default)]
pub(super) struct CopyPlan {
    /// New directories whose parent exists. Each is filled under a temporary name.
    pub(super) roots: Vec<PathBuf>,
    /// Directories, each before its subdirectories.
    pub(super) directories: Vec<Directory>,
    pub(super) symlinks: Vec<Symlink>,
    pub(super) files: Vec<FileStep>,
    /// Further names of these files.
    pub(super) hard_links: Vec<HardLink>,
    /// The run copies a pipe, and nothing else.
    pub(super) pipe: Option<PipeStep>,
    /// Entries that can't be copied.
    pub(super) failed: Vec<(PathBuf, CopyError)>,
    /// Bytes to read, as far as they are known.
    pub(super) bytes: u64,
    pub(super) space: SpaceCheck,
    /// Canonical paths that are the target of a step.
    taken: HashSet<PathBuf>,
    known_files: KnownFiles,
    /// The last directory that was found to be unprotected.
    unprotected: Option<PathBuf>,
}

/// A directory to create or to merge into.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) source: PathBuf,
    pub(super) target: PathBuf,
    pub(super) is_new: bool,
    /// The index in [`CopyPlan::roots`] of the root that is or contains the directory.
    pub(super) root: Option<usize>,
}

/// A symbolic link to create.
#[derive(Debug)]
pub(super) struct Symlink {
    pub(super) source: PathBuf,
    pub(super) target: PathBuf,
    pub(super) root: Option<usize>,
}

/// A file to copy.
#[derive(Debug)]
pub(super) struct FileStep {
    pub(super) source: PathBuf,
    pub(super) destination: Destination,
    pub(super) root: Option<usize>,
    /// It was found in a directory, so it must be a regular file when it is opened, and not a link.
    pub(super) is_found: bool,
    /// Bytes to read.
    pub(super) bytes: u64,
    /// It is copied with other small files.
    pub(super) is_small: bool,
}

/// The path of a target, and its directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct TargetLocation<'a> {
    pub(super) target: &'a Path,
    /// The canonical path of the directory.
    pub(super) dir: &'a Path,
    pub(super) root: Option<usize>,
    /// The directory is new, so nothing exists in it.
    pub(super) is_dir_new: bool,
}

impl CopyPlan {
    /// Makes the plan for a command line.
    ///
    /// # Errors
    ///
    /// An entry on the command line can't be copied. Entries of a directory that can't be copied are in
    /// [`failed`](CopyPlan::failed).
    pub(super) fn new(args: &CpArgs) -> Result<CopyPlan, CopyError> {
        let mut plan = CopyPlan::default();
        if let Some(pipe) = PipeStep::of(args)? {
            plan.pipe = Some(pipe);
            return Ok(plan);
        }
        let into = is_dir(&args.target);
        if !into && args.sources.len() > 1 {
            return Err(CopyError::new(format!(
                "{} is not a directory, which several sources require; create it with mkdir",
                args.target.display()
            )));
        }
        for source in &args.sources {
            plan.add(args, source, into)?;
        }
        plan.space.check()?;
        Ok(plan)
    }

    fn add(&mut self, args: &CpArgs, source: &Path, into: bool) -> Result<(), CopyError> {
        // As in cp: with -r, a link is copied as a link.
        let metadata = match args.recursive {
            true => fs::symlink_metadata(source),
            false => fs::metadata(source),
        };
        let metadata = metadata.map_err(|error| read_error(source, &error))?;
        let target = match (into, name_in_directory(source)) {
            (true, Some(name)) => args.target.join(name),
            _ => args.target.clone(),
        };
        let ends_with = |end: &[u8]| target.as_os_str().as_bytes().ends_with(end);
        if ends_with(b"/.") && !is_dir(&target) {
            return Err(CopyError::new(format!(
                "{} is not a directory; create it with mkdir, or omit the /.",
                target.display()
            )));
        }
        let dir = canonical_dir(&target)?;
        let location = TargetLocation {
            target: &target,
            dir: &dir,
            root: None,
            is_dir_new: false,
        };
        let kind = metadata.file_type();
        if kind.is_dir() {
            if !args.recursive {
                return Err(CopyError::new(format!(
                    "{} is a directory; use --recursive (-r) to copy directories",
                    source.display()
                )));
            }
            return tree_walk::walk(self, args, source, &metadata, location);
        }
        if ends_with(b"/") {
            return Err(CopyError::new(format!(
                "{} is not a directory; create it with mkdir, or omit the slash",
                target.display()
            )));
        }
        match kind.is_symlink() {
            true => self.add_symlink(source, &metadata, location),
            false => self.add_file(args, source, &metadata, location, false),
        }
    }

    pub(super) fn add_file(
        &mut self,
        args: &CpArgs,
        source: &Path,
        metadata: &Metadata,
        location: TargetLocation<'_>,
        is_found: bool,
    ) -> Result<(), CopyError> {
        source_file::refuse_special_files(source, metadata, is_found)?;
        let destination = match location.is_dir_new {
            true => Destination::new_file(location.target),
            false => Destination::of(args, source, metadata, location.target, is_found)?,
        };
        if destination.is_file() {
            self.refuse_protected_dir(location, destination.path())?;
        }
        self.reserve(source, location, destination.path())?;
        let size = source_file::source_size(args, source, metadata, &destination)?;
        destination.refuse_too_long(source, size.length)?;
        let is_linked =
            args.preserve && destination.is_file() && hard_links::has_further_names(metadata);
        if destination.is_file() {
            let device = self.space.device_of(location.dir)?;
            let next = self.files.len();
            let first = is_linked.then(|| self.known_files.first(metadata, device, next));
            if let Some(first) = first.flatten() {
                self.hard_links.push(HardLink {
                    source: source.into(),
                    destination,
                    root: location.root,
                    first,
                });
                return Ok(());
            }
            let is_shared = args.reflink_mode() != ReflinkMode::Never && device == metadata.dev();
            self.space.add(location.dir, size.allocated, is_shared)?;
        }
        self.bytes += size.read;
        self.files.push(FileStep {
            source: source.into(),
            // The other names are linked to a file that has its name already.
            is_small: !is_linked && small_files::is_small(args, metadata, &size, &destination),
            destination,
            root: location.root,
            is_found,
            bytes: size.read,
        });
        Ok(())
    }

    pub(super) fn add_symlink(
        &mut self,
        source: &Path,
        metadata: &Metadata,
        location: TargetLocation<'_>,
    ) -> Result<(), CopyError> {
        let target = location.target;
        let existing = match location.is_dir_new {
            true => None,
            false => destination::metadata_of(target)?,
        };
        self.refuse_protected_dir(location, target)?;
        if let Some(existing) = &existing {
            destination::refuse_same(source, metadata, target, existing)?;
            if existing.is_dir() {
                return Err(destination::is_a_directory(source, target));
            }
            // A link must not replace the name of a device, for example.
            if !existing.is_file() && !existing.is_symlink() {
                return Err(destination::unsupported_kind(
                    target,
                    " nor a symbolic link",
                ));
            }
        }
        self.reserve(source, location, target)?;
        self.symlinks.push(Symlink {
            source: source.into(),
            target: target.into(),
            root: location.root,
        });
        Ok(())
    }

    /// Refuses a target whose directory `chattr` protects. A path that is not that of `location` is
    /// where a link there points to.
    pub(super) fn refuse_protected_dir(
        &mut self,
        location: TargetLocation<'_>,
        path: &Path,
    ) -> Result<(), CopyError> {
        let dir = match path == location.target {
            true => location.dir,
            false => parent(path),
        };
        if location.is_dir_new || self.unprotected.as_deref() == Some(dir) {
            return Ok(());
        }
        inode_flags::refuse_protected_dir(path, dir)?;
        self.unprotected = Some(dir.into());
        Ok(())
    }

    /// Reserves a target for `source`. `path` is the target of `location`, or the canonical path that a
    /// link there points to.
    ///
    /// # Errors
    ///
    /// Another source has the same target.
    pub(super) fn reserve(
        &mut self,
        source: &Path,
        location: TargetLocation<'_>,
        path: &Path,
    ) -> Result<(), CopyError> {
        let name = location.target.file_name().unwrap_or(OsStr::new("."));
        let canonical_name = match path == location.target {
            true => location.dir.join(name),
            false => path.into(),
        };
        if self.taken.insert(canonical_name) {
            return Ok(());
        }
        Err(CopyError::new(format!(
            "{} and another source would both be copied to {}; copy one of them separately, to another \
             name",
            source.display(),
            location.target.display()
        )))
    }
}

pub(super) fn read_error(source: &Path, error: &io::Error) -> CopyError {
    let is_link = fs::symlink_metadata(source).is_ok_and(|metadata| metadata.is_symlink());
    match error.kind() {
        ErrorKind::NotFound if is_link => CopyError::new(format!(
            "can't read {}: it is a symbolic link to a missing file; use -r to copy the link",
            source.display()
        )),
        _ => CopyError::of("read", source, error),
    }
}

pub(super) fn is_dir(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// The name of the copy in a target directory. `None`: the content of the source is copied, as for
/// `dir/.`.
fn name_in_directory(source: &Path) -> Option<&OsStr> {
    let bytes = source.as_os_str().as_bytes();
    let inside = bytes == b"." || bytes.ends_with(b"/.");
    source.file_name().filter(|_| !inside)
}

/// The canonical path of the directory that contains `target`.
pub(super) fn canonical_dir(target: &Path) -> Result<PathBuf, CopyError> {
    let dir = parent(target);
    fs::canonicalize(dir).map_err(|error| match error.kind() {
        ErrorKind::NotFound => CopyError::new(format!(
            "can't create {}: the directory {} does not exist; create it with mkdir -p",
            target.display(),
            dir.display()
        )),
        _ => CopyError::of("search", dir, &error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_keeps_its_name_unless_its_content_is_copied() {
        let name = |path| name_in_directory(Path::new(path)).map(OsStr::as_bytes);
        assert_eq!(name("a/b"), Some(&b"b"[..]));
        assert_eq!(name("a/b/"), Some(&b"b"[..]));
        for inside in [".", "a/.", "..", "a/..", "/"] {
            assert_eq!(name(inside), None, "{inside}");
        }
    }
}
