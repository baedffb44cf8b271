//! [`Program::Objects`](super::Program::Objects): objects that are created, replaced and removed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::task::JoinSet;
use tokio_kaio::{
    AioContextHandle, File, PublishMode, ReadFlags, StagedFileBuilder, WriteFlags, read_dir,
    remove_file, sync_dir, try_exists,
};

use super::content::{content, operation_of, random};
use super::history::{History, Oracle};
use super::log::Result;
use super::{Job, Omit};

/// The number of objects. Each has a task that writes it.
const OBJECTS: u64 = 3;
const LONGEST: u64 = 20_000;

fn object(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("object-{number}"))
}

pub async fn run(job: &Job, dir: &Path, handle: &AioContextHandle, oracle: &Oracle) -> Result<()> {
    let left = Arc::new(AtomicU64::new(job.operations));
    let mut tasks = JoinSet::new();
    for number in 0..OBJECTS {
        let (job, dir) = (job.clone(), dir.to_path_buf());
        let (handle, oracle, left) = (handle.clone(), oracle.clone(), left.clone());
        tasks.spawn(async move {
            let mut exists = try_exists(object(&dir, number)).await?;
            while left
                .fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1))
                .is_ok()
            {
                let path = object(&dir, number);
                let removes =
                    exists && random(job.seed, oracle.history().started(), number) % 5 == 0;
                let place = if removes {
                    removed(number)
                } else {
                    written(number)
                };
                let operation = oracle.start(place);
                if removes {
                    remove_file(&path).await?;
                    if !job.omits(Omit::DirSync) {
                        sync_dir(&dir).await?;
                    }
                    exists = false;
                } else {
                    put(&job, &path, &handle, operation, exists).await?;
                    exists = true;
                }
                oracle.acknowledge(operation, place);
            }
            Result::Ok(())
        });
    }
    tasks.join_all().await.into_iter().collect()
}

async fn put(
    job: &Job,
    path: &Path,
    handle: &AioContextHandle,
    operation: u64,
    exists: bool,
) -> Result<()> {
    let bytes = content(job.seed, operation, LONGEST);
    let choice = random(job.seed, operation, 2);
    let mut builder = StagedFileBuilder::new(path)
        .sync(job.omit.is_none())
        .named(choice % 3 == 0);
    if choice % 2 == 0 {
        builder = builder.len(bytes.len() as u64);
    }
    let staged = builder.create().await?;
    for (index, part) in bytes.chunks(5000).enumerate() {
        let (at, flags) = (index as u64 * 5000, WriteFlags::empty());
        staged
            .file()
            .write_bytes_at(handle, at, part, flags)
            .await?;
    }
    if job.omits(Omit::DirSync) {
        staged.file().sync_all(handle).await?;
    }
    let mode = match exists {
        true => PublishMode::Replace,
        false => PublishMode::CreateNew,
    };
    staged.publish(mode).await?;
    if job.omits(Omit::Sync) {
        sync_dir(path.parent().unwrap_or(path)).await?;
    }
    Ok(())
}

pub async fn check(
    job: &Job,
    dir: &Path,
    handle: &AioContextHandle,
    oracle: &Oracle,
) -> Result<()> {
    let mut found = BTreeMap::new();
    for name in read_dir(dir).await? {
        let name = name.to_string_lossy();
        let number = name
            .strip_prefix("object-")
            .and_then(|it| it.parse::<u64>().ok());
        if let Some(number) = number.filter(|&number| number < OBJECTS) {
            found.insert(number, read_whole(&dir.join(&*name), handle).await?);
        } else if name.starts_with(".object-") && name.contains(".kaio-") {
            // What a process that is killed leaves, too. Whoever uses the directory removes it.
            remove_file(dir.join(&*name)).await?;
        } else {
            return Err(format!("there is a file {name}, which nobody has created").into());
        }
    }
    let mut history = oracle.history();
    for number in 0..OBJECTS {
        let expected = |operation| content(job.seed, operation, LONGEST);
        let name = format!("object-{number}");
        check_file(&mut history, number, &name, found.get(&number), expected)?;
    }
    history.settle();
    Ok(())
}

/// The place of an operation that writes the file with this number.
pub fn written(number: u64) -> u64 {
    2 * number
}

/// The place of an operation that removes it.
pub fn removed(number: u64) -> u64 {
    2 * number + 1
}

/// Checks that the file with this number is as the last durable operation on it has left it, or a pending
/// one.
pub fn check_file(
    history: &mut History,
    number: u64,
    name: &str,
    found: Option<&Vec<u8>>,
    expected: impl Fn(u64) -> Vec<u8>,
) -> Result<()> {
    let of_this = |&(_, place): &(u64, u64)| place / 2 == number;
    let entries = |(&operation, &place): (&u64, &u64)| (operation, place);
    let durable = history.durable().iter().map(entries).rfind(of_this);
    let pending: BTreeMap<u64, u64> = history
        .pending()
        .iter()
        .map(entries)
        .filter(of_this)
        .collect();
    let last = durable.map(|(operation, _)| operation);
    let Some(found) = found else {
        let removal = pending.iter().find(|&(_, &place)| place == removed(number));
        return match (durable, removal) {
            (None, _) => Ok(()),
            (Some((_, place)), _) if place == removed(number) => Ok(()),
            (_, Some((&operation, &place))) => Ok(history.found(operation, place)?),
            (Some((operation, _)), None) => {
                Err(format!("{name} is missing: operation {operation} has written it").into())
            }
        };
    };
    let operation = operation_of(found).filter(|&operation| *found == expected(operation));
    match operation {
        None => {
            let len = found.len();
            Err(format!("{name} has {len} bytes that nobody has written").into())
        }
        Some(operation) if Some(operation) == last => Ok(()),
        Some(operation) => match pending.get(&operation) {
            Some(&place) if place == written(number) => Ok(history.found(operation, place)?),
            _ => Err(format!(
                "{name} has the content of operation {operation}; the last durable one is {last:?}, and \
                 {:?} may be",
                pending.keys()
            )
            .into()),
        },
    }
}

pub async fn read_whole(path: &Path, handle: &AioContextHandle) -> Result<Vec<u8>> {
    let options = std::fs::OpenOptions::new().read(true).clone();
    let file = File::open_with(&options, path, false).await?;
    let mut bytes = vec![0; file.metadata().await?.len() as usize];
    let read = file.read_bytes_at(handle, 0, &mut bytes, ReadFlags::empty());
    let read = read.await? as usize;
    bytes.truncate(read);
    Ok(bytes)
}
