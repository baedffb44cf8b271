//! [`NewDirectories`]: new directories, under temporary names until their content is complete.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tokio_kaio::sync_dir_blocking;

use super::copy_error::CopyError;
use super::copy_plan::{CopyPlan, Directory, Symlink};
use super::destination;
use super::durability::Durability;
use super::file_attributes::{self, FileAttributes};
use super::session::Session;
use super::short_path::ShortPath;
use super::staged_path::{StagedPath, creation_error, make_next_to};
use crate::paths::parent;

/// The new directories whose parent existed before.
#[derive(Debug)]
pub(super) struct NewDirectories {
    /// Each directory under its temporary name, and its final path.
    made: Vec<(StagedPath, PathBuf)>,
}

impl NewDirectories {
    /// Creates all new directories of a plan.
    pub(super) fn create(plan: &CopyPlan) -> Result<NewDirectories, CopyError> {
        let mut roots = NewDirectories { made: Vec::new() };
        for path in &plan.roots {
            let (made, ()) =
                make_next_to(path, create_private).map_err(|error| creation_error(path, &error))?;
            roots.made.push((made, path.clone()));
        }
        for directory in plan.directories.iter().filter(|directory| directory.is_new) {
            let staged = roots.staged(directory.root, &directory.target);
            if is_root(plan, directory) {
                continue;
            }
            // Nobody sees it before its root gets its name.
            let created = ShortPath::of(&staged).and_then(|staged| create_private(staged.path()));
            created.map_err(|error| CopyError::of("create", &directory.target, &error))?;
        }
        Ok(roots)
    }

    /// The current path of `target`.
    pub(super) fn staged(&self, root: Option<usize>, target: &Path) -> PathBuf {
        let root = root.and_then(|root| self.made.get(root));
        root.and_then(|(made, path)| Some((made.path(), target.strip_prefix(path).ok()?)))
            // Joining an empty path would append a slash.
            .map(|(made, rest)| match rest.as_os_str().is_empty() {
                true => made.into(),
                false => made.join(rest),
            })
            .unwrap_or_else(|| target.into())
    }

    /// Gives the new directories, whose content is complete, their modes and times, and flushes them, unless
    /// `durability` does that later.
    pub(super) fn set_attributes(
        &self,
        session: &Session<'_>,
        directories: &[Directory],
        durability: &Durability,
    ) -> Result<(), CopyError> {
        let new = directories
            .iter()
            .rev()
            .filter(|directory| directory.is_new);
        for directory in new {
            let staged = self.staged(directory.root, &directory.target);
            finish(session, directory, &staged, durability.is_each_file())?;
        }
        Ok(())
    }

    /// Gives the new directories their names, and makes them durable. `dirs` are other directories whose
    /// entries have changed.
    pub(super) fn publish(
        self,
        session: &Session<'_>,
        directories: &[Directory],
        mut dirs: BTreeSet<PathBuf>,
    ) -> Result<(), CopyError> {
        for (made, path) in self.made {
            if destination::metadata_of(&path)?.is_some() {
                return Err(CopyError::new(format!(
                    "another program created {} during the copy; check it, and copy again",
                    path.display()
                )));
            }
            made.rename()
                .map_err(|error| CopyError::of("create", &path, &error))?;
            dirs.insert(parent(&path).into());
        }
        let existing = directories
            .iter()
            .rev()
            .filter(|directory| !directory.is_new);
        if session.args.preserve {
            for directory in existing {
                finish(
                    session,
                    directory,
                    &directory.target,
                    session.args.durable(),
                )?;
            }
        }
        if session.args.durable() {
            for dir in dirs {
                // The error names the directory.
                sync_dir_blocking(&dir).map_err(|error| CopyError::from_library(&error))?;
            }
        }
        Ok(())
    }
}

/// Whether a directory is a root itself.
fn is_root(plan: &CopyPlan, directory: &Directory) -> bool {
    let root = directory.root.and_then(|root| plan.roots.get(root));
    root == Some(&directory.target)
}

/// Creates a directory that other users can't access until it gets its own mode.
fn create_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// Sets the attributes of a directory, whose current path is `staged`, and flushes it if `is_flushed`.
fn finish(
    session: &Session<'_>,
    directory: &Directory,
    staged: &Path,
    is_flushed: bool,
) -> Result<(), CopyError> {
    let failed = |error| CopyError::of("set mode, owner or times of", &directory.target, &error);
    let staged = ShortPath::of(staged).map_err(failed)?;
    let dir = File::open(staged.path()).map_err(failed)?;
    let source = &directory.source;
    match attributes(session, source) {
        Ok(attributes) => {
            let lost = attributes.apply(&dir).map_err(failed)?;
            session.attributes_lost(&directory.target, &lost);
        }
        // The content of the directory is copied nevertheless.
        Err(error) => session.report_failed(source, CopyError::of("examine", source, &error)),
    }
    match is_flushed {
        true => sync(&dir).map_err(failed),
        false => Ok(()),
    }
}

fn attributes(session: &Session<'_>, source: &Path) -> io::Result<FileAttributes> {
    if !session.args.preserve {
        return Ok(FileAttributes::for_new(
            &fs::metadata(source)?,
            session.umask,
        ));
    }
    match File::open(source) {
        Ok(dir) => FileAttributes::preserved(&dir.metadata()?, &dir),
        // The error of listing the directory is reported elsewhere.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            FileAttributes::preserved_unopened(source)
        }
        Err(error) => Err(error),
    }
}

/// Flushes a directory. File systems that can't do that return `EINVAL`.
fn sync(dir: &File) -> io::Result<()> {
    match dir.sync_all() {
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
        done => done,
    }
}

/// Copies a symbolic link.
pub(super) fn link(session: &Session<'_>, step: &Symlink, staged: &Path) -> Result<(), CopyError> {
    let unread = |error| CopyError::of("read", &step.source, &error);
    let failed = |error| CopyError::of("create", &step.target, &error);
    let link_target = fs::read_link(&step.source).map_err(unread)?;
    let make = |path: &Path| std::os::unix::fs::symlink(&link_target, path);
    let (made, ()) = make_next_to(staged, make).map_err(failed)?;
    if session.args.preserve {
        let metadata: Metadata = fs::symlink_metadata(&step.source).map_err(unread)?;
        file_attributes::copy_symlink_attributes(&metadata, made.path()).map_err(failed)?;
    }
    made.rename().map_err(failed)
}
