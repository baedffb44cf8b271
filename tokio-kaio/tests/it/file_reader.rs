//! `FileReader`: reads a file in order, ahead of its caller.
#![allow(unsafe_code)] // makes a waker

use std::fs;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, RawWakerVTable, Waker};

use crate::common::*;
use futures::{StreamExt, poll};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader, copy, copy_buf,
};
use tokio::task::{LocalSet, yield_now};
use tokio_kaio::{
    AioContextHandle, AioOpenOptionsExt, Backend, FileReader, LocalAioContextHandle, StreamError,
    SubmitPolicy, WriteFlags, aio_context, local_aio_context,
};
use tokio_util::codec::{FramedRead, LinesCodec};

/// A small chunk, so that small files have several.
const CHUNK: usize = 4 * BLOCK;

async fn read_all(mut reader: FileReader) -> Vec<u8> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await.unwrap();
    bytes
}

/// Lengths of files around the ends of blocks and chunks.
const LENGTHS: [usize; 9] = [
    0,
    1,
    511,
    BLOCK - 1,
    BLOCK,
    CHUNK,
    CHUNK + 1,
    3 * CHUNK - 1,
    3 * CHUNK + BLOCK,
];

fn assert_send<T: Send>(value: T) -> T {
    value
}

// ---- The whole file ---------------------------------------------------------------------------

#[test]
fn a_reader_returns_the_whole_file() {
    Fixture::new(16).everywhere().run(async |case| {
        for len in LENGTHS {
            let file = file_with_content(case.dir, len).await;
            for depth in [1, 3] {
                let reader = file.reader(&case.handle).with_depth(depth);
                let read = read_all(reader.with_chunk_size(CHUNK)).await;
                assert!(read == content(len), "{len} bytes, depth {depth}");
            }
        }
    });
}

#[test]
fn the_default_chunk_size_and_depth_read_the_whole_file() {
    let len = 5 * LONG + 12_345;
    Fixture::new(32)
        .every_dir()
        .every_backend()
        .content(content(len))
        .run(async |case| {
            assert!(read_all(case.file.reader(&case.handle)).await == content(len));
        });
}

#[test]
fn a_reader_without_depth_or_chunk_size_still_reads() {
    Fixture::new(8).content(content(10_000)).run(async |case| {
        let reader = case.file.reader(&case.handle);
        let reader = reader.with_depth(0).with_chunk_size(0);
        assert!(read_all(reader).await == content(10_000));
    });
}

#[test]
fn a_buffered_file_of_unknown_length_is_read_to_its_end() {
    // procfs has no direct I/O, no kernel AIO, and no lengths.
    for path in ["/proc/version", "/proc/kallsyms", "/proc/cpuinfo"] {
        Fixture::new(8)
            .modes([(Backend::ThreadPool, SubmitPolicy::default())])
            .run(async |case| {
                let mut options = fs::OpenOptions::new();
                let opening = options.read(true).aio_open_or_buffered(path.into(), false);
                let file = opening.await.unwrap();
                assert!(!file.is_direct());
                let reader = file.reader(&case.handle).with_chunk_size(1000);
                let read = read_all(reader).await;
                assert!(!read.is_empty(), "{path}");
                if path == "/proc/version" {
                    assert!(read == fs::read(path).unwrap());
                }
            });
    }
}

#[test]
fn a_range_is_read_exactly() {
    Fixture::new(8)
        .every_dir()
        .every_backend()
        .content(content(3 * CHUNK))
        .run(async |case| {
            let whole = content(3 * CHUNK);
            let reader = || case.file.reader(&case.handle).with_chunk_size(CHUNK);
            for range in [
                0..1,
                700..701,
                BLOCK - 1..BLOCK + 1,
                100..2 * CHUNK + 5,
                CHUNK..2 * CHUNK,
                5..5,
                3 * CHUNK - 1..3 * CHUNK,
            ] {
                let reader = reader().with_range(range.start as u64..range.end as u64);
                assert_eq!(reader.position(), range.start as u64);
                assert!(read_all(reader).await == whole[range.clone()], "{range:?}");
            }
            let tail = read_all(reader().with_range(2 * CHUNK as u64 + 3..)).await;
            assert!(tail == whole[2 * CHUNK + 3..]);
            assert!(read_all(reader().with_range(..=9)).await == whole[..10]);
            assert!(read_all(reader().with_range(..)).await == whole);
            assert!(read_all(reader().with_range(10 << 20..)).await.is_empty());
            assert!(read_all(reader().with_range(u64::MAX..)).await.is_empty());
        });
}

