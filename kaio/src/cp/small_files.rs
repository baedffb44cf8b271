//! Copies small files, in groups, on a few threads.
//!
//! A small file takes more time to open, create and rename than to copy. So it goes through the page cache
//! with two system calls, without AIO and without a call of the runtime; a thread opens two directories for
//! a whole group; and a file in a new directory, which other programs can't see yet, is created under its
//! own name.
//!
//! That is why a small file is no `StagedFile`, as a file that is copied in blocks is: each of those opens
//! its directory and is prepared for direct I/O.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, Sender};
use std::thread;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, openat, unlinkat};

use super::copy_error::CopyError;
use super::copy_plan::{CopyPlan, FileStep};
use super::cp_args::{CpArgs, Sparse};
use super::destination::Destination;
use super::durability::Durability;
use super::file_attributes::FileAttributes;
use super::new_directories::NewDirectories;
use super::reflinks::Reflinks;
use super::session::Session;
use super::short_path::open_directory;
use super::source_file::{self, SourceSize};
use super::staged_path::{StagedPath, create_private_file, creation_error, make_next_to};
use super::{DESCRIPTORS, free_descriptors};
use crate::paths::parent;

/// The length of the largest small file, in bytes.
const LARGEST: u64 = 64 << 10;

/// Maximum number of files in a group.
const GROUP: usize = 64;

/// Maximum number of threads: on one file system, more of them wait for each other.
const THREADS: usize = 4;

/// Maximum number of threads that flush files one by one: the journal commits many files at once.
const FLUSHING_THREADS: usize = 16;

/// Whether a file is copied as a small one. With `--verify` every file goes past the page cache, and with
/// `--limit` its blocks wait for their turn.
pub(super) fn is_small(
    args: &CpArgs,
    metadata: &Metadata,
    size: &SourceSize,
    destination: &Destination,
) -> bool {
    let is_plain = !args.verify && args.limit.is_none() && args.sparse != Sparse::Always;
    let has_holes = size.read < size.length;
    is_plain && metadata.is_file() && destination.is_file() && size.length <= LARGEST && !has_holes
}

/// How a small file was copied.
#[derive(Debug)]
pub(super) enum SmallCopy {
    Done(DoneCopy),
    /// The file is not small any more, or reports a wrong length.
    NotSmall,
}

/// A small file that was copied.
#[derive(Debug)]
pub(super) struct DoneCopy {
    /// The length in bytes.
    pub(super) length: u64,
    /// It shares its blocks with the source.
    pub(super) is_reflink: bool,
    /// The source has changed during the copy.
    pub(super) has_changed: bool,
    /// Extended attributes that could not be set.
    pub(super) lost: Vec<String>,
    /// The file under its temporary name, to be renamed when it is durable.
    pub(super) staged: Option<StagedPath>,
}

/// Copies the small files of `plan`, and calls `on_copied` on this thread for each, with its index in
/// [`CopyPlan::files`].
///
/// # Errors
///
/// The first error of `on_copied`. Further files are not started then.
pub(super) fn copy_small_files(
    session: &Session<'_>,
    plan: &CopyPlan,
    roots: &NewDirectories,
    durability: &Durability,
    mut on_copied: impl FnMut(usize, Result<SmallCopy, CopyError>) -> Result<(), CopyError>,
) -> Result<(), CopyError> {
    let groups = groups(&plan.files);
    let copier = SmallFileCopier {
        plan,
        roots,
        durability,
        reflinks: &session.reflinks,
        preserve: session.args.preserve,
        umask: session.umask,
        groups: &groups,
        next: AtomicUsize::new(0),
        is_stopped: AtomicBool::new(false),
    };
    let (copied, results) = mpsc::channel();
    thread::scope(|scope| {
        // This thread is one of them, so it is enough if no other can be started.
        for _ in 1..threads(groups.len(), durability) {
            let (copier, copied) = (&copier, copied.clone());
            let started =
                thread::Builder::new().spawn_scoped(scope, move || copier.run(&copied, || true));
            if started.is_err() {
                break;
            }
        }
        let mut result = Ok(());
        let mut report = |(index, small)| {
            if result.is_ok() {
                result = on_copied(index, small);
            }
            copier.is_stopped.fetch_or(result.is_err(), Relaxed);
        };
        copier.run(&copied, || {
            results.try_iter().for_each(&mut report);
            true
        });
        drop(copied);
        results.iter().for_each(&mut report);
        result
    })
}

fn threads(groups: usize, durability: &Durability) -> usize {
    let most = match durability.is_each_file() {
        true => FLUSHING_THREADS,
        false => thread::available_parallelism()
            .map_or(1, usize::from)
            .min(THREADS),
    };
    groups
        .min(most)
        .min(free_descriptors() / DESCRIPTORS)
        .max(1)
}

