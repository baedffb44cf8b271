//! [`LsmStore`]: a small log-structured merge tree.
//!
//! A batch of changes is one record of the log, and goes to the memtable. A full memtable becomes a table;
//! a manifest names the tables, and up to which record of the log they reach. Too many tables are merged to
//! one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;
use tokio_kaio::{
    AioContextHandle, AioOpenOptionsExt, PublishMode, StagedFileBuilder, WriteFlags, create_dir,
    read_dir, remove_file, sync_dir, try_exists,
};

use super::log::{Counts, Log, LogOptions, Omit, Result};
use super::objects::read_whole;

/// Batches in a memtable.
const MEMTABLE: usize = 10;
/// More tables than these are merged.
const TABLES: usize = 3;

/// A change: a key and its new value. `None`: the key is removed.
pub type Change = (u64, Option<Vec<u8>>);
pub type Changes = BTreeMap<u64, Option<Vec<u8>>>;

pub struct LsmStore {
    dir: PathBuf,
    handle: AioContextHandle,
    omit: Option<Omit>,
    log: Log,
    committer: JoinHandle<Result<Counts>>,
    manifest: Manifest,
    memtable: Changes,
    /// The number of batches in the memtable.
    batches: usize,
    /// The last batch.
    last: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Manifest {
    next_table: u64,
    /// The last batch that is in a table.
    flushed: u64,
    /// The tables, the oldest one first.
    tables: Vec<u64>,
}

impl LsmStore {
    /// Opens the store in the directory `dir`, or creates one there.
    pub async fn open(
        dir: &Path,
        handle: &AioContextHandle,
        options: LogOptions,
    ) -> Result<LsmStore> {
        let omit = options.omit;
        let log_dir = dir.join("log");
        if !try_exists(&log_dir).await? {
            create_dir(&log_dir).await?;
        }
        if omit != Some(Omit::DirSync) {
            sync_dir(dir).await?;
        }
        let manifest = read_manifest(dir, handle, omit).await?;
        for name in read_dir(dir).await? {
            let name = name.to_string_lossy();
            let table = name
                .strip_suffix(".table")
                .and_then(|it| it.parse::<u64>().ok());
            let is_unused = table.is_some_and(|table| !manifest.tables.contains(&table));
            if is_unused || name.contains(".kaio-") {
                remove_file(dir.join(&*name)).await?;
            }
        }
        let (log, committer, replay) = Log::open(&log_dir, handle, options).await?;
        let expected = manifest.flushed + 1;
        if replay.first > expected || replay.next() < expected {
            let (first, next) = (replay.first, replay.next());
            return Err(format!(
                "the log has batches {first} up to {next}; the tables end before {expected}"
            )
            .into());
        }
        let mut store = LsmStore {
            dir: dir.to_path_buf(),
            handle: handle.clone(),
            omit,
            log,
            committer,
            manifest,
            memtable: Changes::new(),
            batches: 0,
            last: replay.next() - 1,
        };
        for (batch, record) in (replay.first..).zip(&replay.records) {
            if batch >= expected {
                store.memtable.extend(decode(record)?);
                store.batches += 1;
            }
        }
        Ok(store)
    }

    /// Applies a batch of changes, all or none of which survive a crash. Durable when this returns. Returns
    /// the number of the batch.
    pub async fn write(&mut self, tag: u64, changes: &[Change]) -> Result<u64> {
        let record = encode(tag, changes);
        self.last = self.log.append(record).await?;
        self.memtable.extend(changes.iter().cloned());
        self.batches += 1;
        let batch = self.last;
        Ok(batch)
    }

    /// Does what is due: makes the memtable a table, and merges tables.
    pub async fn maintain(&mut self) -> Result<()> {
        if self.batches >= MEMTABLE {
            let changes = std::mem::take(&mut self.memtable);
            self.batches = 0;
            let table = self.write_table(&changes).await?;
            self.manifest.tables.push(table);
            self.manifest.flushed = self.last;
            self.write_manifest().await?;
            self.log.discard(self.last + 1).await?;
        }
        if self.manifest.tables.len() > TABLES {
            self.compact().await?;
        }
        Ok(())
    }

    async fn compact(&mut self) -> Result<()> {
        let mut merged = self.merge_tables().await?;
        merged.retain(|_, value| value.is_some());
        let table = self.write_table(&merged).await?;
        let old = std::mem::replace(&mut self.manifest.tables, vec![table]);
        self.write_manifest().await?;
        for table in old {
            remove_file(table_path(&self.dir, table)).await?;
        }
        Ok(())
    }

    async fn merge_tables(&self) -> Result<Changes> {
        let mut merged = Changes::new();
        for &table in &self.manifest.tables {
            let path = table_path(&self.dir, table);
            merged.extend(read_checked(&path, &self.handle, self.omit).await?.1);
        }
        Ok(merged)
    }

    /// All keys that have a value.
    pub async fn scan(&self) -> Result<BTreeMap<u64, Vec<u8>>> {
        let mut all = self.merge_tables().await?;
        all.extend(self.memtable.clone());
        Ok(all
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect())
    }

