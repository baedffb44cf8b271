//! [`DescriptorCache`]: files that stay open between reads.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tokio_kaio::Process;

use crate::blocking_call::{drop_blocking, run_blocking};
use crate::descriptor_limit::descriptor_limit;
use crate::open_object::{AtPath, ObjectFacts, OpenObject};
use crate::store_fault::StoreFault;

/// How long a file stays open after its last use. An open file keeps the space of a file that another
/// program has deleted, and a file system from being unmounted. `IDLE` in `tests/it/fixture.rs` has the same value.
const IDLE: Duration = Duration::from_secs(5);

/// How often idle files are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// Files that stay open between reads, by the names of their objects. Never returns a file that is not, or is
/// not unchanged, at its path: each use compares the facts.
#[derive(Debug)]
pub(crate) struct DescriptorCache {
    /// The most files that are kept.
    capacity: usize,
    /// Objects below this size are not opened for direct reads.
    small: u64,
    kept: Mutex<Kept>,
    /// In a forked child the lock may be held for ever, and no thread closes idle files: it keeps none.
    process: Process,
    pub(crate) opened: AtomicU64,
    pub(crate) reused: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    files: HashMap<String, KeptFile>,
    /// A thread closes idle files.
    is_swept: bool,
}

#[derive(Debug)]
struct KeptFile {
    object: Arc<OpenObject>,
    last_use: Instant,
}

/// What is kept of an object.
#[derive(Debug)]
pub(crate) enum Found {
    /// The file at the path of the object.
    Unchanged(Arc<OpenObject>),
    /// Another file, perhaps, or none.
    Other(Option<Arc<OpenObject>>),
}

impl DescriptorCache {
    pub(crate) fn new(capacity: usize, small: u64) -> DescriptorCache {
        DescriptorCache {
            capacity,
            small,
            kept: Mutex::default(),
            process: Process::current(),
            opened: AtomicU64::new(0),
            reused: AtomicU64::new(0),
        }
    }

    /// Returns the file of the object `name`, if it is open and unchanged. Does not block.
    pub(crate) fn find(&self, name: &str) -> Found {
        if !self.is_own() {
            return Found::Other(None);
        }
        let object = {
            let mut kept = self.kept();
            let Some(file) = kept.files.get_mut(name) else {
                return Found::Other(None);
            };
            file.last_use = Instant::now();
            Arc::clone(&file.object)
        };
        match object.is_unchanged() {
            true => {
                self.reused.fetch_add(1, Ordering::Relaxed);
                Found::Unchanged(object)
            }
            false => Found::Other(Some(object)), // the blocking pool opens the file, or has the error
        }
    }

    /// Opens the file at `path` of the object `name`. `other` is what [`find`](Self::find) has found.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may still open the file, and keep it.
    pub(crate) async fn open(
        self: &Arc<Self>,
        name: &str,
        path: PathBuf,
        other: Option<Arc<OpenObject>>,
    ) -> Result<AtPath<Arc<OpenObject>>, StoreFault> {
        let (cache, name) = (Arc::clone(self), name.to_owned());
        run_blocking(move || cache.open_blocking(name, path, other)).await
    }

    /// Like [`open`](Self::open), but blocks. `other` is dropped here, because that may block, too.
    fn open_blocking(
        self: &Arc<Self>,
        name: String,
        path: PathBuf,
        other: Option<Arc<OpenObject>>,
    ) -> Result<AtPath<Arc<OpenObject>>, StoreFault> {
        if let Some(object) = other {
            let metadata = std::fs::metadata(&path);
            if metadata.is_ok_and(|metadata| ObjectFacts::new(&metadata) == object.facts) {
                self.reused.fetch_add(1, Ordering::Relaxed);
                return Ok(AtPath::Object(object));
            }
            self.forget_object(&name, &object);
        }
        let opened = match OpenObject::open(&path, self.small) {
            Err(StoreFault::Failed { source, .. })
                if matches!(source.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) =>
            {
                self.close_all();
                OpenObject::open(&path, self.small)?
            }
            opened => opened?,
        };
        let AtPath::Object(object) = opened else {
            return Ok(AtPath::Special);
        };
        self.opened.fetch_add(1, Ordering::Relaxed);
        let object = Arc::new(object);
        if self.capacity > 0 && object.may_be_kept && self.is_own() {
            drop(self.keep(name, &object)); // closed here, without the lock
        }
        Ok(AtPath::Object(object))
    }