#[test]
#[allow(clippy::reversed_empty_ranges)] // is meant
fn a_range_that_ends_before_it_starts_is_an_error_and_no_empty_range() {
    Fixture::new(8).blocks(1).run(async |case| {
        let reader = || case.file.reader(&case.handle);
        let mut reversed = reader().with_range(10..3);
        for _ in 0..2 {
            let error = reversed.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            let text = error.to_string();
            assert!(
                text.contains("the range 10..3 ends before it starts"),
                "{text}"
            );
            let error: StreamError = error.downcast().unwrap();
            assert_eq!(
                (error.offset(), error.raw_os_error()),
                (10, Some(libc::EINVAL))
            );
        }
        let mut mended = reversed.with_range(3..10);
        assert_eq!(mended.read_to_end(&mut vec![]).await.unwrap(), 7);
        for mut empty in [reader().with_range(5..5), reader().with_range(5..=4)] {
            assert_eq!(empty.read_to_end(&mut vec![]).await.unwrap(), 0);
        }
    });
}

#[test]
fn a_reader_outlives_its_file_and_moves_to_another_task() {
    Fixture::new(8)
        .multi_thread()
        .content(content(3 * CHUNK))
        .run(async |case| {
            let reader = case.file.reader(&case.handle).with_chunk_size(CHUNK);
            let mut reader = assert_send(reader);
            let mut first = vec![0; CHUNK];
            reader.read_exact(&mut first).await.unwrap();
            drop(case.file);
            let rest = tokio::spawn(read_all(reader)).await.unwrap();
            assert!([first, rest].concat() == content(3 * CHUNK));
        });
}

#[tokio::test]
async fn a_reader_works_on_a_local_context() {
    let dir = disk_dir();
    let file = file_with_content(&dir, 2 * CHUNK + 1).await;
    let local = async {
        let (context, handle, driver) = local_aio_context(8, true).unwrap();
        let driver = tokio::task::spawn_local(driver);
        let mut reader: FileReader<_, _, _> = {
            let handle: &LocalAioContextHandle = &handle;
            file.reader(handle).with_chunk_size(CHUNK)
        };
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).await.unwrap();
        assert!(bytes == content(2 * CHUNK + 1));
        drop((reader, handle));
        context.close().await;
        driver.await.unwrap().unwrap();
    };
    with_hang_guard(LocalSet::new().run_until(local)).await;
}

// ---- Reads in flight --------------------------------------------------------------------------

#[test]
fn depth_reads_are_in_flight_or_ready_after_the_first_byte() {
    Fixture::new(32)
        .everywhere()
        .content(content(20 * CHUNK))
        .run(async |case| {
            let reader = case.file.reader(&case.handle);
            let mut reader = reader.with_chunk_size(CHUNK).with_depth(5);
            assert_eq!(case.handle.metrics().submitted, 0, "nothing before a poll");
            reader.read_u8().await.unwrap();
            // They complete although nobody polls the reader.
            let completed = || case.handle.metrics().completed;
            wait_until(|| completed() == 5, completed).await;
            let mut rest = vec![0; CHUNK];
            reader.read_exact(&mut rest).await.unwrap();
            wait_until(|| completed() == 6, completed).await;
        });
}

#[test]
fn the_end_of_the_file_costs_at_most_one_more_read() {
    Fixture::new(16).everywhere().run(async |case| {
        // Of a direct read, the length shows the end of the file if it is within a block.
        for (len, reads) in [(0, 1), (1, 1), (BLOCK, 2), (CHUNK, 2), (5 * CHUNK + 1, 6)] {
            let file = file_with_content(case.dir, len).await;
            let before = case.handle.metrics();
            let reader = file.reader(&case.handle).with_chunk_size(CHUNK);
            assert_eq!(read_all(reader).await.len(), len);
            let completed = case.handle.metrics().since(&before).completed;
            assert_eq!(completed, reads, "{len} bytes, {:?}", case.mode);
        }
    });
}

