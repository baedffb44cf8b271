//! Offsets that no file has: refused alike on every backend, or ignored where they don't matter.

#[allow(clippy::undocumented_unsafe_blocks, clippy::unnecessary_cast)]
mod common;

use std::fs;

use common::{BLOCK, context_by, is_pattern, on_disk, open_rw, patterned, ways, within};
use tokio_kaio::{
    AioCommandError, AioContextHandle, AioOpenOptionsExt, File, RawCommand, ReadFlags, WriteFlags,
};

const LEN: u64 = BLOCK as u64;
const LARGEST: u64 = i64::MAX as u64;
const READ: ReadFlags = ReadFlags::empty();
const WRITE: WriteFlags = WriteFlags::empty();

/// What every kind of transfer of `LEN` bytes at `offset` comes to.
async fn transfers(
    handle: &AioContextHandle,
    file: &File,
    offset: u64,
) -> Vec<(&'static str, Result<(), AioCommandError>)> {
    let (mut buffer, mut other) = (patterned(1, BLOCK), patterned(2, BLOCK));
    let mut results = Vec::new();
    let read = file.read_at(handle, offset, &mut buffer, LEN, READ).await;
    results.push(("read_at", read.map(drop)));
    let read = file.read_exact_at(handle, offset, &mut buffer, LEN, READ);
    results.push(("read_exact_at", read.await));
    let parts = &mut [buffer.part_mut(..512), other.part_mut(..BLOCK - 512)];
    let read = file.read_vectored_at(handle, offset, parts, READ).await;
    results.push(("read_vectored_at", read.map(drop)));
    let (read, buffer) = file.read_owned_at(handle, offset, buffer, READ).await;
    results.push(("read_owned_at", read.map(drop)));
    let (read, vector) = file
        .read_owned_at(handle, offset, Vec::with_capacity(BLOCK), READ)
        .await;
    results.push(("read_owned_at, a Vec", read.map(drop)));
    assert!(
        vector.is_empty() && vector.capacity() >= BLOCK,
        "it is back"
    );
    let (read, buffer) = file.read_exact_owned_at(handle, offset, buffer, READ).await;
    results.push(("read_exact_owned_at", read));
    let buffers = vec![buffer, other];
    let (read, buffers) = file
        .read_vectored_owned_at(handle, offset, buffers, READ)
        .await;
    results.push(("read_vectored_owned_at", read.map(drop)));
    let [buffer, other]: [_; 2] = buffers.try_into().unwrap();

    let written = file.write_at(handle, offset, &buffer, LEN, WRITE).await;
    results.push(("write_at", written.map(drop)));
    let written = file.write_all_at(handle, offset, &buffer, LEN, WRITE).await;
    results.push(("write_all_at", written));
    let parts = &[buffer.part(..512), other.part(..BLOCK - 512)];
    let written = file.write_vectored_at(handle, offset, parts, WRITE).await;
    results.push(("write_vectored_at", written.map(drop)));
    let (written, buffer) = file.write_owned_at(handle, offset, buffer, WRITE).await;
    results.push(("write_owned_at", written.map(drop)));
    let (written, buffer) = file.write_all_owned_at(handle, offset, buffer, WRITE).await;
    results.push(("write_all_owned_at", written));
    let buffers = vec![buffer, other];
    let (written, buffers) = file
        .write_vectored_owned_at(handle, offset, buffers, WRITE)
        .await;
    results.push(("write_vectored_owned_at", written.map(drop)));
    assert!(
        is_pattern(1, &buffers[0]) && is_pattern(2, &buffers[1]),
        "they are as they were"
    );

    let buffer = &buffers[0];
    let (flags, len) = (WRITE, LEN);
    let command = RawCommand::Pwrite {
        offset,
        buffer,
        flags,
        len,
    };
    let written = handle.submit_request(file, command).await;
    results.push(("submit_request", written.map(drop)));
    let mut bytes = [9; BLOCK];
    let read = file.read_bytes_at(handle, offset, &mut bytes, READ).await;
    results.push(("read_bytes_at", read.map(drop)));
    let written = file.write_bytes_at(handle, offset, &bytes, WRITE).await;
    results.push(("write_bytes_at", written));
    results
}

#[tokio::test]
async fn a_transfer_that_ends_past_the_largest_offset_is_one_error_on_every_backend() {
    let dir = on_disk();
    let file = open_rw(&dir, "data").await;
    for way in ways() {
        let (context, handle) = context_by(way, 4);
        for offset in [
            LARGEST - LEN + 1,
            LARGEST,
            LARGEST + 1,
            u64::MAX - LEN,
            u64::MAX,
        ] {
            for (name, result) in within(transfers(&handle, &file, offset)).await {
                let error = result.expect_err(name);
                assert!(
                    matches!(error, AioCommandError::IoSubmit(_)),
                    "{way:?}, {name}: {error:?}"
                );
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{way:?}, {name}");
                let text = error.to_string();
                for part in [
                    &format!("bytes at offset {offset} would end past"),
                    "largest",
                ] {
                    assert!(text.contains(part), "{way:?}, {name}: {text}");
                }
            }
        }
        assert_eq!(handle.metrics().submitted, 0, "{way:?}");
        context.close().await;
    }
    assert_eq!(file.metadata().await.unwrap().len(), 0);
}

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

#[tokio::test]
async fn a_length_that_no_file_can_have_is_named() {
    let dir = on_disk();
    let file = open_rw(&dir, "data").await;
    for len in [LARGEST + 1, u64::MAX] {
        let error = file.set_len(len).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        let text = error.to_string();
        let path = dir.path().join("data");
        for part in [
            path.to_str().unwrap(),
            &len.to_string(),
            "9223372036854775807",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
    assert_eq!(file.metadata().await.unwrap().len(), 0);
}
