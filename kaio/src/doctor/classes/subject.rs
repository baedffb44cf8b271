//! [`Subject`]: a file with requests still to be made.

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

use super::class::block;
use super::{Class, Effort, Result, Target};

/// Longer than the kernel's clock ticks, by which file systems set time stamps.
const PAUSE: Duration = Duration::from_millis(11);

/// A file with requests of one class still to be made.
pub(super) struct Subject {
    class: Class,
    block: u64,
    file: File,
    buffer: AlignedBuf,
    /// Offsets: each block once, in random order.
    places: Vec<u64>,
    context: AioContext,
    handle: AioContextHandle,
}

impl Subject {
    pub(super) async fn new(
        target: &Target,
        class: Class,
        effort: Effort,
        policy: SubmitPolicy,
    ) -> Result<Subject> {
        let (file, places) = match target {
            Target::Scratch(dir) => scratch(dir, class, effort).await?,
            Target::Existing { path, len } if class == Class::Read => {
                existing(path, *len, effort).await?
            }
            Target::Existing { path, .. } => {
                return Err(format!("{}: is only read", path.display()).into());
            }
        };
        let (context, handle) = AioContextBuilder::new(4).submit_policy(policy).build()?;
        Ok(Subject {
            class,
            block: effort.block,
            file,
            buffer: block(effort.block, effort)?,
            places,
            context,
            handle,
        })
    }

    /// What has to be done before request `i`, and is no part of it.
    pub(super) async fn prepare(&self, i: u64) -> Result<()> {
        if self.class == Class::Rare {
            tokio::time::sleep(PAUSE).await;
        }
        if self.class == Class::Sync {
            let (at, flags) = (self.places[i as usize], WriteFlags::empty());
            let written = self
                .file
                .write_at(&self.handle, at, &self.buffer, self.block, flags);
            written.await?;
        }
        Ok(())
    }

    /// Request `i`.
    pub(super) async fn request(
        &mut self,
        i: u64,
        nowait: bool,
    ) -> std::result::Result<(), AioCommandError> {
        let (file, handle, at) = (&self.file, &self.handle, self.places[i as usize]);
        let done = match self.class {
            Class::Sync => return file.sync_data(handle).await,
            Class::Read => {
                let mut flags = ReadFlags::empty();
                flags.set(ReadFlags::NOWAIT, nowait);
                let read = file.read_at(handle, at, &mut self.buffer, self.block, flags);
                read.await?
            }
            _ => {
                let mut flags = WriteFlags::empty();
                flags.set(WriteFlags::NOWAIT, nowait);
                flags.set(WriteFlags::APPEND, self.class == Class::Append);
                let at = if self.class == Class::Append { 0 } else { at };
                let written = file.write_at(handle, at, &self.buffer, self.block, flags);
                written.await?
            }
        };
        // A file that others make shorter meanwhile gives less; nothing else does.
        assert!(done == self.block || self.class == Class::Read);
        Ok(())
    }

    /// What its requests go through.
    pub(super) fn handle(&self) -> AioContextHandle {
        self.handle.clone()
    }

    pub(super) async fn close(self) {
        self.context.close().await;
    }
}

/// A new file, and its blocks in the order in which they are to be asked for.
async fn scratch(dir: &Path, class: Class, effort: Effort) -> Result<(File, Vec<u64>)> {
    let path = dir.join("file");
    class.lay_out(&path, effort)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let file = options.aio_open(path, false).await?;
    let mut places: Vec<_> = (0..effort.requests).map(|i| i * effort.block).collect();
    if class != Class::Extending {
        places.shuffle(&mut StdRng::seed_from_u64(1));
    }
    Ok((file, places))
}

/// The file or device, and blocks from all over it.
async fn existing(path: &Path, len: u64, effort: Effort) -> Result<(File, Vec<u64>)> {
    let mut options = OpenOptions::new();
    let file = options.read(true).aio_open(path.into(), false).await?;
    let blocks = len / effort.block;
    if blocks == 0 {
        return Err(format!(
            "{} has less than a block of {} bytes to read; name a longer one",
            path.display(),
            effort.block
        )
        .into());
    }
    // Others each time: what was read once may be in a cache of the device's.
    let mut random = rand::rng();
    let place = |_| random.random_range(0..blocks) * effort.block;
    Ok((file, (0..effort.requests).map(place).collect()))
}