#[test]
fn the_end_of_a_range_costs_no_read() {
    Fixture::new(16)
        .content(content(5 * CHUNK))
        .run(async |case| {
            let reader = case.file.reader(&case.handle).with_chunk_size(CHUNK);
            let reader = reader.with_range(100..3 * CHUNK as u64);
            assert_eq!(read_all(reader).await.len(), 3 * CHUNK - 100);
            assert_eq!(case.handle.metrics().submitted, 3);
        });
}

#[test]
fn a_read_returns_what_is_ready_of_several_chunks() {
    Fixture::new(8)
        .content(content(3 * CHUNK))
        .run(async |case| {
            let reader = case.file.reader(&case.handle).with_chunk_size(CHUNK);
            let mut reader = reader.with_depth(3);
            reader.read_u8().await.unwrap();
            let completed = || case.handle.metrics().completed;
            wait_until(|| completed() == 3, completed).await;
            let mut bytes = vec![0; 3 * CHUNK];
            assert_eq!(reader.read(&mut bytes).await.unwrap(), 3 * CHUNK - 1);
        });
}

#[test]
fn a_dropped_reader_leaves_no_request_behind() {
    // The fixture checks that the context is idle in the end.
    Fixture::new(8)
        .everywhere()
        .content(content(20 * CHUNK))
        .run(async |case| {
            for _ in 0..5 {
                let reader = case.file.reader(&case.handle).with_chunk_size(CHUNK);
                let mut reader = Box::pin(read_all(reader));
                for _ in 0..3 {
                    if poll!(reader.as_mut()).is_ready() {
                        break; // faster than its task
                    }
                    yield_now().await;
                }
            }
        });
}

#[test]
fn a_depth_above_the_slots_of_the_context_is_no_error() {
    for wait in [true, false] {
        Fixture::new(2)
            .build(|builder| builder.wait_for_slot(wait))
            .every_policy()
            .content(content(20 * CHUNK + 1))
            .run(async |case| {
                let reader = case.file.reader(&case.handle).with_chunk_size(CHUNK);
                let read = read_all(reader.with_depth(8)).await;
                assert!(read == content(20 * CHUNK + 1));
            });
    }
}

#[test]
fn a_loop_over_a_cached_file_lets_other_tasks_run() {
    Fixture::new(8)
        .tmpfs()
        .inline()
        .content(content(2000 * BLOCK)) // tokio's budget is 128 reads a turn
        .run(async |case| {
            let other = tokio::spawn(async {
                for _ in 0..3 {
                    yield_now().await;
                }
            });
            let reader = case.file.reader(&case.handle).with_chunk_size(BLOCK);
            let mut reader = reader.with_depth(1);
            let mut reads = 0;
            while !other.is_finished() {
                let mut block = [0; BLOCK];
                match reader.read(&mut block).await.unwrap() {
                    0 => panic!("the file has ended before the other task has run"),
                    _ => reads += 1,
                }
            }
            assert!(reads < 2000);
        });
}

#[test]
fn a_read_of_many_chunks_that_complete_at_once_lets_other_tasks_run() {
    Fixture::new(8)
        .tmpfs()
        .inline()
        .content(content(1000 * BLOCK))
        .run(async |case| {
            let mut bytes = vec![0; 1000 * BLOCK];
            for _ in 0..20 {
                let reader = case.file.reader(&case.handle).with_chunk_size(BLOCK);
                let mut reader = reader.with_depth(2);
                reader.read_u8().await.unwrap();
                let read = reader.read(&mut bytes).await.unwrap();
                assert!(read <= 200 * BLOCK, "{read} bytes at once");
            }
        });
}

// ---- Seeks ------------------------------------------------------------------------------------