/// The indices of the small files, those in the same directories together.
fn groups(files: &[FileStep]) -> Vec<Vec<usize>> {
    let directories = |step: &FileStep| (step.root, step.is_found);
    let is_together = |one: &FileStep, other: &FileStep| {
        directories(one) == directories(other)
            && one.source.parent() == other.source.parent()
            && one.destination.path().parent() == other.destination.path().parent()
    };
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (index, step) in files.iter().enumerate().filter(|(_, step)| step.is_small) {
        match groups.last_mut() {
            Some(group) if group.len() < GROUP && is_together(&files[group[0]], step) => {
                group.push(index);
            }
            _ => groups.push(vec![index]),
        }
    }
    groups
}

/// Copies groups of small files. Shared by all threads.
#[derive(Debug)]
struct SmallFileCopier<'a> {
    plan: &'a CopyPlan,
    roots: &'a NewDirectories,
    durability: &'a Durability,
    reflinks: &'a Reflinks,
    preserve: bool,
    umask: u32,
    groups: &'a [Vec<usize>],
    /// The next group.
    next: AtomicUsize,
    is_stopped: AtomicBool,
}

/// The directories of a group.
#[derive(Debug)]
struct GroupDirectories {
    source: OwnedFd,
    target: OwnedFd,
    /// The path of `target`.
    target_path: PathBuf,
    target_device: u64,
}

impl SmallFileCopier<'_> {
    /// Copies groups until there are no more.
    fn run(
        &self,
        copied: &Sender<(usize, Result<SmallCopy, CopyError>)>,
        mut between: impl FnMut() -> bool,
    ) {
        let mut buffer = vec![0; LARGEST as usize];
        while let Some(group) = self.groups.get(self.next.fetch_add(1, Relaxed)) {
            let directories = self.open_directories(&self.plan.files[group[0]]);
            for &index in group {
                if self.is_stopped.load(Relaxed) {
                    return;
                }
                let step = &self.plan.files[index];
                let small = match &directories {
                    Ok(directories) => self.copy(step, directories, &mut buffer),
                    Err(error) => Err(CopyError::of("open", &step.source, error)),
                };
                // The receiver is dropped last.
                let _ = copied.send((index, small));
            }
            between();
        }
    }

    fn open_directories(&self, step: &FileStep) -> io::Result<GroupDirectories> {
        let staged = self.roots.staged(step.root, step.destination.path());
        let target_path = parent(&staged).to_path_buf();
        let target = open_directory(&target_path)?;
        Ok(GroupDirectories {
            source: open_directory(parent(&step.source))?,
            target_device: fstat(&target)?.st_dev,
            target,
            target_path,
        })
    }

    fn copy(
        &self,
        step: &FileStep,
        directories: &GroupDirectories,
        buffer: &mut [u8],
    ) -> Result<SmallCopy, CopyError> {
        let path = &step.source;
        let unread = |error: io::Error| CopyError::of("read", path, &error);
        let source = open_source(step, directories)?;
        let metadata = source.metadata().map_err(unread)?;
        source_file::refuse_special_files(path, &metadata, step.is_found)?;
        if metadata.len() > LARGEST {
            return Ok(SmallCopy::NotSmall);
        }
        // Files that are generated when they are read report length 0.
        if metadata.len() == 0 && read(&source, buffer).map_err(unread)? > 0 {
            return Ok(SmallCopy::NotSmall);
        }
        let target = SmallTarget::create(step, directories)?;
        let content = self.fill(step, (&source, &metadata), &target, directories, buffer)?;
        let Some(is_reflink) = content else {
            return Ok(SmallCopy::NotSmall);
        };
        let has_changed = match source.metadata() {
            Ok(now) if now.len() < metadata.len() => {
                return Err(source_file::became_shorter(path, metadata.len(), now.len()));
            }
            Ok(now) => source_file::has_changed(&metadata, &now),
            Err(error) => return Err(unread(error)),
        };
        let attributes = FileAttributes::of_copy(
            (&metadata, &source),
            step.destination.replaced(),
            step.destination.path(),
            self.preserve,
            self.umask,
        );
        let attributes = attributes.map_err(|error| CopyError::of("examine", path, &error))?;
        let target_path = step.destination.path();
        let lost = attributes
            .apply(&target.file)
            .map_err(|error| CopyError::of("set mode, owner or times of", target_path, &error))?;
        if self.durability.is_each_file() {
            let synced = target.file.sync_all();
            synced.map_err(|error| CopyError::of("make durable", target_path, &error))?;
        }
        Ok(SmallCopy::Done(DoneCopy {
            length: metadata.len(),
            is_reflink,
            has_changed,
            lost,
            staged: self.publish(step, target)?,
        }))
    }

    /// Gives the target the content of the source, and returns whether it is a reflink. `None`: the source
    /// reports a wrong length.
    fn fill(
        &self,
        step: &FileStep,
        (source, metadata): (&File, &Metadata),
        target: &SmallTarget<'_>,
        directories: &GroupDirectories,
        buffer: &mut [u8],
    ) -> Result<Option<bool>, CopyError> {
        let (path, target_path) = (&step.source, step.destination.path());
        if metadata.len() == 0 {
            return Ok(Some(false));
        }
        let devices = (metadata.dev(), directories.target_device);
        let (from, to) = ((source, &**path), (&target.file, target_path));
        if self.reflinks.clone_file(from, to, devices)? {
            return Ok(Some(true));
        }
        // What was appended since the file was opened is not part of the copy.
        let content = &mut buffer[..metadata.len() as usize];
        let unread = |error| CopyError::of("read", path, &error);
        let read = read(source, content).map_err(unread)? as u64;
        if read < metadata.len() {
            let now = source.metadata().map_err(unread)?.len();
            return match now < metadata.len() {
                true => Err(source_file::became_shorter(path, metadata.len(), now)),
                false => Ok(None),
            };
        }
        let written = target.file.write_all_at(content, 0);
        written.map_err(|error| CopyError::of("write", target_path, &error))?;
        Ok(Some(false))
    }

    /// Renames a file that is as durable as it has to be, and returns one that is not.
    fn publish(
        &self,
        step: &FileStep,
        target: SmallTarget<'_>,
    ) -> Result<Option<StagedPath>, CopyError> {
        match target.keep() {
            Some(staged) if !self.durability.is_deferred() => {
                let rename = staged.replace(&step.destination)?;
                let renamed = rename();
                renamed
                    .map_err(|error| CopyError::of("replace", step.destination.path(), &error))?;
                Ok(None)
            }
            staged => Ok(staged),
        }
    }
}

