//! Errors of the disk: a full file system, and a device that fails with `EIO`.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_kaio::{AlignedBuf, File, ReadFlags, StagedFileBuilder, StreamError, WriteFlags};

use crate::block_jobs::expect;
use crate::soak_job::{BLOCK, Result, SoakJob};
use crate::verified_content::{fill, verify};

/// The length of a transfer.
const CHUNK: usize = 16 * BLOCK;

/// Where errors can be caused.
#[derive(Clone, Debug)]
pub(crate) struct FaultPlaces {
    /// A directory of a file system that may be filled up.
    pub(crate) full: Option<PathBuf>,
    /// A device whose second half fails.
    pub(crate) broken: Option<PathBuf>,
}

impl FaultPlaces {
    /// Says which errors are not caused.
    pub(crate) fn new(full: Option<PathBuf>, broken: Option<PathBuf>) -> FaultPlaces {
        if full.is_none() {
            println!("skipped: a full file system: there is no --full");
        }
        if broken.is_none() {
            println!("skipped: a device with EIO: there is no --broken");
        }
        FaultPlaces { full, broken }
    }
}

/// The error of the system, also within the error of a stream.
fn errno_of(error: &io::Error) -> Option<i32> {
    let stream_error = error
        .get_ref()
        .and_then(|error| error.downcast_ref::<StreamError>());
    error
        .raw_os_error()
        .or_else(|| stream_error?.raw_os_error())
}

/// Fills a file system in three ways. What was written before the error can be read.
pub(crate) async fn fill_up(mut job: SoakJob, dir: PathBuf) -> Result<()> {
    while job.goes_on() {
        let seed = job.random.u64(..);
        let path = dir.join("fills");
        match job.random.u8(..3) {
            0 => fill_by_writes(&job, &path, seed).await?,
            1 => fill_by_stream(&job, &path, seed).await?,
            _ => fill_by_allocation(&job, &path).await?,
        }
        job.count().error();
        if tokio::fs::try_exists(&path).await? {
            tokio::fs::remove_file(&path).await?;
        }
        tokio::time::sleep(Duration::from_millis(job.random.u64(1..50))).await;
    }
    Ok(())
}

async fn create(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    Ok(File::open_with(&options, path, false).await?)
}

async fn fill_by_writes(job: &SoakJob, path: &Path, seed: u64) -> Result<()> {
    let file = create(path).await?;
    let mut bytes = AlignedBuf::new(CHUNK)?;
    let mut end = 0;
    loop {
        fill(&mut bytes, seed, end);
        let write = file.write_all_at(&job.handle, end, &bytes, CHUNK as u64, WriteFlags::empty());
        match write.await {
            Ok(()) => end += CHUNK as u64,
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => break,
            Err(error) => return Err(error.into()),
        }
    }
    for at in (0..end).step_by(CHUNK) {
        let read = file.read_exact_at(
            &job.handle,
            at,
            &mut bytes,
            CHUNK as u64,
            ReadFlags::empty(),
        );
        read.await?;
        verify(&bytes, seed, at, "a full file system")?;
        job.count().verified(CHUNK);
    }
    Ok(())
}

async fn fill_by_stream(job: &SoakJob, path: &Path, seed: u64) -> Result<()> {
    let file = create(path).await?;
    let mut writer = file.writer(&job.handle).with_chunk_size(CHUNK);
    let mut bytes = vec![0; 50_000];
    let error = loop {
        fill(&mut bytes, seed, writer.position());
        if let Err(error) = writer.write_all(&bytes).await {
            break error;
        }
        job.count().done();
    };
    match errno_of(&error) {
        Some(libc::ENOSPC) => Ok(()),
        _ => Err(error.into()),
    }
}

async fn fill_by_allocation(job: &SoakJob, path: &Path) -> Result<()> {
    let staged = StagedFileBuilder::new(path).len(1 << 40).create().await;
    job.count().done();
    match staged.map_err(|error| (error.kind(), error)) {
        Ok(_) => Err("a small file system has room for 1 TiB".into()),
        Err((io::ErrorKind::StorageFull | io::ErrorKind::FileTooLarge, _)) => Ok(()),
        Err((_, error)) => Err(error.into()),
    }
}

/// Reads a device whose second half fails.
pub(crate) async fn read_errors(mut job: SoakJob, device: PathBuf) -> Result<()> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let file = File::open_with(&options, device, false).await?;
    let size = device_size(&file)?;
    let (good, seed) = (size / 2, job.random.u64(..));
    let mut bytes = AlignedBuf::new(CHUNK)?;
    for at in (0..good).step_by(CHUNK) {
        fill(&mut bytes, seed, at);
        let write = file.write_all_at(&job.handle, at, &bytes, CHUNK as u64, WriteFlags::empty());
        write.await?;
    }
    while job.goes_on() {
        let at = job.random.u64(..size / CHUNK as u64) * CHUNK as u64;
        let read = file.read_at(
            &job.handle,
            at,
            &mut bytes,
            CHUNK as u64,
            ReadFlags::empty(),
        );
        match read.await {
            Ok(read) if at < good => {
                expect(read, CHUNK)?;
                verify(&bytes, seed, at, "the good half of a device")?;
                job.count().verified(CHUNK);
            }
            Ok(_) => return Err(format!("a read of the broken half succeeds: {at}").into()),
            Err(error) if at >= good && error.raw_os_error() == Some(libc::EIO) => {
                job.count().error();
            }
            Err(error) => return Err(error.into()),
        }
        stream_into_error(&job, &file, seed, good).await?;
        // The kernel logs each error.
        tokio::time::sleep(Duration::from_millis(job.random.u64(20..100))).await;
    }
    Ok(())
}

/// Reads up to the broken half: every byte before it, and then the error with its place.
async fn stream_into_error(job: &SoakJob, file: &File, seed: u64, good: u64) -> Result<()> {
    let mut at = good - 5 * CHUNK as u64;
    let mut reader = file
        .reader(&job.handle)
        .with_range(at..)
        .with_chunk_size(CHUNK);
    let mut bytes = vec![0; 10_000];
    let error = loop {
        match reader.read(&mut bytes).await {
            Ok(read) => {
                verify(&bytes[..read], seed, at, "a stream into an error")?;
                at += read as u64;
                job.count().verified(read);
            }
            Err(error) => break error,
        }
    };
    match errno_of(&error) {
        Some(libc::EIO) if at == good => job.count().error(),
        _ => return Err(format!("a stream has ended at {at}, not at {good}: {error}").into()),
    }
    Ok(())
}

/// The size of a block device, or of a file that stands in for one.
fn device_size(file: &File) -> Result<u64> {
    use std::io::Seek;
    use std::os::fd::AsFd;
    let mut file = std::fs::File::from(file.as_fd().try_clone_to_owned()?);
    Ok(file.seek(io::SeekFrom::End(0))?)
}
