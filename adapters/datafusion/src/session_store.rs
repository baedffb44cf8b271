//! [`SessionStore`]: the store as DataFusion uses it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::object_store::local::LocalFileSystem;
use datafusion::object_store::path::Path;
use datafusion::object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use futures_util::stream::{self, BoxStream, StreamExt};
use kaio_object_store::v0_13::KaioFileSystem;

/// A [`KaioFileSystem`] that returns some Arrow IPC files as files rather than as streams.
///
/// DataFusion 55 infers the schema of a stream on the assumption that its first message begins at offset 8.
/// Where the writer has aligned the message to more, as `COPY TO` does, this fails.
#[derive(Debug)]
pub(crate) struct SessionStore {
    store: Arc<KaioFileSystem>,
    /// Its payloads are files.
    local: LocalFileSystem,
}

impl SessionStore {
    pub(crate) fn new(store: &Arc<KaioFileSystem>) -> SessionStore {
        SessionStore {
            store: Arc::clone(store),
            local: LocalFileSystem::new(),
        }
    }
}

impl fmt::Display for SessionStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

/// Whether a file that starts with `bytes` is an Arrow IPC file whose first message is not at offset 8.
fn is_aligned_arrow_file(bytes: &[u8]) -> bool {
    const MAGIC: &[u8] = b"ARROW1";
    const CONTINUATION: &[u8] = &[0xff; 4];
    bytes.starts_with(MAGIC) && bytes.get(8..12).is_some_and(|next| next != CONTINUATION)
}

#[async_trait]
impl ObjectStore for SessionStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.range.is_some() || options.head {
            return self.store.get_opts(location, options).await;
        }
        let mut result = self.store.get_opts(location, options.clone()).await?;
        result.payload = match result.payload {
            GetResultPayload::Stream(mut chunks) => match chunks.next().await {
                Some(Ok(first)) if is_aligned_arrow_file(&first) => {
                    drop(chunks);
                    return self.local.get_opts(location, options).await;
                }
                Some(first) => {
                    GetResultPayload::Stream(stream::iter([first]).chain(chunks).boxed())
                }
                None => GetResultPayload::Stream(chunks),
            },
            file => file,
        };
        Ok(result)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.store.get_ranges(location, ranges).await
    }

    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.store.rename_opts(from, to, options).await
    }
}