    /// Closes the file of the object `name`, if it is kept. Called after the store has changed what is there.
    pub(crate) fn forget(&self, name: &str) {
        if !self.is_own() {
            return;
        }
        let forgotten = self.kept().files.remove(name);
        if forgotten.is_some() {
            drop_blocking(forgotten);
        }
    }

    /// Number of files that are kept.
    pub(crate) fn len(&self) -> usize {
        match self.is_own() {
            true => self.kept().files.len(),
            false => 0,
        }
    }

    fn is_own(&self) -> bool {
        self.process == Process::current()
    }

    /// Keeps a file. Returns those that it takes the place of.
    fn keep(self: &Arc<Self>, name: String, object: &Arc<OpenObject>) -> Vec<KeptFile> {
        let mut kept = self.kept();
        let mut displaced = Vec::new();
        let capacity = self.capacity.min(half_of_the_descriptors()).max(1);
        while kept.files.len() >= capacity && !kept.files.contains_key(&name) {
            let oldest = kept.files.iter().min_by_key(|(_, file)| file.last_use);
            let oldest = oldest.map(|(name, _)| name.clone());
            displaced.extend(oldest.and_then(|name| kept.files.remove(&name)));
        }
        let file = KeptFile {
            object: Arc::clone(object),
            last_use: Instant::now(),
        };
        displaced.extend(kept.files.insert(name, file));
        if !kept.is_swept {
            let cache = Arc::downgrade(self);
            let thread = thread::Builder::new().name("kaio-descriptors".into());
            kept.is_swept = thread.spawn(|| sweep(cache)).is_ok();
            if !kept.is_swept {
                displaced.extend(kept.files.drain().map(|(_, file)| file)); // nobody would close them
            }
        }
        displaced
    }

    /// Forgets `object`, if it is still what is kept of that name. The caller has another reference.
    fn forget_object(&self, name: &str, object: &Arc<OpenObject>) {
        if !self.is_own() {
            return;
        }
        let mut kept = self.kept();
        let is_kept = |file: &KeptFile| Arc::ptr_eq(&file.object, object);
        if kept.files.get(name).is_some_and(is_kept) {
            kept.files.remove(name);
        }
    }

    /// Takes the file of the object `name`, if it is idle or deleted. A file that is used stays in the cache
    /// while it is looked at: [`close_all`](Self::close_all) could not close it otherwise.
    fn take_unused(&self, name: &str) -> Option<KeptFile> {
        let mut kept = self.kept();
        let file = kept.files.get(name)?;
        match file.last_use.elapsed() >= IDLE || file.object.is_deleted() {
            true => kept.files.remove(name),
            false => None,
        }
    }

    fn close_all(&self) {
        if !self.is_own() {
            return;
        }
        let files = std::mem::take(&mut self.kept().files);
        drop(files);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of files whose descriptors, two each, are half of those that the process may have. The other half
/// is for the rest of the program.
fn half_of_the_descriptors() -> usize {
    usize::try_from(descriptor_limit() / 4).unwrap_or(usize::MAX)
}

/// Closes idle and deleted files until none is left, or the cache is dropped.
fn sweep(cache: Weak<DescriptorCache>) {
    loop {
        thread::sleep(SWEEP);
        let Some(cache) = cache.upgrade() else {
            return;
        };
        let names: Vec<_> = cache.kept().files.keys().cloned().collect();
        for name in names {
            drop(cache.take_unused(&name)); // closed here, without the lock
        }
        let mut kept = cache.kept();
        if kept.files.is_empty() {
            kept.is_swept = false;
            return;
        }
    }
}