fn open_source(step: &FileStep, directories: &GroupDirectories) -> Result<File, CopyError> {
    let mut flags = OFlags::RDONLY | OFlags::CLOEXEC;
    if step.is_found {
        // The entry may have been replaced with a link, or with a FIFO on which open(2) waits.
        flags |= OFlags::NOFOLLOW | OFlags::NONBLOCK;
    }
    let opened = match step.source.file_name() {
        Some(name) => openat(&directories.source, name, flags, Mode::empty()),
        None => openat(CWD, &step.source, flags, Mode::empty()),
    };
    opened
        .map(File::from)
        .map_err(|errno| CopyError::of("open", &step.source, &errno.into()))
}

/// Reads from the start of the file until it ends or the buffer is full.
fn read(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A new file, removed on drop unless it is kept.
#[derive(Debug)]
struct SmallTarget<'a> {
    file: File,
    name: Option<NameOfTarget<'a>>,
}

#[derive(Debug)]
enum NameOfTarget<'a> {
    /// Its own, in a new directory.
    Final(&'a OwnedFd, &'a std::ffi::OsStr),
    Temporary(StagedPath),
}

impl<'a> SmallTarget<'a> {
    fn create(
        step: &'a FileStep,
        directories: &'a GroupDirectories,
    ) -> Result<SmallTarget<'a>, CopyError> {
        let path = step.destination.path();
        let name = path.file_name().unwrap_or_default();
        if step.root.is_some() {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let created = openat(&directories.target, name, flags, Mode::RUSR | Mode::WUSR);
            return match created {
                Ok(file) => Ok(SmallTarget {
                    file: file.into(),
                    name: Some(NameOfTarget::Final(&directories.target, name)),
                }),
                Err(errno) => Err(creation_error(path, &errno.into())),
            };
        }
        let created = make_next_to(&directories.target_path.join(name), create_private_file);
        match created {
            Ok((staged, file)) => Ok(SmallTarget {
                file,
                name: Some(NameOfTarget::Temporary(staged)),
            }),
            Err(error) => Err(creation_error(path, &error)),
        }
    }

    /// Keeps the file. Returns its temporary name, if it has one.
    fn keep(mut self) -> Option<StagedPath> {
        match self.name.take() {
            Some(NameOfTarget::Temporary(staged)) => Some(staged),
            _ => None,
        }
    }
}

impl Drop for SmallTarget<'_> {
    fn drop(&mut self) {
        if let Some(NameOfTarget::Final(dir, name)) = &self.name {
            // The whole directory is removed if the run fails.
            let _ = unlinkat(dir, *name, AtFlags::empty());
        }
    }
}