#[test]
fn a_seek_within_what_is_buffered_costs_no_read() {
    Fixture::new(8)
        .every_backend()
        .content(content(4 * CHUNK))
        .run(async |case| {
            let whole = content(4 * CHUNK);
            let reader = case.file.reader(&case.handle).with_chunk_size(CHUNK);
            let mut reader = reader.with_depth(3);
            reader.read_u8().await.unwrap();
            let completed = || case.handle.metrics().completed;
            wait_until(|| completed() == 3, completed).await;
            for position in [100, 7, CHUNK - 1, 10] {
                let at = reader.seek(SeekFrom::Start(position as u64)).await.unwrap();
                assert_eq!(at, position as u64);
                assert_eq!(reader.read_u8().await.unwrap(), whole[position]);
            }
            assert_eq!(completed(), 3);
            // Past the first chunk: its buffer goes to the next read.
            let at = reader.seek(SeekFrom::Current(2 * CHUNK as i64)).await;
            assert_eq!(at.unwrap(), 2 * CHUNK as u64 + 11);
            assert_eq!(reader.read_u8().await.unwrap(), whole[2 * CHUNK + 11]);
            wait_until(|| completed() == 4, completed).await;
        });
}

#[test]
fn a_seek_to_elsewhere_reads_there() {
    Fixture::new(8)
        .everywhere()
        .content(content(40 * CHUNK))
        .run(async |case| {
            let whole = content(40 * CHUNK);
            let mut reader = case.file.reader(&case.handle).with_chunk_size(CHUNK);
            for position in [0, 39 * CHUNK + 5, 3, 20 * CHUNK, 19 * CHUNK - 1] {
                reader.seek(SeekFrom::Start(position as u64)).await.unwrap();
                assert_eq!(reader.read_u8().await.unwrap(), whole[position]);
            }
        });
}

#[test]
fn a_seek_from_the_end_counts_from_the_present_end_of_the_file_or_the_range() {
    Fixture::new(8)
        .every_backend()
        .content(content(CHUNK + 10))
        .run(async |case| {
            let mut reader = case.file.reader(&case.handle).with_chunk_size(CHUNK);
            let at = reader.seek(SeekFrom::End(-10)).await.unwrap();
            assert_eq!(at, CHUNK as u64);
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).await.unwrap();
            assert!(rest == content(CHUNK + 10)[CHUNK..]);

            let mut options = fs::OpenOptions::new();
            let mut other = options.append(true).open(&case.path).unwrap();
            other.write_all(b"more").unwrap();
            reader.seek(SeekFrom::End(-4)).await.unwrap();
            rest.clear();
            reader.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"more");

            let mut ranged = reader.with_range(5..100);
            assert_eq!(ranged.seek(SeekFrom::End(-1)).await.unwrap(), 99);
            ranged.read_u8().await.unwrap();
            assert_eq!(ranged.read(&mut [0; 1]).await.unwrap(), 0);
        });
}

#[test]
fn a_seek_before_the_start_is_refused_and_changes_nothing() {
    Fixture::new(8).content(content(BLOCK)).run(async |case| {
        let mut reader = case.file.reader(&case.handle).with_range(10..);
        reader.read_u8().await.unwrap();
        for to in [
            SeekFrom::Start(9),
            SeekFrom::Current(-2),
            SeekFrom::End(-2 * LEN as i64),
        ] {
            let refused = reader.seek(to).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidInput);
            assert!(refused.to_string().contains("offset 10"), "{refused}");
        }
        assert_eq!(reader.stream_position().await.unwrap(), 11);
        assert_eq!(reader.read_u8().await.unwrap(), content(BLOCK)[11]);
    });
}

#[test]
fn a_seek_past_the_end_reads_nothing_and_back_again() {
    Fixture::new(8).content(content(5000)).run(async |case| {
        let mut reader = case.file.reader(&case.handle).with_chunk_size(CHUNK);
        for past in [5000, 5001, 1 << 30, u64::MAX] {
            reader.seek(SeekFrom::Start(past)).await.unwrap();
            assert_eq!(reader.read(&mut [0; 8]).await.unwrap(), 0, "at {past}");
        }
        reader.seek(SeekFrom::Start(4999)).await.unwrap();
        assert_eq!(reader.read_u8().await.unwrap(), content(5000)[4999]);
    });
}

