//! [`Program::Copy`](super::Program::Copy): copies that replace files, in the steps of `kaio cp`.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tokio_kaio::{
    AioContextHandle, AlignedBuf, Allocate, File, PublishMode, ReadFlags, StagedFileBuilder,
    WriteFlags, read_dir, remove_file, sync_dir, try_exists,
};

use super::content::content;
use super::history::Oracle;
use super::log::{PAGE, Result};
use super::objects::{check_file, read_whole, written};
use super::{Job, Omit};

const TARGETS: u64 = 3;
const LONGEST: u64 = 40_000;
/// The bytes that are read and written at once.
const CHUNK: usize = 4 * PAGE;

fn target(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("copy-{number}"))
}

pub async fn run(job: &Job, dir: &Path, handle: &AioContextHandle, oracle: &Oracle) -> Result<()> {
    let source = dir.join("source");
    for _ in 0..job.operations {
        let number = oracle.history().started() % TARGETS;
        let operation = oracle.start(written(number));
        // Nobody needs the source after a power cut.
        let file = File::create(&source, false).await?;
        let bytes = content(job.seed, operation, LONGEST);
        file.write_bytes_at(handle, 0, &bytes, WriteFlags::empty())
            .await?;
        match &job.kaio {
            Some(kaio) => call(job, kaio, &source, &target(dir, number)).await?,
            None => copy(job, handle, &source, &target(dir, number)).await?,
        }
        oracle.acknowledge(operation, written(number));
    }
    Ok(())
}

/// Takes the steps of `kaio cp` for a file that is copied in blocks.
async fn copy(job: &Job, handle: &AioContextHandle, source: &Path, target: &Path) -> Result<()> {
    let mode = match try_exists(target).await? {
        true => PublishMode::Replace,
        false => PublishMode::CreateNew,
    };
    let options = std::fs::OpenOptions::new().read(true).clone();
    let source = File::open_with(&options, source, false).await?;
    let length = source.metadata().await?.len() as usize;
    let staged = StagedFileBuilder::new(target).mode(0o600).named(true);
    let staged = staged.create().await?;
    let file = staged.file();
    if length > CHUNK {
        match file.allocate(Allocate::Extend, 0, length as u64).await {
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {}
            allocated => allocated?,
        }
    }
    let mut buffer = AlignedBuf::new(CHUNK)?;
    for at in (0..length).step_by(CHUNK) {
        let (offset, flags) = (at as u64, ReadFlags::empty());
        source
            .read_full_at(handle, offset, &mut buffer, CHUNK as u64, flags)
            .await?;
        let bytes = CHUNK.min(length - at);
        let whole = bytes.next_multiple_of(PAGE);
        buffer[bytes..whole].fill(0);
        let flags = WriteFlags::empty();
        file.write_all_at(handle, offset, &buffer, whole as u64, flags)
            .await?;
    }
    file.set_len(length as u64).await?;
    file.set_permissions(Permissions::from_mode(0o644)).await?;
    if !job.omits(Omit::Sync) {
        file.sync_all(handle).await?;
    }
    staged.publish(mode).await?;
    if !job.omits(Omit::DirSync) {
        sync_dir(target.parent().unwrap_or(target)).await?;
    }
    Ok(())
}

/// Calls the program `kaio`.
async fn call(job: &Job, kaio: &Path, source: &Path, target: &Path) -> Result<()> {
    let mut command = Command::new(kaio);
    command.arg("cp").args([source, target]);
    if job.omits(Omit::Sync) {
        command.arg("--no-fsync");
    }
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into()),
    }
}

pub async fn check(
    job: &Job,
    dir: &Path,
    handle: &AioContextHandle,
    oracle: &Oracle,
) -> Result<()> {
    for name in read_dir(dir).await? {
        let name = name.to_string_lossy();
        let is_temporary = name.starts_with(".copy-") && name.contains(".kaio-");
        if is_temporary || name == "source" {
            remove_file(dir.join(&*name)).await?;
        }
    }
    let mut found = Vec::new();
    for number in 0..TARGETS {
        let path = target(dir, number);
        found.push(match try_exists(&path).await? {
            true => Some(read_whole(&path, handle).await?),
            false => None,
        });
    }
    let mut history = oracle.history();
    for (number, found) in (0..).zip(&found) {
        let expected = |operation| content(job.seed, operation, LONGEST);
        let name = format!("copy-{number}");
        check_file(&mut history, number, &name, found.as_ref(), expected)?;
    }
    history.settle();
    Ok(())
}
