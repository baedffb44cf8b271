//! Offsets that no file has: refused alike on every backend, or ignored where they don't matter.

#[allow(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    clippy::unnecessary_cast
)]
mod common;

use std::fs;

use common::{context_by, ways, within};
use tokio_kaio::{AioOpenOptionsExt, WriteFlags};

const LARGEST: u64 = i64::MAX as u64;
const WRITE: WriteFlags = WriteFlags::empty();

#[tokio::test]
async fn an_append_ignores_its_offset_also_where_bytes_are_appended() {
    for dir in common::everywhere() {
        let path = dir.path().join("log");
        for by_flag in [true, false] {
            for way in ways() {
                fs::write(&path, "").unwrap();
                let mut options = fs::OpenOptions::new();
                options.read(true).append(!by_flag).write(true);
                let file = options.aio_open(path.clone(), false).await.unwrap();
                let flags = if by_flag { WriteFlags::APPEND } else { WRITE };
                let (context, handle) = context_by(way, 4);
                let mut expected = Vec::new();
                for (i, offset) in [0, 5, LARGEST, u64::MAX - 3, u64::MAX]
                    .into_iter()
                    .enumerate()
                {
                    let line = format!("line {i}\n");
                    let written = file.write_bytes_at(&handle, offset, line.as_bytes(), flags);
                    within(written).await.unwrap();
                    expected.extend_from_slice(line.as_bytes());
                }
                assert_eq!(fs::read(&path).unwrap(), expected, "{way:?}");
                context.close().await;
            }
        }
    }
}