#[test]
fn a_dropped_seek_from_the_end_takes_effect_before_the_next_read() {
    Fixture::new(8).content(content(5000)).run(async |case| {
        // The query of the length may be done before the seek is polled.
        let mut reader = retry_until(async || {
            let mut reader = case.file.reader(&case.handle);
            let is_pending = poll!(Box::pin(reader.seek(SeekFrom::End(-1)))).is_pending();
            is_pending.then_some(reader)
        })
        .await;
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).await.unwrap();
        assert!(rest == content(5000)[4999..]);
        // Another seek replaces it.
        drop(poll!(Box::pin(reader.seek(SeekFrom::End(0)))));
        reader.seek(SeekFrom::Start(4998)).await.unwrap();
        assert_eq!(reader.read_u8().await.unwrap(), content(5000)[4998]);
    });
}

#[test]
fn a_seek_from_the_end_that_has_failed_has_no_effect() {
    let ended = current_thread().handle().clone(); // its runtime is gone: it runs no job
    Fixture::new(8).content(content(5000)).run(async |case| {
        let mut reader = case.file.reader(&case.handle);
        reader.read_u8().await.unwrap();
        let mut seek = Box::pin(reader.seek(SeekFrom::End(-1)));
        let sought = {
            let _entered = ended.enter();
            poll!(seek.as_mut())
        };
        assert!(matches!(sought, Poll::Ready(Err(_))), "{sought:?}");
        drop(seek);
        assert_eq!(reader.read_u8().await.unwrap(), content(5000)[1]);
    });
}

/// A waker that can't be cloned.
fn no_clone() -> Waker {
    const VTABLE: RawWakerVTable = RawWakerVTable::new(
        |_| panic!("this waker can't be cloned"),
        |_| {},
        |_| {},
        |_| {},
    );
    // SAFETY: the functions have no effect.
    unsafe { Waker::new(std::ptr::null(), &VTABLE) }
}

#[test]
fn a_waker_that_panics_when_cloned_does_not_stop_the_reader() {
    Fixture::new(8)
        .content(content(5 * CHUNK))
        .run(async |case| {
            let reader = case.file.reader(&case.handle).with_chunk_size(CHUNK);
            let mut reader = reader.with_depth(1);
            for read in 0..3 {
                let waker = no_clone();
                let polled = catch_unwind(AssertUnwindSafe(|| {
                    let _ = Pin::new(&mut reader).poll_fill_buf(&mut Context::from_waker(&waker));
                }));
                assert!(read > 0 || polled.is_err());
                if read > 0 {
                    let found = reader.fill_buf().await.unwrap().len();
                    reader.consume(found);
                }
            }
            assert!(reader.position() == 2 * CHUNK as u64);
        });
}

// ---- Files that change ------------------------------------------------------------------------

#[test]
fn a_file_that_grows_is_read_to_its_new_end() {
    Fixture::new(16).everywhere().run(async |case| {
        for (first, last) in [(2 * CHUNK, 9 * CHUNK + 5), (0, CHUNK), (BLOCK, BLOCK + 1)] {
            let file = file_with_content(case.dir, first).await;
            let reader = file.reader(&case.handle).with_chunk_size(CHUNK);
            let mut reader = reader.with_depth(3);
            // The length is known from here on.
            reader.seek(SeekFrom::End(0)).await.unwrap();
            reader.seek(SeekFrom::Start(0)).await.unwrap();
            let mut options = fs::OpenOptions::new();
            let mut other = options.append(true).open(&case.path).unwrap();
            other.write_all(&content(last)[first..]).unwrap();
            assert!(read_all(reader).await == content(last), "{first} to {last}");
        }
    });
}

#[test]
fn a_read_after_the_end_finds_what_was_appended() {
    Fixture::new(8).everywhere().run(async |case| {
        let mut options = fs::OpenOptions::new();
        let mut log = options.append(true).open(&case.path).unwrap();
        let mut reader = case.file.reader(&case.handle).with_chunk_size(CHUNK);
        let mut expected = Vec::new();
        let mut read = Vec::new();
        for len in [0, 1, 5000, 0, CHUNK, 3 * CHUNK + 7, BLOCK] {
            log.write_all(&content(len)).unwrap();
            expected.extend_from_slice(&content(len));
            reader.read_to_end(&mut read).await.unwrap();
            assert!(read == expected, "{len} bytes more");
        }
    });
}

