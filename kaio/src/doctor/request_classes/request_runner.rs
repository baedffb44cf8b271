//! [`RequestRunner`]: issues the requests of a class.

use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tokio_kaio::{
    AioCommandError, AioContext, AioContextBuilder, AioContextHandle, AioOpenOptionsExt,
    AlignedBuf, File, ReadFlags, SubmitPolicy, WriteFlags,
};

use super::request_class::block;
use super::{MeasureSettings, MeasureTarget, RequestClass, Result};

/// Longer than a tick of the kernel's clock, which sets the time stamps of files.
const PAUSE: Duration = Duration::from_millis(11);

/// Issues the requests of one class on one file.
pub(super) struct RequestRunner {
    class: RequestClass,
    block: u64,
    file: File,
    buffer: AlignedBuf,
    /// The offset of each request.
    offsets: Vec<u64>,
    context: AioContext,
    handle: AioContextHandle,
}

impl RequestRunner {
    pub(super) async fn new(
        target: &MeasureTarget,
        class: RequestClass,
        settings: MeasureSettings,
        policy: SubmitPolicy,
    ) -> Result<RequestRunner> {
        let (file, offsets) = open_target(target, class, settings).await?;
        let (context, handle) = AioContextBuilder::new(4).submit_policy(policy).build()?;
        Ok(RequestRunner {
            class,
            block: settings.block,
            file,
            buffer: block(settings.block, settings)?,
            offsets,
            context,
            handle,
        })
    }

    /// Prepares request `i`. The preparation is not measured.
    pub(super) async fn prepare(&self, i: u64) -> Result<()> {
        if self.class == RequestClass::Rare {
            tokio::time::sleep(PAUSE).await;
        }
        if self.class == RequestClass::Sync {
            let (at, flags) = (self.offsets[i as usize], WriteFlags::empty());
            let written = self
                .file
                .write_at(&self.handle, at, &self.buffer, self.block, flags);
            written.await?;
        }
        Ok(())
    }

    /// Issues request `i`.
    pub(super) async fn request(
        &mut self,
        i: u64,
        nowait: bool,
    ) -> std::result::Result<(), AioCommandError> {
        let (file, handle, at) = (&self.file, &self.handle, self.offsets[i as usize]);
        let done = match self.class {
            RequestClass::Sync => return file.sync_data(handle).await,
            RequestClass::Read => {
                let mut flags = ReadFlags::empty();
                flags.set(ReadFlags::NOWAIT, nowait);
                let read = file.read_at(handle, at, &mut self.buffer, self.block, flags);
                read.await?
            }
            _ => {
                let mut flags = WriteFlags::empty();
                flags.set(WriteFlags::NOWAIT, nowait);
                flags.set(WriteFlags::APPEND, self.class == RequestClass::Append);
                let at = if self.class == RequestClass::Append {
                    0
                } else {
                    at
                };
                let written = file.write_at(handle, at, &self.buffer, self.block, flags);
                written.await?
            }
        };
        // A read is short if another program truncates the file. Nothing else is short.
        assert!(done == self.block || self.class == RequestClass::Read);
        Ok(())
    }

    /// The handle of the context.
    pub(super) fn handle(&self) -> AioContextHandle {
        self.handle.clone()
    }

    pub(super) async fn close(self) {
        self.context.close().await;
    }
}

/// Creates or opens the file for the requests of a class, and returns their offsets.
pub(super) async fn open_target(
    target: &MeasureTarget,
    class: RequestClass,
    settings: MeasureSettings,
) -> Result<(File, Vec<u64>)> {
    match target {
        MeasureTarget::Scratch(dir) => scratch(dir, class, settings).await,
        MeasureTarget::Existing { path, len } if class == RequestClass::Read => {
            existing(path, *len, settings).await
        }
        MeasureTarget::Existing { path, .. } => {
            Err(format!("{} is only read", path.display()).into())
        }
    }
}

/// Creates a file, and returns the offsets of the requests: each block once, in random order unless the
/// file grows.
async fn scratch(
    dir: &Path,
    class: RequestClass,
    settings: MeasureSettings,
) -> Result<(File, Vec<u64>)> {
    let path = dir.join("file");
    class.create_file(&path, settings)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let file = options.aio_open(path, false).await?;
    let mut offsets: Vec<_> = (0..settings.requests).map(|i| i * settings.block).collect();
    if class != RequestClass::Extending {
        offsets.shuffle(&mut StdRng::seed_from_u64(1));
    }
    Ok((file, offsets))
}

/// Opens an existing file or device, and returns random offsets.
async fn existing(path: &Path, len: u64, settings: MeasureSettings) -> Result<(File, Vec<u64>)> {
    let mut options = OpenOptions::new();
    let file = options.read(true).aio_open(path.into(), false).await?;
    let blocks = len / settings.block;
    if blocks == 0 {
        return Err(format!(
            "{} is shorter than one block of {} bytes; name a longer file",
            path.display(),
            settings.block
        )
        .into());
    }
    // Different offsets in each run: the device may have cached those of the last run.
    let mut random = rand::rng();
    let offset = |_| random.random_range(0..blocks) * settings.block;
    Ok((file, (0..settings.requests).map(offset).collect()))
}
