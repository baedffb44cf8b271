//! [`KaioFileSystem`]: the store.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};

use super::KaioFileSystemBuilder;
use super::object_error::generic;
use super::part_upload::PartUpload;
use super::version::object_store::local::LocalFileSystem;
use super::version::object_store::path::Path;
use super::version::object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, RenameOptions, Result,
};
use super::version::{self, LOCAL_CAN_SYNC};
use crate::StoreMetrics;
use crate::blocking_call::run_blocking;
use crate::object_copy;
use crate::object_files::ObjectFiles;
use crate::object_write::{self, ObjectUpload};
use crate::open_object::{AtPath, ObjectFacts, facts_of};
use crate::parent_dirs::{ChangedDirs, sync_dir};
use crate::staged_object::StagedObject;
use crate::store_fault::StoreFault;
use crate::store_settings::StoreSettings;

/// An [`ObjectStore`] over local files with Linux kernel AIO. It takes the place of [`LocalFileSystem`].
///
/// Paths, tags, conditions, listings and temporary names are those of `LocalFileSystem`, and stores of both
/// kinds can use the same files at the same time. Clones are cheap, and share descriptors and counters.
///
/// The differences:
///
/// - [`get_opts`](ObjectStore::get_opts) returns a [stream](GetResultPayload::Stream), never a file. It reads
///   ahead. A range of up to 4 MiB is one piece of the stream, so `bytes()` does not copy it.
/// - [`get_ranges`](ObjectStore::get_ranges) merges ranges that are up to 64 KiB apart.
/// - A missing permission is [`Error::PermissionDenied`], and a read below a file [`Error::NotFound`].
/// - An upload in parts can't be completed after a part has failed, or its future was dropped. `complete` waits
///   for parts that are being written, so their futures have to be polled meanwhile.
///
/// # Cancel safety
///
/// A read whose future or stream is dropped is abandoned, and its memory freed when the kernel is done. A
/// write either takes effect or does not, and leaves no temporary file.
#[derive(Clone, Debug)]
pub struct KaioFileSystem {
    /// Resolves paths, lists, removes, copies and renames.
    local: LocalFileSystem,
    fsync: bool,
    files: Arc<ObjectFiles>,
}

impl KaioFileSystem {
    /// Makes a store whose paths begin at the root directory.
    pub fn new() -> KaioFileSystem {
        KaioFileSystem::over(LocalFileSystem::new(), StoreSettings::default())
    }

    /// Makes a store whose paths begin at the directory `prefix`.
    ///
    /// # Errors
    ///
    /// The directory does not exist, or can't be resolved.
    pub fn new_with_prefix(prefix: impl AsRef<std::path::Path>) -> Result<KaioFileSystem> {
        KaioFileSystem::with_settings(Some(prefix.as_ref()), StoreSettings::default())
    }

    /// Starts a builder, for all other settings.
    pub fn builder() -> KaioFileSystemBuilder {
        KaioFileSystemBuilder::new()
    }

    pub(super) fn with_settings(
        prefix: Option<&std::path::Path>,
        settings: StoreSettings,
    ) -> Result<KaioFileSystem> {
        let local = match prefix {
            Some(prefix) => LocalFileSystem::new_with_prefix(prefix)?,
            None => LocalFileSystem::new(),
        };
        Ok(KaioFileSystem::over(local, settings))
    }

    fn over(local: LocalFileSystem, settings: StoreSettings) -> KaioFileSystem {
        KaioFileSystem {
            local,
            fsync: false,
            files: Arc::new(ObjectFiles::new(settings)),
        }
    }

    /// Sets whether objects, copies and renames are durable when their calls return: the file is synced
    /// before it appears at its path, and its directory afterwards, with those that were created for it. Off
    /// by default.
    ///
    /// Removals are not synced, as in `LocalFileSystem`.
    #[must_use = "this returns the changed store"]
    pub fn with_fsync(mut self, fsync: bool) -> Self {
        self.local = version::with_fsync(self.local, fsync);
        self.fsync = fsync;
        self
    }

    /// Sets whether a removal of the last object of a directory removes the directory, and those above it
    /// that become empty. Off by default.
    #[must_use = "this returns the changed store"]
    pub fn with_automatic_cleanup(mut self, automatic_cleanup: bool) -> Self {
        self.local = self.local.with_automatic_cleanup(automatic_cleanup);
        self
    }

    /// Returns the path of the file of an object.
    ///
    /// # Errors
    ///
    /// The name ends in `#` and digits, as that of a temporary file.
    pub fn path_to_filesystem(&self, location: &Path) -> Result<PathBuf> {
        self.local.path_to_filesystem(location)
    }

    /// Returns how objects were read and written so far.
    pub fn metrics(&self) -> StoreMetrics {
        self.files.metrics()
    }

    fn not_implemented(&self, operation: &str) -> Error {
        Error::NotImplemented {
            operation: operation.into(),
            implementer: self.to_string(),
        }
    }

    /// The file of `location` is not the one that was read before.
    fn changed(&self, location: &Path) {
        self.files.forget(location.as_ref());
    }

