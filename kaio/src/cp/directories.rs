//! [`Roots`]: new directories, under temporary names until all in them is complete.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use kaio_bench::temp_path::TempPath;

use super::place;
use super::plan::{Directory, Plan, Symlink};
use super::preserve::{self, Likeness};
use super::session::Session;
use super::target::make_beside;
use super::trouble::Trouble;
use crate::paths::parent;

/// The new directories whose parent was there before.
#[derive(Debug)]
pub(super) struct Roots {
    /// Each under its temporary name, with the one that it gets.
    made: Vec<(TempPath, PathBuf)>,
}

impl Roots {
    /// Makes all new directories of a plan.
    pub(super) fn make(plan: &Plan) -> Result<Roots, Trouble> {
        let mut roots = Roots { made: Vec::new() };
        for path in &plan.roots {
            let (made, ()) = make_beside(path, make_private)
                .map_err(|error| Trouble::of("create", path, &error))?;
            roots.made.push((made, path.clone()));
        }
        for directory in plan.directories.iter().filter(|directory| directory.is_new) {
            let staged = roots.staged(directory.root, &directory.target);
            if !staged.exists() {
                let made = make_beside(&staged, make_private);
                let renamed = made.and_then(|(made, ())| made.rename(&staged));
                renamed.map_err(|error| Trouble::of("create", &directory.target, &error))?;
            }
        }
        Ok(roots)
    }

    /// What `target` is called for now.
    pub(super) fn staged(&self, root: Option<usize>, target: &Path) -> PathBuf {
        let root = root.and_then(|root| self.made.get(root));
        root.and_then(|(made, path)| Some((made.path(), target.strip_prefix(path).ok()?)))
            // Joined with nothing, it would end in a slash.
            .map(|(made, rest)| match rest.as_os_str().is_empty() {
                true => made.into(),
                false => made.join(rest),
            })
            .unwrap_or_else(|| target.into())
    }

    /// All that goes into the directories is there: gives them their modes, times and names, and makes
    /// them durable. `dirs` are further ones in which something was made.
    pub(super) fn finish(
        self,
        session: &Session<'_>,
        directories: &[Directory],
        mut dirs: BTreeSet<PathBuf>,
    ) -> Result<(), Trouble> {
        for directory in directories
            .iter()
            .rev()
            .filter(|directory| directory.is_new)
        {
            let staged = self.staged(directory.root, &directory.target);
            finish(session, directory, &staged)?;
        }
        for (made, path) in self.made {
            if place::there(&path)?.is_some() {
                return Err(Trouble::new(format!(
                    "{} was made by somebody else while it was copied to; look at it, and copy again",
                    path.display()
                )));
            }
            made.rename(&path)
                .map_err(|error| Trouble::of("create", &path, &error))?;
            dirs.insert(parent(&path).into());
        }
        for directory in directories
            .iter()
            .rev()
            .filter(|directory| !directory.is_new)
        {
            if session.args.preserve {
                finish(session, directory, &directory.target)?;
            }
        }
        if session.args.durable() {
            for dir in dirs {
                let synced = File::open(&dir).and_then(|dir| sync(&dir));
                synced.map_err(|error| Trouble::of("make durable", &dir, &error))?;
            }
        }
        Ok(())
    }
}

/// Nobody else looks in before it has its own mode.
fn make_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// Gives a directory, which is called `staged` so far, what it is to have of its source.
fn finish(session: &Session<'_>, directory: &Directory, staged: &Path) -> Result<(), Trouble> {
    let failed = |error| Trouble::of("finish", &directory.target, &error);
    let dir = File::open(staged).map_err(failed)?;
    let source = &directory.source;
    match likeness(session, source) {
        Ok(likeness) => {
            let lost = likeness.give(&dir).map_err(failed)?;
            session.attributes_lost(&directory.target, &lost);
        }
        // What is in it is copied.
        Err(error) => session.left_out(source, Trouble::of("look at", source, &error)),
    }
    match session.args.durable() {
        true => sync(&dir).map_err(failed),
        false => Ok(()),
    }
}

fn likeness(session: &Session<'_>, source: &Path) -> io::Result<Likeness> {
    if !session.args.preserve {
        return Ok(Likeness::of_new(&fs::metadata(source)?, session.umask));
    }
    match File::open(source) {
        Ok(dir) => Likeness::preserved(&dir.metadata()?, &dir),
        // That it could not be listed either is told.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Likeness::preserved_unopened(source)
        }
        Err(error) => Err(error),
    }
}

/// File systems that have no such thing for directories say `EINVAL`.
fn sync(dir: &File) -> io::Result<()> {
    match dir.sync_all() {
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
        done => done,
    }
}

/// Makes a symbolic link like another.
pub(super) fn link(session: &Session<'_>, step: &Symlink, staged: &Path) -> Result<(), Trouble> {
    let unread = |error| Trouble::of("read", &step.source, &error);
    let failed = |error| Trouble::of("create", &step.target, &error);
    let leads_to = fs::read_link(&step.source).map_err(unread)?;
    let make = |path: &Path| std::os::unix::fs::symlink(&leads_to, path);
    let (made, ()) = make_beside(staged, make).map_err(failed)?;
    if session.args.preserve {
        let metadata: Metadata = fs::symlink_metadata(&step.source).map_err(unread)?;
        preserve::like_symlink(&metadata, made.path()).map_err(failed)?;
    }
    made.rename(staged).map_err(failed)
}
