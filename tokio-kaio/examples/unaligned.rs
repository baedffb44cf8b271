//! Direct I/O at any offset and length: several tasks write records of 700 bytes at the same time, and a
//! header of 24 bytes is updated in place.
//!
//! ```sh
//! cargo run --release --example unaligned [DIRECTORY]
//! ```
//!
//! Creates its file in `DIRECTORY`, by default in `target` or else the current directory, and removes
//! it at the end.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_kaio::{AioOpenOptionsExt, ReadFlags, WriteFlags, aio_context};

const HEADER: u64 = 24;
const RECORD: u64 = 700;
const RECORDS: u64 = 100;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let place = env::args_os().nth(1).map(PathBuf::from);
    let default = ["target", "."]
        .into_iter()
        .find(|dir| Path::new(dir).is_dir());
    let place = place.unwrap_or_else(|| default.unwrap_or(".").into());
    let dir = tempfile::tempdir_in(&place).map_err(|e| format!("{}: {e}", place.display()))?;
    let path = dir.path().join("records");

    let (context, handle) = aio_context(64, true)?;
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true);
    let file = Arc::new(options.aio_open(path.clone(), false).await?);
    println!(
        "direct I/O on this file takes multiples of {} bytes",
        file.alignment().await?.offset
    );

    // Neighbouring records share a block. Each task changes only the bytes of its record.
    let mut tasks = JoinSet::new();
    for i in 0..RECORDS {
        let (handle, file) = (handle.clone(), Arc::clone(&file));
        tasks.spawn(async move {
            let record = vec![i as u8; RECORD as usize];
            let offset = HEADER + i * RECORD;
            file.write_bytes_at(&handle, offset, &record, WriteFlags::empty())
                .await
        });
    }
    while let Some(written) = tasks.join_next().await {
        written??;
    }
    let header = format!("{RECORDS:>23}\n");
    file.write_bytes_at(&handle, 0, header.as_bytes(), WriteFlags::DSYNC)
        .await?;

    // The file is no longer than its data.
    let len = HEADER + RECORDS * RECORD;
    assert_eq!(file.metadata().await?.len(), len);

    let mut record = [0; RECORD as usize];
    for i in 0..RECORDS {
        let offset = HEADER + i * RECORD;
        let read = file.read_bytes_at(&handle, offset, &mut record, ReadFlags::empty());
        assert_eq!(read.await?, RECORD);
        assert!(record.iter().all(|&byte| byte == i as u8), "record {i}");
    }
    let read = file.read_bytes_at(&handle, len - 10, &mut record, ReadFlags::empty());
    assert_eq!(read.await?, 10, "the file ends there");

    println!(
        "wrote {RECORDS} records of {RECORD} bytes behind a header of {HEADER}, and read them back; \
         the file has {len} bytes"
    );
    context.close().await;
    Ok(())
}