#[test]
fn a_file_that_shrinks_ends_at_its_new_end() {
    Fixture::new(8)
        .everywhere()
        .content(content(9 * CHUNK))
        .run(async |case| {
            let reader = case.file.reader(&case.handle).with_chunk_size(CHUNK);
            let mut reader = reader.with_depth(2);
            let mut read = vec![0; CHUNK];
            reader.read_exact(&mut read).await.unwrap();
            // Two chunks are read ahead.
            let completed = || case.handle.metrics().completed;
            wait_until(|| completed() >= 2, completed).await;
            let file = fs::OpenOptions::new().write(true).open(&case.path);
            file.unwrap().set_len(5 * CHUNK as u64 + 9).unwrap();
            reader.read_to_end(&mut read).await.unwrap();
            assert!(read == content(5 * CHUNK + 9));
        });
}

// ---- Errors -----------------------------------------------------------------------------------

#[test]
fn an_error_names_the_file_and_the_offset() {
    Fixture::new(8).every_backend().run(async |case| {
        fs::write(&case.path, content(CHUNK)).unwrap();
        let mut options = fs::OpenOptions::new();
        let write_only = options.write(true).aio_open(case.path.clone(), false).await;
        let reader = write_only.unwrap().reader(&case.handle);
        let mut reader = reader.with_chunk_size(BLOCK).with_range(2 * LEN + 1..);
        for _ in 0..2 {
            let error = reader.read_u8().await.unwrap_err();
            let stream_error: &StreamError = error.get_ref().unwrap().downcast_ref().unwrap();
            assert_eq!(stream_error.raw_os_error(), Some(libc::EBADF));
            assert_eq!(stream_error.offset(), 2 * LEN);
            assert_eq!(stream_error.path(), case.path.canonicalize().unwrap());
            let text = error.to_string();
            let path = case.path.canonicalize().unwrap();
            assert!(text.contains(path.to_str().unwrap()), "{text}");
            assert!(text.contains("bytes at offset 8192"), "{text}");
        }
    });
}

#[tokio::test]
async fn a_reader_of_a_closed_context_fails_each_time() {
    let dir = disk_dir();
    let file = file_with_content(&dir, BLOCK).await;
    let (context, handle) = aio_context(8, true).unwrap();
    let mut reader = file.reader(&handle);
    context.close().await;
    for _ in 0..2 {
        let error = reader.read_u8().await.unwrap_err();
        assert!(error.to_string().contains("context has ended"), "{error}");
    }
}

// ---- What programs use ------------------------------------------------------------------------

#[test]
fn lines_are_read_by_the_reader_itself_and_by_a_buf_reader() {
    let lines: Vec<_> = (0..3000).map(|number| format!("line {number}")).collect();
    let text = lines.join("\n");
    Fixture::new(8)
        .every_backend()
        .content(text)
        .run(async |case| {
            let reader = || case.file.reader(&case.handle).with_chunk_size(BLOCK);
            let mut own = reader().lines();
            let mut wrapped = BufReader::new(reader()).lines();
            let mut framed = FramedRead::new(reader(), LinesCodec::new());
            for line in &lines {
                assert_eq!(own.next_line().await.unwrap().as_ref(), Some(line));
                assert_eq!(wrapped.next_line().await.unwrap().as_ref(), Some(line));
                assert_eq!(framed.next().await.unwrap().unwrap(), *line);
            }
            assert_eq!(own.next_line().await.unwrap(), None);
            assert_eq!(wrapped.next_line().await.unwrap(), None);
            assert!(framed.next().await.is_none());
        });
}

#[test]
fn copy_and_copy_buf_copy_the_whole_file() {
    Fixture::new(8)
        .every_dir()
        .content(content(3 * CHUNK + 1))
        .run(async |case| {
            let reader = || case.file.reader(&case.handle).with_chunk_size(CHUNK);
            let mut copied = Vec::new();
            let len = copy(&mut reader(), &mut copied).await.unwrap();
            assert_eq!(len as usize, copied.len());
            assert!(copied == content(3 * CHUNK + 1));
            copied.clear();
            copy_buf(&mut reader(), &mut copied).await.unwrap();
            assert!(copied == content(3 * CHUNK + 1));
        });
}

