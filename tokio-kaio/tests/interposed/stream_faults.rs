//! Readers and writers whose requests are short or fail.

use std::fs;

use crate::common::*;
use crate::interposer::WatchedFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_kaio::{Backend, StreamError, SubmitPolicy};

const CHUNK: usize = 4 * BLOCK;

fn errno_of(error: &std::io::Error) -> Option<i32> {
    let error: &StreamError = error.get_ref()?.downcast_ref()?;
    error.raw_os_error()
}

fn offset(error: &std::io::Error) -> u64 {
    let error: &StreamError = error.get_ref().unwrap().downcast_ref().unwrap();
    error.offset()
}

/// Whether the interposer can fail requests of the thread pool with any errno: not in a build that has all
/// contexts on io_uring. Prints a line if not.
fn has_device_errors() -> bool {
    let has = BACKENDS.contains(&Backend::ThreadPool);
    if !has {
        eprintln!("skipped on {}: requests fail only with EBADF", BACKENDS[0]);
    }
    has
}

// ---- Readers ----------------------------------------------------------------------------------

#[test]
fn a_short_read_is_no_end_of_the_file() {
    let len = 3 * CHUNK + 5;
    Fixture::new(8)
        .everywhere()
        .content(content(len))
        .run(async |case| {
            let watched = WatchedFile::new(&case.file);
            for most in [BLOCK, 3 * BLOCK] {
                watched.shorten_to(most);
                let reader = case.file.reader(&case.handle).with_chunk_size(CHUNK);
                let mut read = Vec::new();
                let mut reader = reader.with_depth(2);
                reader.read_to_end(&mut read).await.unwrap();
                assert!(read == content(len), "at most {most} bytes a request");
            }
        });
}

#[test]
fn a_failed_read_is_returned_once_at_its_place_and_tried_again() {
    let len = 5 * CHUNK;
    Fixture::new(8)
        .everywhere()
        .content(content(len))
        .run(async |case| {
            for depth in [1, 3] {
                let watched = WatchedFile::new(&case.file);
                let reader = case.file.reader(&case.handle).with_chunk_size(CHUNK);
                let mut reader = reader.with_depth(depth);
                let mut read = vec![0; 10];
                let before = case.handle.metrics();
                reader.read_exact(&mut read).await.unwrap();
                let completed = || case.handle.metrics().since(&before).completed;
                wait_until(|| completed() == depth as u64, completed).await;
                watched.fail_after(0);
                // What was read before comes first.
                let error = reader.read_to_end(&mut read).await.unwrap_err();
                assert_eq!(errno_of(&error), Some(libc::EBADF));
                assert_eq!(offset(&error), (depth * CHUNK) as u64);
                assert!(read == content(len)[..depth * CHUNK]);
                watched.fail_after(usize::MAX / 2);
                // Each chunk that has failed meanwhile returns its error once.
                let mut errors = 0;
                while reader.read_to_end(&mut read).await.is_err() {
                    errors += 1;
                }
                assert!(errors < depth, "{errors}");
                assert!(read == content(len));
            }
        });
}

#[cfg(feature = "bytes")]
#[test]
fn a_stream_returns_the_error_of_its_read_last() {
    use futures::StreamExt;
    Fixture::new(8)
        .everywhere()
        .content(content(5 * CHUNK))
        .run(async |case| {
            let watched = WatchedFile::new(&case.file);
            let reader = case.file.reader(&case.handle).with_chunk_size(CHUNK);
            let mut stream = reader.with_depth(1).into_stream();
            assert_eq!(stream.next().await.unwrap().unwrap().len(), CHUNK);
            watched.fail_after(0);
            let error = stream.next().await.unwrap().unwrap_err();
            assert_eq!(offset(&error), CHUNK as u64);
            assert!(stream.next().await.is_none());
        });
}

#[test]
fn an_error_of_the_device_reaches_who_reads() {
    if !has_device_errors() {
        return;
    }
    for errno in [libc::EIO, libc::EINVAL] {
        let threads = (Backend::ThreadPool, SubmitPolicy::default());
        let fixture = Fixture::new(8).every_dir().modes([threads]);
        fixture.content(content(3 * CHUNK)).run(async |case| {
            let watched = WatchedFile::new(&case.file);
            watched.fail_after_with(1, errno);
            let reader = case.file.reader(&case.handle).with_chunk_size(CHUNK);
            let (mut reader, mut read) = (reader.with_depth(1), Vec::new());
            let error = reader.read_to_end(&mut read).await.unwrap_err();
            let kind = std::io::Error::from_raw_os_error(errno).kind();
            assert_eq!((errno_of(&error), error.kind()), (Some(errno), kind));
            assert_eq!(offset(&error), CHUNK as u64);
            assert!(read == content(CHUNK));
        });
    }
}

