//! Reads and writes of any offset and length, also at the same time within a block.

use std::fs::OpenOptions;

use futures_util::future::try_join_all;
use tokio_kaio::{File, ReadFlags, WriteFlags};

use crate::soak_job::{Result, SoakJob};

const LEN: usize = 200_000;

pub(crate) async fn read_and_write_bytes(mut job: SoakJob) -> Result<()> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    let file = File::open_with(&options, job.dir.join("bytes"), false).await?;
    // What the file has to hold.
    let mut expected = vec![0; LEN];
    file.set_len(LEN as u64).await?;
    while job.goes_on() {
        // Neighbours that share blocks, written together.
        let mut at = job.random.usize(..LEN - 20_000);
        let mut pieces = Vec::new();
        for _ in 0..job.random.usize(1..8) {
            let piece: Vec<u8> = (0..job.random.usize(1..2500))
                .map(|_| job.random.u8(..))
                .collect();
            expected[at..at + piece.len()].copy_from_slice(&piece);
            let start = at as u64;
            at += piece.len();
            pieces.push((start, piece));
        }
        let writes = pieces.iter().map(|(start, piece)| {
            file.write_bytes_at(&job.handle, *start, piece, WriteFlags::empty())
        });
        try_join_all(writes).await?;
        pieces.iter().for_each(|_| job.count().done());

        let start = job.random.usize(..LEN);
        let mut bytes = vec![0; job.random.usize(1..40_000)];
        let read = file.read_bytes_at(&job.handle, start as u64, &mut bytes, ReadFlags::empty());
        let read = read.await? as usize;
        let wanted = &expected[start..LEN.min(start + bytes.len())];
        if bytes[..read] != *wanted {
            return Err(format!("WRONG DATA: {read} unaligned bytes at {start}").into());
        }
        job.count().verified(read);
    }
    Ok(())
}