#[cfg(feature = "bytes")]
mod streams {
    use super::*;
    use bytes::Bytes;
    use futures::TryStreamExt;
    use futures::stream::FusedStream;
    use tokio_kaio::FileStream;

    #[test]
    fn a_stream_yields_the_chunks_of_the_range() {
        Fixture::new(8)
            .everywhere()
            .content(content(3 * CHUNK + 5))
            .run(async |case| {
                let reader = case.file.reader(&case.handle).with_chunk_size(CHUNK);
                let stream: FileStream = assert_send(reader.with_range(7..).into_stream());
                drop(case.file);
                let chunks: Vec<Bytes> = stream.try_collect().await.unwrap();
                let lengths: Vec<_> = chunks.iter().map(Bytes::len).collect();
                assert_eq!(lengths, [CHUNK - 7, CHUNK, CHUNK, 5]);
                assert!(chunks.concat() == content(3 * CHUNK + 5)[7..]);
            });
    }

    #[test]
    fn a_stream_goes_on_at_the_position_of_its_reader() {
        Fixture::new(8)
            .content(content(2 * CHUNK))
            .run(async |case| {
                let mut reader = case.file.reader(&case.handle).with_chunk_size(CHUNK);
                let mut head = [0; 100];
                reader.read_exact(&mut head).await.unwrap();
                let rest: Vec<Bytes> = reader.into_stream().try_collect().await.unwrap();
                assert!([&head[..], &rest.concat()].concat() == content(2 * CHUNK));
            });
    }

    #[test]
    fn a_stream_of_a_growing_file_leaves_nothing_out() {
        Fixture::new(8)
            .every_dir()
            .content(content(BLOCK))
            .run(async |case| {
                let reader = case.file.reader(&case.handle).with_chunk_size(CHUNK);
                let mut stream = reader.into_stream();
                let mut read = stream.next().await.unwrap().unwrap().to_vec();
                let mut options = fs::OpenOptions::new();
                let mut other = options.append(true).open(&case.path).unwrap();
                other.write_all(&content(6 * CHUNK + 1)[BLOCK..]).unwrap();
                while let Some(chunk) = stream.try_next().await.unwrap() {
                    read.extend_from_slice(&chunk);
                }
                assert!(read == content(6 * CHUNK + 1));
            });
    }

    #[tokio::test]
    async fn a_stream_ends_after_an_error() {
        let dir = disk_dir();
        let file = file_with_content(&dir, BLOCK).await;
        let (context, handle) = aio_context(8, true).unwrap();
        let mut stream = file.reader(&handle).into_stream();
        context.close().await;
        assert!(stream.next().await.unwrap().is_err());
        assert!(stream.next().await.is_none() && stream.is_terminated());
    }
}

// ---- Any sequence of calls --------------------------------------------------------------------