    /// Calls `change`, which creates an entry at `to` and removes that at `from`, and makes it durable.
    async fn durable(
        &self,
        from: Option<&Path>,
        to: &Path,
        change: impl Future<Output = Result<()>> + Send,
    ) -> Result<()> {
        let done = if self.fsync && !LOCAL_CAN_SYNC {
            let (to, from) = (self.path_to_filesystem(to)?, from.cloned());
            let from = from
                .map(|from| self.path_to_filesystem(&from))
                .transpose()?;
            let dirs = run_blocking(move || Ok(ChangedDirs::new(&to))).await?;
            change.await?;
            run_blocking(move || {
                dirs.sync()?;
                match from.as_deref().and_then(std::path::Path::parent) {
                    Some(parent) => sync_dir(parent),
                    None => Ok(()),
                }
            })
            .await
            .map_err(Error::from)
        } else {
            change.await
        };
        if let Some(from) = from {
            self.changed(from);
        }
        self.changed(to);
        done
    }
}

impl Default for KaioFileSystem {
    fn default() -> KaioFileSystem {
        KaioFileSystem::new()
    }
}

/// `KaioFileSystem(file:///prefix)`.
impl fmt::Display for KaioFileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = self.local.to_string();
        write!(f, "Kaio{}", local.trim_start_matches("Local"))
    }
}

fn object_meta(location: &Path, facts: &ObjectFacts, e_tag: &str) -> ObjectMeta {
    ObjectMeta {
        location: location.clone(),
        last_modified: facts.last_modified().into(),
        size: facts.size,
        e_tag: Some(version::e_tag(e_tag)),
        version: None,
    }
}

#[async_trait]
impl ObjectStore for KaioFileSystem {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let replace = match opts.mode {
            PutMode::Overwrite => true,
            PutMode::Create => false,
            PutMode::Update(_) => {
                return Err(self.not_implemented("`put_opts` with mode `PutMode::Update`"));
            }
        };
        if !opts.attributes.is_empty() {
            return Err(self.not_implemented("`put_opts` with `opts.attributes` specified"));
        }
        let path = self.path_to_filesystem(location)?;
        let payload = payload.into_iter().collect();
        let facts = object_write::put(
            &self.files,
            location.to_string(),
            path,
            payload,
            replace,
            self.fsync,
        )
        .await?;
        Ok(version::put_result(&facts))
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        if !opts.attributes.is_empty() {
            let operation = "`put_multipart_opts` with `opts.attributes` specified";
            return Err(self.not_implemented(operation));
        }
        let (path, fsync) = (self.path_to_filesystem(location)?, self.fsync);
        let staged = run_blocking(move || StagedObject::create(path, fsync, fsync)).await?;
        let upload = ObjectUpload::new(Arc::clone(&self.files), location.to_string(), staged);
        Ok(Box::new(PartUpload(upload)))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.head {
            let facts = facts_of(self.path_to_filesystem(location)?).await?;
            let meta = object_meta(location, &facts, &facts.e_tag());
            options.check_preconditions(&meta)?;
            let range = range_of(&options, meta.size)?;
            let nothing = GetResultPayload::Stream(stream::empty().boxed());
            return Ok(version::get_result(nothing, meta, range));
        }
        let path = || self.path_to_filesystem(location);
        let object = match self.files.open(location.as_ref(), path).await? {
            AtPath::Object(object) => object,
            AtPath::Special => {
                self.files.delegated.fetch_add(1, Ordering::Relaxed);
                return self.local.get_opts(location, options).await;
            }
        };
        let meta = object_meta(location, &object.facts, &object.e_tag);
        options.check_preconditions(&meta)?;
        let range = range_of(&options, meta.size)?;
        let chunks = self.files.chunks(object, range.clone());
        let payload = GetResultPayload::Stream(chunks.map_err(Error::from).boxed());
        Ok(version::get_result(payload, meta, range))
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let path = || self.path_to_filesystem(location);
        let object = match self.files.open(location.as_ref(), path).await? {
            AtPath::Object(object) => object,
            AtPath::Special => {
                self.files.delegated.fetch_add(1, Ordering::Relaxed);
                return self.local.get_ranges(location, ranges).await;
            }
        };
        let size = object.facts.size;
        for range in ranges {
            if range.start > range.end {
                return Err(StoreFault::InvertedRange(range.clone()).into());
            }
            if range.end > size && !range.is_empty() {
                let fault = StoreFault::OutOfRange {
                    path: object.path.clone(),
                    range: range.clone(),
                    size,
                };
                return Err(fault.into());
            }
        }
        Ok(self.files.read_ranges(&object, ranges.to_vec()).await?)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let deleted = self.local.delete_stream(locations);
        deleted
            .inspect_ok(move |location| store.changed(location))
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.local.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.local.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.local.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        if options.mode == CopyMode::Create {
            let copy = self.local.copy_opts(from, to, options);
            return self.durable(None, to, copy).await;
        }
        let (source, target) = (self.path_to_filesystem(from)?, self.path_to_filesystem(to)?);
        let copied = object_copy::copy(source, target, self.fsync).await;
        self.changed(to);
        Ok(copied?)
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let rename = self.local.rename_opts(from, to, options);
        self.durable(Some(from), to, rename).await
    }
}

/// The range that is wanted of an object of `size` bytes.
fn range_of(options: &GetOptions, size: u64) -> Result<Range<u64>> {
    match &options.range {
        Some(range) => range.as_range(size).map_err(generic),
        None => Ok(0..size),
    }
}
