//! [`DescriptorCache`]: files that stay open between reads.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::blocking_call::{drop_blocking, run_blocking};
use crate::open_object::{AtPath, ObjectFacts, OpenObject, facts_without_blocking};
use crate::store_fault::StoreFault;

/// How long a file stays open after its last use. An open file keeps the space of a file that another
/// program has deleted, and a file system from being unmounted.
const IDLE: Duration = Duration::from_secs(5);

/// How often idle files are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// Files that stay open between reads, by path. Never returns a file that is not, or is not unchanged, at its
/// path: each use compares the facts.
#[derive(Debug)]
pub(crate) struct DescriptorCache {
    /// The most files that are kept.
    capacity: usize,
    /// Objects below this size are not opened for direct reads.
    small: u64,
    kept: Mutex<Kept>,
    /// In a forked child the lock may be held for ever, and no thread closes idle files: it keeps none.
    process: u32,
    pub(crate) opened: AtomicU64,
    pub(crate) reused: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    files: HashMap<PathBuf, KeptFile>,
    /// A thread closes idle files.
    is_swept: bool,
}

#[derive(Debug)]
struct KeptFile {
    object: Arc<OpenObject>,
    last_use: Instant,
}

impl DescriptorCache {
    pub(crate) fn new(capacity: usize, small: u64) -> DescriptorCache {
        DescriptorCache {
            capacity,
            small,
            kept: Mutex::default(),
            process: std::process::id(),
            opened: AtomicU64::new(0),
            reused: AtomicU64::new(0),
        }
    }

    /// Returns the file at `path`, open.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may still open the file, and keep it.
    pub(crate) async fn open(
        self: &Arc<Self>,
        path: PathBuf,
    ) -> Result<AtPath<Arc<OpenObject>>, StoreFault> {
        let found = self.find(&path);
        if let Some(object) = &found {
            match facts_without_blocking(&path) {
                Some(Ok(facts)) if facts == object.facts => {
                    self.reused.fetch_add(1, Ordering::Relaxed);
                    return Ok(AtPath::Object(Arc::clone(object)));
                }
                _ => {} // the blocking pool opens the file, or has the error
            }
        }
        let cache = Arc::clone(self);
        run_blocking(move || cache.open_blocking(path, found)).await
    }

    /// Like [`open`](Self::open), but may block. `found` is dropped here, because that may block, too.
    fn open_blocking(
        self: &Arc<Self>,
        path: PathBuf,
        found: Option<Arc<OpenObject>>,
    ) -> Result<AtPath<Arc<OpenObject>>, StoreFault> {
        if let Some(object) = found {
            let metadata = std::fs::metadata(&path);
            if metadata.is_ok_and(|metadata| ObjectFacts::new(&metadata) == object.facts) {
                self.reused.fetch_add(1, Ordering::Relaxed);
                return Ok(AtPath::Object(object));
            }
            self.forget_object(&object);
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
            drop(self.keep(path, &object)); // closed here, without the lock
        }
        Ok(AtPath::Object(object))
    }

    /// Closes the file that was read at `path`, if it is kept. Called after the store has changed what is there.
    pub(crate) fn forget(&self, path: &Path) {
        if !self.is_own() {
            return;
        }
        let forgotten = self.kept().files.remove(path);
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
        self.process == std::process::id()
    }

    fn find(&self, path: &Path) -> Option<Arc<OpenObject>> {
        if !self.is_own() {
            return None;
        }
        let mut kept = self.kept();
        let file = kept.files.get_mut(path)?;
        file.last_use = Instant::now();
        Some(Arc::clone(&file.object))
    }

    /// Keeps a file. Returns those that it takes the place of.
    fn keep(self: &Arc<Self>, path: PathBuf, object: &Arc<OpenObject>) -> Vec<KeptFile> {
        let mut kept = self.kept();
        let mut displaced = Vec::new();
        while kept.files.len() >= self.capacity && !kept.files.contains_key(&path) {
            let oldest = kept.files.iter().min_by_key(|(_, file)| file.last_use);
            let oldest = oldest.map(|(path, _)| path.clone());
            displaced.extend(oldest.and_then(|path| kept.files.remove(&path)));
        }
        let file = KeptFile {
            object: Arc::clone(object),
            last_use: Instant::now(),
        };
        displaced.extend(kept.files.insert(path, file));
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

    /// Forgets `object`, if it is still what is kept for its path.
    fn forget_object(&self, object: &Arc<OpenObject>) {
        let mut kept = self.kept();
        let is_kept = |file: &KeptFile| Arc::ptr_eq(&file.object, object);
        if kept.files.get(&object.path).is_some_and(is_kept) {
            kept.files.remove(&object.path); // not the last reference
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

/// Closes idle and deleted files until none is left, or the cache is dropped.
fn sweep(cache: Weak<DescriptorCache>) {
    loop {
        thread::sleep(SWEEP);
        let Some(cache) = cache.upgrade() else {
            return;
        };
        let objects: Vec<_> = {
            let kept = cache.kept();
            let files = kept.files.values();
            files
                .map(|file| (Arc::clone(&file.object), file.last_use.elapsed() >= IDLE))
                .collect()
        };
        for (object, is_idle) in objects {
            if is_idle || object.is_deleted() {
                cache.forget_object(&object);
            }
        }
        let mut kept = cache.kept();
        if kept.files.is_empty() {
            kept.is_swept = false;
            return;
        }
    }
}