    /// The number of the last batch.
    pub fn last(&self) -> u64 {
        self.last
    }

    pub async fn close(self) -> Result<()> {
        drop(self.log);
        self.committer.await??;
        Ok(())
    }

    async fn write_table(&mut self, changes: &Changes) -> Result<u64> {
        let table = self.manifest.next_table;
        self.manifest.next_table += 1;
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        let opened = options.aio_open(table_path(&self.dir, table), false).await;
        let file = opened?;
        let changes: Vec<_> = changes.clone().into_iter().collect();
        let mut writer = file.writer(&self.handle).with_chunk_size(8192);
        writer
            .write_all(&with_checksum(&encode(table, &changes)))
            .await?;
        if self.omit != Some(Omit::Sync) {
            writer.sync().await?;
        }
        writer.finish().await?;
        if self.omit != Some(Omit::DirSync) {
            sync_dir(&self.dir).await?;
        }
        Ok(table)
    }

    /// Whether files are published with both syncs.
    fn syncs(&self) -> bool {
        !matches!(self.omit, Some(Omit::Sync | Omit::DirSync))
    }

    async fn write_manifest(&self) -> Result<()> {
        let Manifest {
            next_table,
            flushed,
            tables,
        } = &self.manifest;
        // In the form of a change, too.
        let numbers: Vec<u8> = tables.iter().flat_map(|it| it.to_le_bytes()).collect();
        let bytes = with_checksum(&encode(*flushed, &[(*next_table, Some(numbers))]));
        let staged = StagedFileBuilder::new(self.dir.join("manifest")).sync(self.syncs());
        let staged = staged.create().await?;
        let flags = WriteFlags::empty();
        staged
            .file()
            .write_bytes_at(&self.handle, 0, &bytes, flags)
            .await?;
        if self.omit == Some(Omit::DirSync) {
            staged.file().sync_all(&self.handle).await?;
        }
        staged.publish(PublishMode::Replace).await?;
        if self.omit == Some(Omit::Sync) {
            sync_dir(&self.dir).await?;
        }
        Ok(())
    }
}

fn table_path(dir: &Path, table: u64) -> PathBuf {
    dir.join(format!("{table}.table"))
}

async fn read_manifest(
    dir: &Path,
    handle: &AioContextHandle,
    omit: Option<Omit>,
) -> Result<Manifest> {
    let path = dir.join("manifest");
    if !try_exists(&path).await? {
        return Ok(Manifest::default());
    }
    let (flushed, changes) = read_checked(&path, handle, omit).await?;
    let (&next_table, numbers) = changes.first_key_value().ok_or("the manifest is empty")?;
    let numbers = numbers.as_deref().unwrap_or_default();
    let number = |bytes: &[u8]| Some(u64::from_le_bytes(*bytes.first_chunk()?));
    Ok(Manifest {
        next_table,
        flushed,
        tables: numbers.chunks_exact(8).filter_map(number).collect(),
    })
}

fn with_checksum(bytes: &[u8]) -> Vec<u8> {
    [&crc32fast::hash(bytes).to_le_bytes(), bytes].concat()
}

/// Reads a file of changes. Returns its tag and the changes.
async fn read_checked(
    path: &Path,
    handle: &AioContextHandle,
    omit: Option<Omit>,
) -> Result<(u64, Changes)> {
    let damaged = || format!("{} is damaged", path.display());
    let bytes = read_whole(path, handle)
        .await
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let (checksum, bytes) = bytes.split_at_checked(4).ok_or_else(damaged)?;
    let is_intact = *checksum == crc32fast::hash(bytes).to_le_bytes();
    if !is_intact && omit != Some(Omit::Checksum) {
        return Err(damaged().into());
    }
    let tag = bytes.first_chunk().map(|tag| u64::from_le_bytes(*tag));
    Ok((
        tag.ok_or_else(damaged)?,
        decode(bytes)?.into_iter().collect(),
    ))
}

/// A tag, and changes: key, length of the value plus 1 (0: the key is removed), value.
fn encode(tag: u64, changes: &[Change]) -> Vec<u8> {
    let mut bytes = tag.to_le_bytes().to_vec();
    for (key, value) in changes {
        bytes.extend_from_slice(&key.to_le_bytes());
        let len = value.as_ref().map_or(0, |value| value.len() as u32 + 1);
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    bytes
}

fn decode(bytes: &[u8]) -> Result<Vec<Change>> {
    let damaged = "a batch of changes is damaged";
    let mut rest = bytes.get(8..).ok_or(damaged)?;
    let mut changes = Vec::new();
    while !rest.is_empty() {
        let (key, tail) = rest.split_first_chunk().ok_or(damaged)?;
        let (len, tail) = tail.split_first_chunk().ok_or(damaged)?;
        let (key, len) = (u64::from_le_bytes(*key), u32::from_le_bytes(*len) as usize);
        let (value, tail) = tail
            .split_at_checked(len.saturating_sub(1))
            .ok_or(damaged)?;
        changes.push((key, (len > 0).then(|| value.to_vec())));
        rest = tail;
    }
    Ok(changes)
}
