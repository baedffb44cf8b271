use std::io;
use std::path::Path;
use tokio_kaio::{AioContextHandle, AlignedBuf, File, ReadFlags, WriteFlags, sync_dir};

type Error = Box<dyn std::error::Error>;

const BLOCK: usize = 4096;

/// An append-only list of notes in the file `notes` of a directory.
struct Notes {
    file: File,
    handle: AioContextHandle,
    count: usize,
}

impl Notes {
    /// Opens the list, and returns its notes: those before the first one that is not whole.
    async fn open(dir: &Path, handle: &AioContextHandle) -> Result<(Notes, Vec<String>), Error> {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create(true);
        let file = File::open_with(&options, dir.join("notes"), false).await?;
        sync_dir(dir).await?; // the name is durable
        let mut texts = Vec::new();
        let mut block = AlignedBuf::new(BLOCK)?;
        let len = BLOCK as u64;
        loop {
            let (at, flags) = (texts.len() as u64 * len, ReadFlags::empty());
            let read = file.read_at(handle, at, &mut block, len, flags).await?;
            match decode(&block) {
                Some(text) if read == len => texts.push(text),
                _ => break,
            }
        }
        let (handle, count) = (handle.clone(), texts.len());
        Ok((
            Notes {
                file,
                handle,
                count,
            },
            texts,
        ))
    }

    /// Appends a note. It is durable when this returns.
    async fn append(&mut self, text: &str) -> Result<(), Error> {
        let mut block = AlignedBuf::new(BLOCK)?;
        let len = text.len();
        let end = 8 + len;
        if end > BLOCK {
            return Err(format!("a note of {len} bytes is too long").into());
        }
        block[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        block[8..end].copy_from_slice(text.as_bytes());
        let checksum = crc32fast::hash(&block[4..end]);
        block[..4].copy_from_slice(&checksum.to_le_bytes());
        let (at, len) = ((self.count * BLOCK) as u64, BLOCK as u64);
        let write = self
            .file
            .write_at(&self.handle, at, &block, len, WriteFlags::DSYNC);
        if write.await? != len {
            return Err(io::Error::from(io::ErrorKind::StorageFull).into());
        }
        self.count += 1;
        Ok(())
    }
}

fn decode(block: &[u8]) -> Option<String> {
    let len = u32::from_le_bytes(block[4..8].try_into().ok()?) as usize;
    let text = block.get(8..8 + len)?;
    let intact = block[..4] == crc32fast::hash(&block[4..8 + len]).to_le_bytes();
    intact.then(|| String::from_utf8_lossy(text).into_owned())
}