/// Random calls return what they return for the same file in the standard library.
async fn compare_with_std(case: &Case<'_>, handle: &AioContextHandle, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let len = match random.random_range(0..4) {
        0 => random.random_range(0..3) * BLOCK,
        _ => random.random_range(0..200_000),
    };
    let whole = content(len);
    fs::write(&case.path, &whole).unwrap();
    let mut twin = fs::File::open(&case.path).unwrap();
    let start = match random.random_bool(0.5) {
        true => 0,
        false => random.random_range(0..len as u64 + 2),
    };
    let mut reader = case
        .file
        .reader(handle)
        .with_chunk_size([512, BLOCK, 10_000, CHUNK, 1 << 20][random.random_range(0..5)])
        .with_depth(random.random_range(1..6))
        .with_range(start..);
    twin.seek(SeekFrom::Start(start)).unwrap();
    for step in 0..random.random_range(1..60) {
        let at = format!("seed {seed}, step {step}, position {}", reader.position());
        match random.random_range(0..10) {
            0..4 => {
                let size = random.random_range(0..30_000);
                let mut bytes = vec![0; size];
                let read = reader.read(&mut bytes).await.unwrap();
                let mut expected = vec![0; read];
                twin.read_exact(&mut expected).unwrap();
                assert!(bytes[..read] == expected, "{at}");
                let left = (len as u64).saturating_sub(reader.position());
                assert!(read > 0 || size == 0 || left == 0, "{at}: no end here");
            }
            4..6 => {
                let filled = reader.fill_buf().await.unwrap();
                let used = random.random_range(0..=filled.len());
                let mut expected = vec![0; used];
                twin.read_exact(&mut expected).unwrap();
                assert!(filled[..used] == expected, "{at}");
                reader.consume(used);
            }
            6 => {
                // Given up at any moment.
                let mut bytes = vec![0; random.random_range(1..50_000)];
                let mut read = None;
                {
                    let mut reading = Box::pin(reader.read(&mut bytes));
                    for _ in 0..random.random_range(0..4) {
                        if let Poll::Ready(done) = poll!(reading.as_mut()) {
                            read = Some(done.unwrap());
                            break;
                        }
                        yield_now().await;
                    }
                }
                let mut expected = vec![0; read.unwrap_or(0)];
                twin.read_exact(&mut expected).unwrap();
                assert!(bytes[..expected.len()] == expected, "{at}");
            }
            7 => {
                let to = match random.random_range(0..3) {
                    0 => SeekFrom::Start(random.random_range(start..len as u64 + 9000 + start)),
                    1 => SeekFrom::Current(random.random_range(-20_000..20_000)),
                    _ => SeekFrom::End(random.random_range(-20_000..100)),
                };
                let before = twin.stream_position().unwrap();
                let expected = twin.seek(to).ok().filter(|&to| to >= start);
                let position = reader.seek(to).await.ok();
                assert_eq!(position, expected, "{at}: {to:?}");
                if expected.is_none() {
                    twin.seek(SeekFrom::Start(before)).unwrap();
                }
            }
            8 => {
                // What is ready now, without waiting.
                let mut cx = Context::from_waker(Waker::noop());
                let used = match Pin::new(&mut reader).poll_fill_buf(&mut cx) {
                    Poll::Ready(filled) => filled.unwrap().to_vec(),
                    Poll::Pending => Vec::new(),
                };
                let mut expected = vec![0; used.len()];
                twin.read_exact(&mut expected).unwrap();
                assert!(used == expected, "{at}");
                reader.consume(used.len());
            }
            _ => {
                let size = random.random_range(0..5000);
                let mut bytes = vec![0; size];
                let read = reader.read_exact(&mut bytes).await;
                let mut expected = vec![0; size];
                let position = twin.stream_position().unwrap();
                match twin.read_exact(&mut expected) {
                    Ok(()) => assert!(read.is_ok() && bytes == expected, "{at}"),
                    Err(_) => {
                        assert_eq!(read.unwrap_err().kind(), ErrorKind::UnexpectedEof, "{at}");
                        let end = position.max(len as u64);
                        twin.seek(SeekFrom::Start(end)).unwrap();
                    }
                }
            }
        }
        assert_eq!(reader.position(), twin.stream_position().unwrap(), "{at}");
    }
}

#[test]
fn any_sequence_of_calls_returns_what_the_standard_library_returns() {
    Fixture::new(8).everywhere().run(async |case| {
        for seed in 0..40 {
            compare_with_std(&case, &case.handle, seed).await;
        }
    });
}

#[test]
fn a_reader_beside_a_writer_returns_old_or_new_bytes() {
    Fixture::new(16)
        .every_backend()
        .content(vec![1; 40 * BLOCK])
        .run(async |case| {
            let reader = case.file.reader(&case.handle).with_chunk_size(CHUNK);
            let block = {
                let mut block = buffer(BLOCK);
                block.fill(2);
                block
            };
            let write = async {
                for number in (0..40).rev() {
                    let (handle, flags) = (&case.handle, WriteFlags::empty());
                    let write = case.file.write_at(handle, number * LEN, &block, LEN, flags);
                    write.await.unwrap();
                }
            };
            let (read, ()) = futures::join!(read_all(reader), write);
            assert_eq!(read.len(), 40 * BLOCK);
            assert!(read.iter().all(|&byte| byte == 1 || byte == 2));
        });
}
