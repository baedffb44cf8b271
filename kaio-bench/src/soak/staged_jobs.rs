//! Staged files: published, replaced, discarded and dropped.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio_kaio::{PublishMode, StagedFileBuilder};

use crate::soak_job::{Result, SoakJob};
use crate::verified_content::{content, verify};

pub(crate) async fn replace_files(mut job: SoakJob) -> Result<()> {
    let target = job.dir.join("target");
    let mut current: Option<(u64, usize)> = None;
    while job.goes_on() {
        let (seed, len) = (job.random.u64(..), job.random.usize(..300_000));
        let mut builder = StagedFileBuilder::new(&target).named(job.random.bool());
        builder = builder.sync(job.random.u8(..4) == 0);
        if job.random.bool() {
            builder = builder.len(len as u64);
        }
        let staged = builder.create().await?;
        let mut writer = staged.file().writer(&job.handle);
        writer.write_all(&content(len, seed, 0)).await?;
        match job.random.u8(..6) {
            0 => {
                drop((writer, staged));
                job.count().cancelled();
            }
            1 => {
                writer.finish().await?;
                staged.discard().await?;
                job.count().cancelled();
            }
            2 => {
                writer.finish().await?;
                match staged.publish(PublishMode::CreateNew).await {
                    Ok(_) if current.is_none() => current = Some((seed, len)),
                    Ok(_) => return Err("an existing file was replaced by CreateNew".into()),
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => job.count().error(),
                    Err(error) => return Err(error.into()),
                }
            }
            _ => {
                writer.finish().await?;
                staged.publish(PublishMode::Replace).await?;
                current = Some((seed, len));
                job.count().done();
            }
        }
        if let Some((seed, len)) = current {
            let bytes = tokio::fs::read(&target).await?;
            verify(&bytes, seed, 0, "a published file")?;
            if bytes.len() != len {
                return Err(format!("a published file of {len} bytes has {}", bytes.len()).into());
            }
            job.count().verified(len);
        }
        if job.random.u8(..8) == 0 && current.take().is_some() {
            tokio::fs::remove_file(&target).await?;
        }
    }
    // A thread of the blocking pool removes a file that was dropped, a moment later.
    let mut left = left_behind(&job.dir).await?;
    for _ in 0..MAX_WAITS {
        if left.is_none() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        left = left_behind(&job.dir).await?;
    }
    Err(format!("left behind: {left:?}").into())
}

/// Waits for files that were dropped: as many as take twenty minutes.
const MAX_WAITS: usize = 120_000;

/// A name in `dir` that is not that of the target.
async fn left_behind(dir: &Path) -> Result<Option<OsString>> {
    let mut entries = tokio::fs::read_dir(dir).await?;
    while let Some(entry) = entries.next_entry().await? {
        if entry.file_name() != "target" {
            return Ok(Some(entry.file_name()));
        }
    }
    Ok(None)
}