// ---- Writers ----------------------------------------------------------------------------------

#[test]
fn a_short_write_is_resumed() {
    Fixture::new(8).everywhere().run(async |case| {
        let watched = WatchedFile::new(&case.file);
        watched.shorten_to(BLOCK);
        let writer = case.file.writer(&case.handle).with_chunk_size(CHUNK);
        let mut writer = writer.with_depth(2);
        writer.write_all(&content(3 * CHUNK + 7)).await.unwrap();
        writer.finish().await.unwrap();
        assert!(file_content(case.dir) == content(3 * CHUNK + 7));
    });
}

#[test]
fn a_failed_write_reaches_the_next_call_whatever_it_is() {
    Fixture::new(8).everywhere().run(async |case| {
        // A chunk fails, or the write of the rest of a block that has begun.
        for (call, tail) in (0..5).flat_map(|call| [(call, 0), (call, 1)]) {
            let watched = WatchedFile::new(&case.file);
            let writer = case.file.writer(&case.handle).with_chunk_size(CHUNK);
            let mut writer = writer.with_depth(4);
            writer.write_all(&content(CHUNK + tail)).await.unwrap();
            writer.flush().await.unwrap();
            watched.fail_after(0);
            let len = if tail > 0 { BLOCK - tail } else { CHUNK };
            writer.write_all(&content(len)).await.unwrap();
            let in_flight = || case.handle.metrics().in_flight;
            let error = match call {
                0 => loop {
                    // Small writes notice it without a flush.
                    wait_until(|| in_flight() == 0, in_flight).await;
                    if let Err(error) = writer.write_all(b"x").await {
                        break error;
                    }
                },
                1 => writer.flush().await.unwrap_err(),
                2 => writer.sync().await.unwrap_err(),
                3 => writer.shutdown().await.unwrap_err(),
                _ => {
                    let error = writer.finish().await.unwrap_err();
                    assert_eq!(errno_of(&error), Some(libc::EBADF));
                    continue;
                }
            };
            assert_eq!(errno_of(&error), Some(libc::EBADF));
            let first = offset(&error);
            drop(watched); // the file is well again, but the error stays
            assert_eq!(offset(&writer.write_all(b"more").await.unwrap_err()), first);
            let error = writer.finish().await.unwrap_err();
            assert_eq!(
                (errno_of(&error), offset(&error)),
                (Some(libc::EBADF), first)
            );
        }
        assert_eq!(case.handle.metrics().unfinished_writers, 0);
        fs::write(&case.path, "").unwrap();
    });
}

#[test]
fn whole_blocks_go_out_in_chunks_and_edges_by_themselves() {
    Fixture::new(8).inline().run(async |case| {
        let watched = WatchedFile::new(&case.file);
        let writer = case.file.writer(&case.handle).with_chunk_size(CHUNK);
        let mut writer = writer.with_offset(LEN);
        writer.write_all(&content(3 * CHUNK)).await.unwrap();
        writer.finish().await.unwrap();
        let mut writes: Vec<_> = watched
            .transfers()
            .iter()
            .map(|t| (t.offset, t.len))
            .collect();
        writes.sort_unstable(); // threads perform them in any order
        let chunk = CHUNK as u64;
        let expected = [
            (LEN, 3 * LEN),
            (chunk, chunk),
            (2 * chunk, chunk),
            (3 * chunk, LEN),
        ];
        assert_eq!(writes, expected);
    });
}

#[test]
fn an_error_of_the_device_reaches_who_writes_and_who_finishes() {
    if !has_device_errors() {
        return;
    }
    for errno in [libc::ENOSPC, libc::EIO, libc::EINVAL] {
        let threads = (Backend::ThreadPool, SubmitPolicy::default());
        // With data, the alignment is known without a read, which would fail too.
        let fixture = Fixture::new(8).every_dir().modes([threads]).blocks(1);
        fixture.run(async |case| {
            let watched = WatchedFile::new(&case.file);
            watched.fail_after_with(0, errno);
            let writer = case.file.writer(&case.handle).with_chunk_size(CHUNK);
            let mut writer = writer.with_depth(2);
            let error = loop {
                if let Err(error) = writer.write_all(&content(CHUNK)).await {
                    break error;
                }
            };
            let kind = std::io::Error::from_raw_os_error(errno).kind();
            assert_eq!((errno_of(&error), error.kind()), (Some(errno), kind));
            let error = writer.finish().await.unwrap_err();
            assert_eq!(errno_of(&error), Some(errno));
        });
    }
}
