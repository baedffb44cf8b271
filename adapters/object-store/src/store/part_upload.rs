//! [`PartUpload`]: an upload in parts.

use async_trait::async_trait;
use futures_util::FutureExt;

use super::version::object_store::{MultipartUpload, PutPayload, PutResult, Result, UploadPart};
use super::version::put_result;
use crate::object_write::ObjectUpload;

/// An upload in parts. Dropped before it is completed, it removes its temporary file.
#[derive(Debug)]
pub(super) struct PartUpload(pub(super) ObjectUpload);

#[async_trait]
impl MultipartUpload for PartUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let part = self.0.start_part(data.into_iter().collect());
        async move { Ok(part.write().await?) }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let facts = self.0.complete(true).await?;
        Ok(put_result(&facts))
    }

    async fn abort(&mut self) -> Result<()> {
        Ok(self.0.abort().await?)
    }
}
