//! `FileWriter`: writes a file in order, behind its caller.
#![allow(unsafe_code)] // ignores a signal, makes a waker

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, IoSlice};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, RawWakerVTable, Waker};
use std::time::Duration;

use crate::common::*;
use futures::{SinkExt, poll};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, copy_buf};
use tokio::task::{LocalSet, yield_now};
use tokio_kaio::{
    AioOpenOptionsExt, File, FileWriter, PollEvents, ReadFlags, StreamError, SubmitPolicy,
    WriteFlags, aio_context, local_aio_context,
};
use tokio_util::codec::{FramedWrite, LinesCodec};

/// A small chunk, so that small files have several.
const CHUNK: usize = 4 * BLOCK;

/// Lengths around the ends of blocks and chunks.
const LENGTHS: [usize; 8] = [
    0,
    1,
    BLOCK - 1,
    BLOCK,
    BLOCK + 1,
    CHUNK,
    3 * CHUNK - 1,
    3 * CHUNK + BLOCK + 7,
];

fn assert_send<T: Send>(value: T) -> T {
    value
}

fn len_of(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

fn stream_error(error: &std::io::Error) -> &StreamError {
    error.get_ref().unwrap().downcast_ref().unwrap()
}

async fn write_slowly(writer: &mut FileWriter, bytes: &[u8], piece: usize) {
    for piece in bytes.chunks(piece) {
        writer.write_all(piece).await.unwrap();
    }
}

// ---- All of it --------------------------------------------------------------------------------

#[test]
fn a_new_file_has_what_was_written_and_no_byte_more() {
    Fixture::new(16).everywhere().run(async |case| {
        for len in LENGTHS {
            for (piece, depth) in [(BLOCK, 3), (1000, 1), (CHUNK * 2, 2)] {
                fs::write(&case.path, "").unwrap();
                let writer = case.file.writer(&case.handle).with_chunk_size(CHUNK);
                let mut writer = writer.with_depth(depth);
                write_slowly(&mut writer, &content(len), piece).await;
                assert_eq!(writer.position(), len as u64);
                assert_eq!(writer.finish().await.unwrap(), len as u64);
                assert!(
                    file_content(case.dir) == content(len),
                    "{len} bytes, {piece} at a time"
                );
            }
        }
        assert_eq!(case.handle.metrics().unfinished_writers, 0);
    });
}

#[test]
fn the_default_chunk_size_and_depth_write_the_whole_file() {
    let len = 5 * LONG + 12_345;
    Fixture::new(32)
        .every_dir()
        .every_backend()
        .run(async |case| {
            let mut writer = case.file.writer(&case.handle);
            writer.write_all(&content(len)).await.unwrap();
            assert_eq!(writer.finish().await.unwrap(), len as u64);
            assert!(file_content(case.dir) == content(len));
        });
}

#[test]
fn the_bytes_around_an_unaligned_range_stay() {
    let old = vec![9; 4 * CHUNK];
    Fixture::new(16)
        .everywhere()
        .content(old.clone())
        .run(async |case| {
            for (start, len) in [
                (1, 1),
                (100, BLOCK),
                (BLOCK - 1, 2),
                (BLOCK + 5, 2 * CHUNK),
                (CHUNK, BLOCK),
                (4 * CHUNK - 3, 10),
            ] {
                fs::write(&case.path, &old).unwrap();
                let writer = case.file.writer(&case.handle).with_chunk_size(CHUNK);
                let mut writer = writer.with_offset(start as u64);
                assert_eq!(writer.position(), start as u64);
                write_slowly(&mut writer, &content(len), 700).await;
                assert_eq!(writer.finish().await.unwrap(), (start + len) as u64);
                let mut expected = old.clone();
                expected.resize(expected.len().max(start + len), 0);
                expected[start..start + len].copy_from_slice(&content(len));
                assert!(file_content(case.dir) == expected, "{len} at {start}");
            }
        });
}

#[test]
fn an_offset_past_the_end_leaves_a_hole_of_zeroes() {
    Fixture::new(8).every_dir().run(async |case| {
        let writer = case.file.writer(&case.handle).with_chunk_size(CHUNK);
        let mut writer = writer.with_offset(2 * LEN + 5);
        writer.write_all(b"behind").await.unwrap();
        assert_eq!(writer.finish().await.unwrap(), 2 * LEN + 11);
        let expected = [&vec![0; 2 * BLOCK + 5][..], b"behind"].concat();
        assert!(file_content(case.dir) == expected);
    });
}

#[test]
fn a_write_only_file_is_written() {
    Fixture::new(8)
        .every_backend()
        .content(vec![9; CHUNK])
        .run(async |case| {
            let mut options = OpenOptions::new();
            let file = options.write(true).aio_open(case.path.clone(), false).await;
            let writer = file.unwrap().writer(&case.handle).with_chunk_size(CHUNK);
            let mut writer = writer.with_offset(5);
            writer.write_all(&content(2 * CHUNK)).await.unwrap();
            writer.finish().await.unwrap();
            assert!(file_content(case.dir)[5..] == content(2 * CHUNK));
            assert!(file_content(case.dir)[..5] == [9; 5]);
        });
}

#[test]
fn a_writer_outlives_its_file_and_moves_to_another_task() {
    Fixture::new(8).multi_thread().run(async |case| {
        let writer = case.file.writer(&case.handle).with_chunk_size(CHUNK);
        let mut writer = assert_send(writer);
        writer.write_all(&content(CHUNK + 1)).await.unwrap();
        drop(case.file);
        let rest = tokio::spawn(async move {
            writer.write_all(b"rest").await.unwrap();
            writer.sync().await.unwrap();
            writer.finish().await.unwrap()
        });
        assert_eq!(rest.await.unwrap(), CHUNK as u64 + 5);
        assert!(file_content(case.dir)[CHUNK + 1..] == *b"rest");
    });
}

#[tokio::test]
async fn a_writer_works_on_a_local_context() {
    let dir = disk_dir();
    let file = file_with_content(&dir, 0).await;
    let local = async {
        let (context, handle, driver) = local_aio_context(8, true).unwrap();
        let driver = tokio::task::spawn_local(driver);
        let mut writer = file.writer(&handle).with_chunk_size(CHUNK).with_offset(3);
        writer.write_all(&content(2 * CHUNK)).await.unwrap();
        writer.sync().await.unwrap();
        assert_eq!(writer.finish().await.unwrap(), 2 * CHUNK as u64 + 3);
        assert!(file_content(&dir)[3..] == content(2 * CHUNK));
        drop(handle);
        context.close().await;
        driver.await.unwrap().unwrap();
    };
    with_hang_guard(LocalSet::new().run_until(local)).await;
}

#[test]
fn a_bound_file_has_readers_and_writers() {
    Fixture::new(8).run(async |case| {
        let bound = case.file.with_handle(&case.handle);
        let mut writer = bound.writer();
        writer.write_all(b"bound").await.unwrap();
        writer.finish().await.unwrap();
        let mut text = String::new();
        bound.reader().read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "bound");
    });
}

#[test]
fn vectored_writes_are_accepted_together() {
    Fixture::new(8).run(async |case| {
        let mut writer = case.file.writer(&case.handle).with_chunk_size(CHUNK);
        assert!(writer.is_write_vectored());
        let slices = [&b"one"[..], b"", b"two", b"three"].map(IoSlice::new);
        assert_eq!(writer.write_vectored(&slices).await.unwrap(), 11);
        writer.finish().await.unwrap();
        assert_eq!(file_content(case.dir), b"onetwothree");
    });
}

// ---- Writes in flight -------------------------------------------------------------------------

#[test]
fn a_full_chunk_is_written_while_the_caller_does_something_else() {
    Fixture::new(8).everywhere().run(async |case| {
        let writer = case.file.writer(&case.handle).with_chunk_size(CHUNK);
        let mut writer = writer.with_depth(4);
        writer.write_all(&content(2 * CHUNK + 1)).await.unwrap();
        let completed = || case.handle.metrics().completed;
        wait_until(|| completed() == 2, completed).await;
        assert!(file_content(case.dir) == content(2 * CHUNK));
        writer.finish().await.unwrap();
    });
}

#[test]
fn a_context_with_fewer_slots_than_chunks_suffices() {
    Fixture::new(1).every_mode().run(async |case| {
        let mut writer = case.file.writer(&case.handle).with_chunk_size(CHUNK);
        writer.write_all(&content(20 * CHUNK + 1)).await.unwrap();
        writer.finish().await.unwrap();
        assert!(file_content(case.dir) == content(20 * CHUNK + 1));
    });
}

#[test]
fn a_context_whose_requests_do_not_wait_for_slots_suffices() {
    for slots in [1, 3] {
        Fixture::new(slots)
            .build(|builder| builder.wait_for_slot(false))
            .everywhere()
            .run(async |case| {
                let writer = case.file.writer(&case.handle).with_chunk_size(BLOCK);
                let mut writer = writer.with_depth(8).with_offset(7);
                writer.write_all(&content(20 * BLOCK)).await.unwrap();
                assert_eq!(writer.finish().await.unwrap(), 20 * LEN + 7);
                assert!(file_content(case.dir)[7..] == content(20 * BLOCK));
                fs::write(&case.path, "").unwrap();
            });
    }
}

#[test]
fn not_more_than_depth_writes_are_in_flight() {
    Fixture::new(16).every_dir().every_mode().run(async |case| {
        let writer = case.file.writer(&case.handle).with_chunk_size(BLOCK);
        let mut writer = writer.with_depth(3);
        let mut most = 0;
        for piece in content(60 * BLOCK + 5).chunks(1000) {
            writer.write_all(piece).await.unwrap();
            let metrics = case.handle.metrics();
            most = most.max(metrics.in_flight + metrics.queued);
        }
        assert!(most <= 3, "{most} in flight");
        writer.finish().await.unwrap();
    });
}

#[test]
fn a_write_of_many_chunks_that_complete_at_once_lets_other_tasks_run() {
    Fixture::new(8).tmpfs().inline().run(async |case| {
        let bytes = content(1000 * BLOCK);
        for _ in 0..20 {
            let mut writer = case.file.writer(&case.handle).with_chunk_size(BLOCK);
            let accepted = writer.write(&bytes).await.unwrap();
            assert!(accepted <= 200 * BLOCK, "{accepted} bytes at once");
            writer.flush().await.unwrap();
        }
    });
}

// ---- Flush, sync, shutdown, finish ------------------------------------------------------------

#[test]
fn after_a_flush_the_file_has_all_bytes_and_its_true_length() {
    Fixture::new(16).everywhere().run(async |case| {
        let whole = content(3 * CHUNK);
        let mut writer = case.file.writer(&case.handle).with_chunk_size(CHUNK);
        let mut done = 0;
        for len in [0, 1, 4094, 1, 1, 100, CHUNK, BLOCK, 5000, 1] {
            writer.write_all(&whole[done..done + len]).await.unwrap();
            done += len;
            writer.flush().await.unwrap();
            assert!(file_content(case.dir) == whole[..done], "{done} bytes");
            assert_eq!(case.handle.metrics().in_flight, 0);
        }
        assert_eq!(writer.finish().await.unwrap(), done as u64);
    });
}

#[test]
fn sync_and_shutdown_flush_and_the_writer_goes_on() {
    Fixture::new(16).everywhere().run(async |case| {
        let mut writer = case.file.writer(&case.handle).with_chunk_size(CHUNK);
        writer.sync().await.unwrap(); // of nothing
        writer.write_all(b"one").await.unwrap();
        writer.sync().await.unwrap();
        assert_eq!(file_content(case.dir), b"one");
        writer.write_all(b"two").await.unwrap();
        writer.shutdown().await.unwrap();
        assert_eq!(file_content(case.dir), b"onetwo");
        writer.write_all(b"three").await.unwrap();
        drop(poll!(Box::pin(writer.sync()))); // given up
        writer.sync().await.unwrap();
        assert_eq!(file_content(case.dir), b"onetwothree");
        drop(writer);
        assert_eq!(case.handle.metrics().unfinished_writers, 0);
    });
}

#[test]
fn an_unused_writer_changes_nothing() {
    Fixture::new(8).content(content(100)).run(async |case| {
        drop(case.file.writer(&case.handle));
        let writer = case.file.writer(&case.handle).with_offset(50);
        assert_eq!(writer.finish().await.unwrap(), 50);
        assert!(file_content(case.dir) == content(100));
        assert_eq!(case.handle.metrics().submitted, 0);
        assert_eq!(case.handle.metrics().unfinished_writers, 0);
    });
}

#[test]
fn a_writer_that_is_dropped_unfinished_is_counted() {
    Fixture::new(8).everywhere().run(async |case| {
        let count = || case.handle.metrics().unfinished_writers;
        let mut collecting = case.file.writer(&case.handle);
        collecting.write_all(b"lost").await.unwrap();
        drop(collecting);
        assert_eq!(count(), 1);
        let mut flushed = case.file.writer(&case.handle);
        flushed.write_all(b"kept").await.unwrap();
        flushed.flush().await.unwrap();
        drop(flushed);
        assert_eq!(count(), 1);
        assert_eq!(file_content(case.dir), b"kept");
        let mut finishing = case.file.writer(&case.handle);
        finishing.write_all(b"lost").await.unwrap();
        drop(poll!(Box::pin(finishing.finish())));
        assert!((1..=2).contains(&count())); // it may have been done at once
        assert_eq!(case.handle.clone().metrics().unfinished_writers, count());
        assert!(
            case.handle
                .metrics()
                .to_string()
                .contains("writers dropped")
        );
        case.file.drain(&case.handle).await;
    });
}

// ---- Allocation -------------------------------------------------------------------------------

#[test]
fn allocation_ahead_does_not_change_the_length_and_is_freed_in_the_end() {
    Fixture::new(8).everywhere().run(async |case| {
        let blocks = || fs::metadata(&case.path).unwrap().blocks() * 512;
        let writer = case.file.writer(&case.handle).with_chunk_size(CHUNK);
        let mut writer = writer.with_allocation(64 * LEN);
        writer.write_all(&content(CHUNK + 1)).await.unwrap();
        writer.flush().await.unwrap();
        assert_eq!(len_of(&case.path), CHUNK as u64 + 1);
        assert!(blocks() >= 64 * LEN, "{}", blocks());
        assert_eq!(writer.finish().await.unwrap(), CHUNK as u64 + 1);
        assert_eq!(len_of(&case.path), CHUNK as u64 + 1);
        assert!(blocks() < 64 * LEN, "{}", blocks());
        assert!(file_content(case.dir) == content(CHUNK + 1));
    });
}

#[test]
fn an_allocation_that_is_used_up_costs_nothing_in_the_end() {
    Fixture::new(8).every_backend().run(async |case| {
        let writer = case.file.writer(&case.handle).with_offset(10);
        let mut writer = writer.with_allocation(CHUNK as u64);
        writer.write_all(&content(2 * CHUNK)).await.unwrap();
        writer.shutdown().await.unwrap();
        assert_eq!(writer.finish().await.unwrap(), 2 * CHUNK as u64 + 10);
        assert!(file_content(case.dir)[10..] == content(2 * CHUNK));
    });
}

#[test]
fn freeing_an_allocation_keeps_what_others_have_appended() {
    Fixture::new(8).run(async |case| {
        let mut writer = case.file.writer(&case.handle).with_allocation(64 * LEN);
        writer.write_all(b"mine").await.unwrap();
        writer.flush().await.unwrap();
        let (handle, flags) = (&case.handle, WriteFlags::empty());
        let others = case.file.write_bytes_at(handle, LEN, b"others", flags);
        others.await.unwrap();
        assert_eq!(writer.finish().await.unwrap(), 4);
        assert!(file_content(case.dir).ends_with(b"others"));
    });
}

#[test]
fn a_shutdown_that_is_given_up_cuts_off_nothing_that_is_written_later() {
    Fixture::new(8).every_dir().run(async |case| {
        for bytes in [BLOCK, 100] {
            fs::write(&case.path, "").unwrap();
            let writer = case.file.writer(&case.handle).with_chunk_size(CHUNK);
            let mut writer = writer.with_allocation(64 * LEN);
            writer.write_all(&content(bytes)).await.unwrap();
            writer.flush().await.unwrap();
            drop(poll!(Box::pin(writer.shutdown()))); // frees space on another thread
            tokio::time::sleep(Duration::from_millis(20)).await;
            writer
                .write_all(&content(3 * bytes)[bytes..])
                .await
                .unwrap();
            writer.flush().await.unwrap();
            assert!(file_content(case.dir) == content(3 * bytes));
            writer.shutdown().await.unwrap();
            assert!(file_content(case.dir) == content(3 * bytes));
        }
    });
}

// ---- Other writers ----------------------------------------------------------------------------

#[test]
fn writers_that_meet_within_a_block_lose_nothing() {
    Fixture::new(32).everywhere().run(async |case| {
        for round in 0..6 {
            fs::write(&case.path, "").unwrap();
            let whole = content(5 * CHUNK + 100);
            let ends = [0, 700, CHUNK + 3, CHUNK + 4, 3 * CHUNK - 1, whole.len()];
            let parts = ends.windows(2).map(|ends| {
                let part = &whole[ends[0]..ends[1]];
                let writer = case.file.clone().writer(&case.handle);
                let writer = writer.with_chunk_size(CHUNK).with_depth(2);
                let mut writer = writer.with_offset(ends[0] as u64);
                async move {
                    let piece = 100 + 900 * round;
                    write_slowly(&mut writer, part, piece).await;
                    writer.finish().await.unwrap()
                }
            });
            let done = futures::future::join_all(parts).await;
            assert!(done.iter().map(|&end| end as usize).eq(ends[1..].to_vec()));
            assert!(file_content(case.dir) == whole, "round {round}");
        }
    });
}

#[test]
fn one_task_uses_writers_that_meet_within_a_block_one_after_the_other() {
    Fixture::new(32)
        .everywhere()
        .content(vec![9; 2 * CHUNK])
        .run(async |case| {
            let writer = |offset: usize| {
                let writer = case.file.writer(&case.handle).with_chunk_size(CHUNK);
                writer.with_offset(offset as u64)
            };
            let whole = content(2 * CHUNK);
            let (mut first, mut second) = (writer(0), writer(BLOCK + 100));
            let (start, rest) = whole.split_at(BLOCK + 100);
            first.write_all(start).await.unwrap();
            second.write_all(rest).await.unwrap(); // fills the rest of the block that `first` has begun
            with_hang_guard(first.finish()).await.unwrap();
            // `write` returns when the block is full, and is written by the next call.
            let (mut first, mut third) = (writer(1), writer(0));
            assert_eq!(first.write(&whole[1..]).await.unwrap(), BLOCK - 1);
            third.write_all(&whole[..1]).await.unwrap();
            with_hang_guard(third.finish()).await.unwrap();
            first.finish().await.unwrap();
            second.finish().await.unwrap();
            assert!(file_content(case.dir) == whole);
        });
}

#[test]
fn a_writer_keeps_what_write_bytes_at_changes_in_its_edge_blocks() {
    Fixture::new(32)
        .everywhere()
        .content(vec![9; 2 * CHUNK])
        .run(async |case| {
            let (handle, flags) = (&case.handle, WriteFlags::empty());
            let mut writer = case
                .file
                .writer(handle)
                .with_offset(10)
                .with_chunk_size(CHUNK);
            let ours = async {
                writer.write_all(&content(CHUNK)).await.unwrap();
                writer.finish().await.unwrap();
            };
            let others = async {
                for at in (0..10).chain(CHUNK as u64 + 10..CHUNK as u64 + 20) {
                    let write = case.file.write_bytes_at(handle, at, b"x", flags);
                    write.await.unwrap();
                }
            };
            futures::join!(ours, others);
            let mut expected = vec![9; 2 * CHUNK];
            expected[..CHUNK + 20].fill(b'x');
            expected[10..CHUNK + 10].copy_from_slice(&content(CHUNK));
            assert!(file_content(case.dir) == expected);
        });
}

// ---- Errors -----------------------------------------------------------------------------------

/// Asserts that all calls of `writer` fail with `errno`.
async fn assert_fails(mut writer: FileWriter, errno: i32) {
    for _ in 0..2 {
        for error in [
            writer.write_all(b"more").await.unwrap_err(),
            writer.flush().await.unwrap_err(),
            writer.sync().await.unwrap_err(),
            writer.shutdown().await.unwrap_err(),
        ] {
            assert_eq!(stream_error(&error).raw_os_error(), Some(errno), "{error}");
        }
    }
    let error = writer.finish().await.unwrap_err();
    assert_eq!(stream_error(&error).raw_os_error(), Some(errno), "{error}");
}

#[test]
fn a_file_that_is_not_open_for_writing_fails_every_call() {
    Fixture::new(8).every_backend().run(async |case| {
        let file = File::open(&case.path, false).await.unwrap();
        assert_fails(file.writer(&case.handle), libc::EBADF).await;
        let error = file.writer(&case.handle).finish().await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("preparing to write at offset 0"), "{error}");
    });
}

#[test]
fn a_file_that_appends_is_refused() {
    Fixture::new(8).content(content(10)).run(async |case| {
        let mut options = OpenOptions::new();
        let opening = options.read(true).append(true);
        let file = opening.aio_open(case.path.clone(), false).await.unwrap();
        let mut writer = file.writer(&case.handle);
        let error = writer.write_all(b"more").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("O_APPEND"), "{error}");
        assert!(error.to_string().contains("with_offset"), "{error}");
        assert_fails(writer, libc::EINVAL).await;
        assert!(file_content(case.dir) == content(10));
    });
}

#[test]
fn a_write_past_the_file_size_limit_fails_the_next_call_and_finish() {
    if !in_child!() {
        return;
    }
    // SAFETY: the signal that comes with the error is ignored.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    set_limit(libc::RLIMIT_FSIZE, 10 * LEN);
    Fixture::new(8).everywhere().run(async |case| {
        let writer = || {
            fs::write(&case.path, "").unwrap();
            let writer = case.file.writer(&case.handle).with_chunk_size(CHUNK);
            writer.with_depth(2)
        };
        // In a chunk; in the last bytes.
        let mut blocks = writer();
        let failed = loop {
            if let Err(error) = blocks.write_all(&content(700)).await {
                break error;
            }
        };
        assert_eq!(failed.kind(), ErrorKind::FileTooLarge);
        // One of the two chunks in flight has failed first.
        let offset = stream_error(&failed).offset();
        assert!([8 * LEN, 12 * LEN].contains(&offset), "{offset}");
        assert_fails(blocks, libc::EFBIG).await;

        let mut tail = writer();
        tail.write_all(&content(10 * BLOCK + 1)).await.unwrap();
        let failed = tail.flush().await.unwrap_err();
        assert_eq!(stream_error(&failed).offset(), 10 * LEN);
        assert_fails(tail, libc::EFBIG).await;

        let mut fits = writer();
        fits.write_all(&content(10 * BLOCK)).await.unwrap();
        assert_eq!(fits.finish().await.unwrap(), 10 * LEN);
        assert!(file_content(case.dir) == content(10 * BLOCK));

        // An error that the caller knows is not counted, one that it has not asked for is.
        assert_eq!(case.handle.metrics().unfinished_writers, 0);
        let mut dropped = writer();
        dropped.write_all(&content(12 * BLOCK)).await.unwrap();
        let done = || case.handle.metrics().in_flight == 0;
        wait_until(done, || case.handle.metrics().in_flight).await;
        drop(dropped);
        assert_eq!(case.handle.metrics().unfinished_writers, 1);
    });
}

#[test]
fn bytes_past_the_largest_offset_are_refused() {
    Fixture::new(8).run(async |case| {
        for offset in [u64::MAX, u64::MAX - 4095, i64::MAX as u64 - 4095] {
            let mut writer = case.file.writer(&case.handle).with_offset(offset);
            writer.write_all(&content(3 * LONG)).await.unwrap_err();
            writer.flush().await.unwrap_err();
            assert!(writer.position() >= offset);
        }
        assert_eq!(len_of(&case.path), 0);
    });
}

/// On a context that does not wait for slots, a second write fails while the first one is in flight, if somebody
/// else has the other slot.
#[test]
fn nothing_is_written_after_an_error() {
    Fixture::new(2)
        .build(|builder| builder.wait_for_slot(false))
        .policy(SubmitPolicy::Offload)
        .run(async |case| {
            let (socket, _other) = UnixStream::pair().unwrap();
            let mut other = Box::pin(case.handle.poll(&socket, PollEvents::IN));
            assert!(poll!(&mut other).is_pending());
            let mut writer = case.file.writer(&case.handle).with_chunk_size(BLOCK);
            let whole = content(4 * BLOCK + 2);
            writer.write_all(&whole[..1]).await.unwrap(); // sets it up
            assert!(writer.write(&whole[1..]).await.unwrap() > 0);
            let flushed = writer.flush().await;
            let found = file_content(case.dir);
            assert!(found == whole[..found.len()], "a hole: {flushed:?}");
            assert!(found.len() >= BLOCK);
        });
}

/// A waker that can't be cloned.
struct NoClone;

impl NoClone {
    const VTABLE: RawWakerVTable = RawWakerVTable::new(
        |_| panic!("this waker can't be cloned"),
        |_| {},
        |_| {},
        |_| {},
    );

    fn waker() -> Waker {
        // SAFETY: the functions have no effect.
        unsafe { Waker::new(std::ptr::null(), &NoClone::VTABLE) }
    }
}

#[test]
fn a_waker_that_panics_when_cloned_does_not_stop_the_writer() {
    Fixture::new(8).run(async |case| {
        let mut writer = case.file.writer(&case.handle).with_chunk_size(CHUNK);
        let flush = |writer: &mut FileWriter| {
            let (waker, flush) = (NoClone::waker(), Pin::new(writer));
            let polled = catch_unwind(AssertUnwindSafe(|| {
                let _ = flush.poll_flush(&mut Context::from_waker(&waker));
            }));
            polled.unwrap_err();
        };
        flush(&mut writer); // while it queries the file
        writer.write_all(&content(2 * CHUNK + 5)).await.unwrap();
        flush(&mut writer);
        with_hang_guard(writer.finish()).await.unwrap();
        assert!(file_content(case.dir) == content(2 * CHUNK + 5));
    });
}

#[test]
fn an_allocation_that_does_not_fit_fails_before_the_first_write() {
    Fixture::new(8).every_backend().run(async |case| {
        let writer = case.file.writer(&case.handle).with_allocation(1 << 60);
        let error = writer.finish().await.unwrap_err();
        let errno = stream_error(&error).raw_os_error();
        assert!(
            [Some(libc::EFBIG), Some(libc::ENOSPC)].contains(&errno),
            "{error}"
        );
        assert_eq!(len_of(&case.path), 0);
        let mut past = case.file.writer(&case.handle).with_offset(u64::MAX - 1);
        assert!(past.write_all(b"past").await.is_err());
        assert!(past.finish().await.is_err());
    });
}

#[tokio::test]
async fn a_writer_of_a_closed_context_fails() {
    let dir = disk_dir();
    let file = file_with_content(&dir, 0).await;
    let (context, handle) = aio_context(8, true).unwrap();
    let mut writer = file.writer(&handle);
    writer.write_all(b"collected").await.unwrap();
    context.close().await;
    let error = writer.flush().await.unwrap_err();
    assert!(error.to_string().contains("context has ended"), "{error}");
    assert!(writer.finish().await.is_err());
}

#[test]
#[should_panic(expected = "`with_offset` was called after the first write")]
fn settings_come_before_the_first_write() {
    Fixture::new(8).run(async |case| {
        let mut writer = case.file.writer(&case.handle);
        writer.write_all(b"x").await.unwrap();
        writer.flush().await.unwrap();
        let _ = writer.with_offset(5);
    });
}

// ---- What programs use ------------------------------------------------------------------------

#[test]
fn copy_copies_a_reader_to_a_writer() {
    Fixture::new(16).everywhere().run(async |case| {
        for len in LENGTHS {
            let source = file_with_content(case.dir, len).await;
            let target = open_rw(case.dir, "copy").await;
            for buffered in [false, true] {
                target.set_len(0).await.unwrap();
                let mut reader = source.reader(&case.handle).with_chunk_size(CHUNK);
                let mut writer = target.writer(&case.handle).with_chunk_size(CHUNK);
                let copied = match buffered {
                    true => copy_buf(&mut reader, &mut writer).await,
                    false => copy(&mut reader, &mut writer).await,
                };
                assert_eq!(copied.unwrap(), len as u64);
                assert_eq!(writer.finish().await.unwrap(), len as u64);
                let copy = fs::read(case.dir.path().join("copy")).unwrap();
                assert!(copy == content(len), "{len} bytes");
            }
        }
    });
}

#[test]
fn framed_write_writes_lines() {
    Fixture::new(8).every_backend().run(async |case| {
        let writer = case.file.writer(&case.handle).with_chunk_size(BLOCK);
        let mut lines = FramedWrite::new(writer, LinesCodec::new());
        let mut expected = String::new();
        for number in 0..2000 {
            lines.send(format!("line {number}")).await.unwrap();
            expected += &format!("line {number}\n");
        }
        lines.into_inner().finish().await.unwrap();
        assert!(file_content(case.dir) == expected.as_bytes());
    });
}

#[cfg(feature = "bytes")]
mod bytes_of_any_length {
    use super::*;
    use bytes::Bytes;
    use futures::StreamExt;
    use tokio_kaio::AlignedBuf;

    #[test]
    fn a_stream_is_forwarded_to_a_writer() {
        Fixture::new(16).everywhere().run(async |case| {
            for len in LENGTHS {
                let source = file_with_content(case.dir, len).await;
                let target = open_rw(case.dir, "copy").await;
                target.set_len(0).await.unwrap();
                let reader = source.reader(&case.handle).with_chunk_size(CHUNK);
                let mut writer = target.writer(&case.handle).with_chunk_size(BLOCK);
                reader.into_stream().forward(&mut writer).await.unwrap();
                assert_eq!(writer.finish().await.unwrap(), len as u64);
                let copy = fs::read(case.dir.path().join("copy")).unwrap();
                assert!(copy == content(len), "{len} bytes");
            }
        });
    }

    #[test]
    fn bytes_past_the_largest_offset_are_refused() {
        Fixture::new(8).run(async |case| {
            for offset in [u64::MAX, u64::MAX - 4095, i64::MAX as u64 - 4095] {
                let mut writer = case.file.writer(&case.handle).with_offset(offset);
                let aligned = AlignedBuf::new(LONG).unwrap();
                writer.write_bytes(aligned.into()).await.unwrap_err();
                assert!(writer.position() >= offset);
            }
        });
    }

    #[test]
    fn a_sink_writes_an_edge_only_while_its_task_waits() {
        Fixture::new(8)
            .every_dir()
            .content(vec![9; BLOCK])
            .run(async |case| {
                let writer = |offset| case.file.writer(&case.handle).with_offset(offset);
                let (mut first, mut second) = (writer(100), writer(0));
                first
                    .feed(Bytes::from(content(BLOCK)[100..].to_vec()))
                    .await
                    .unwrap();
                second.feed(Bytes::from(content(100))).await.unwrap();
                with_hang_guard(second.close()).await.unwrap();
                first.close().await.unwrap();
                assert!(file_content(case.dir) == content(BLOCK));
            });
    }

    #[test]
    fn a_closed_sink_has_written_all() {
        Fixture::new(16).run(async |case| {
            let writer = case.file.writer(&case.handle).with_allocation(1 << 20);
            let parts = futures::stream::iter((0..100).map(|i| Ok(Bytes::from(vec![i; 1000]))));
            parts.forward(writer).await.unwrap();
            let expected: Vec<_> = (0..100).flat_map(|i| [i; 1000]).collect();
            assert!(file_content(case.dir) == expected);
            assert_eq!(case.handle.metrics().unfinished_writers, 0);
        });
    }

    #[test]
    fn aligned_bytes_are_written_in_large_writes() {
        Fixture::new(16).everywhere().run(async |case| {
            let mut buffer = buffer(LONG + 100);
            pattern(7, &mut buffer);
            let whole = Bytes::from(buffer);
            let mut writer = case.file.writer(&case.handle).with_chunk_size(LONG / 2);
            let mut expected = Vec::new();
            for data in [
                whole.clone(),
                whole.slice(..LONG), // not aligned in the file any more
                whole.slice(..BLOCK - 200 % BLOCK),
                whole.slice(1..),
                whole.slice(..LONG),
                Bytes::new(),
                whole.slice(BLOCK..),
            ] {
                expected.extend_from_slice(&data);
                writer.write_bytes(data).await.unwrap();
                assert_eq!(writer.position(), expected.len() as u64);
            }
            assert_eq!(writer.finish().await.unwrap(), expected.len() as u64);
            assert!(file_content(case.dir) == expected);
        });
    }

    #[test]
    fn a_dropped_write_of_bytes_was_accepted_in_whole_or_not_at_all() {
        Fixture::new(16).everywhere().run(async |case| {
            for seed in 0..20 {
                let mut random = StdRng::seed_from_u64(seed);
                fs::write(&case.path, "").unwrap();
                let writer = case.file.writer(&case.handle).with_chunk_size(CHUNK);
                let mut writer = writer.with_depth(random.random_range(1..4));
                let mut expected = Vec::new();
                for fill in 0..30 {
                    let data = vec![fill; random.random_range(0..5 * CHUNK)];
                    let polls = random.random_range(0..4);
                    let before = writer.position();
                    {
                        let mut write = Box::pin(writer.write_bytes(data.clone().into()));
                        for _ in 0..polls {
                            match poll!(write.as_mut()) {
                                std::task::Poll::Ready(done) => {
                                    done.unwrap();
                                    break;
                                }
                                std::task::Poll::Pending => yield_now().await,
                            }
                        }
                    }
                    match (writer.position() - before) as usize {
                        0 => {}
                        accepted => {
                            assert_eq!(accepted, data.len(), "seed {seed}");
                            expected.extend_from_slice(&data);
                        }
                    }
                }
                assert_eq!(writer.finish().await.unwrap(), expected.len() as u64);
                assert!(file_content(case.dir) == expected, "seed {seed}");
            }
        });
    }
}

// ---- Any sequence of calls --------------------------------------------------------------------

/// Random calls leave the file as the same writes to an array do.
async fn compare_with_array(case: &Case<'_>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut expected = vec![9; random.random_range(0..3 * CHUNK)];
    fs::write(&case.path, &expected).unwrap();
    let start = match random.random_bool(0.5) {
        true => 0,
        false => random.random_range(0..4 * CHUNK),
    };
    let mut writer = case
        .file
        .writer(&case.handle)
        .with_offset(start as u64)
        .with_chunk_size([1, BLOCK, 10_000, CHUNK][random.random_range(0..4)])
        .with_depth(random.random_range(1..6))
        .with_allocation([0, 100, 20 * LEN][random.random_range(0..3)]);
    let mut next = 0;
    let accept = |expected: &mut Vec<u8>, from: u64, to: u64, data: &[u8]| {
        let (from, to) = (from as usize, to as usize);
        if to > from {
            expected.resize(expected.len().max(to), 0);
            expected[from..to].copy_from_slice(&data[..to - from]);
        }
    };
    for step in 0..random.random_range(1..60) {
        let at = format!("seed {seed}, step {step}, position {}", writer.position());
        let before = writer.position();
        let size = match random.random_range(0..3) {
            0 => random.random_range(0..10),
            1 => random.random_range(0..BLOCK),
            _ => random.random_range(0..3 * CHUNK),
        };
        let data: Vec<u8> = (0..size)
            .map(|_| {
                next = (next + 1) % 251;
                next as u8
            })
            .collect();
        match random.random_range(0..12) {
            0..5 => {
                writer.write_all(&data).await.unwrap();
                assert_eq!(writer.position(), before + size as u64, "{at}");
                accept(&mut expected, before, writer.position(), &data);
            }
            5 => {
                let accepted = writer.write(&data).await.unwrap() as u64;
                assert_eq!(writer.position(), before + accepted, "{at}");
                accept(&mut expected, before, writer.position(), &data);
            }
            6..8 => {
                // Given up at any moment.
                {
                    let mut write = Box::pin(writer.write_all(&data));
                    for _ in 0..random.random_range(0..3) {
                        match poll!(write.as_mut()) {
                            std::task::Poll::Ready(done) => {
                                done.unwrap();
                                break;
                            }
                            std::task::Poll::Pending => yield_now().await,
                        }
                    }
                }
                accept(&mut expected, before, writer.position(), &data);
            }
            8 => {
                writer.flush().await.unwrap();
                let content = file_content(case.dir);
                assert!(content == expected, "{at}: {}", content.len());
            }
            9 => drop(poll!(Box::pin(writer.flush()))),
            10 => drop(poll!(Box::pin(writer.sync()))),
            _ => match random.random_bool(0.5) {
                true => writer.sync().await.unwrap(),
                false => writer.shutdown().await.unwrap(),
            },
        }
        assert!(len_of(&case.path) <= expected.len() as u64, "{at}");
    }
    let position = writer.position();
    assert_eq!(writer.finish().await.unwrap(), position, "seed {seed}");
    assert!(file_content(case.dir) == expected, "seed {seed}");
}

#[test]
fn any_sequence_of_calls_leaves_what_the_same_writes_to_an_array_leave() {
    Fixture::new(8).everywhere().run(async |case| {
        for seed in 0..30 {
            compare_with_array(&case, seed).await;
        }
    });
}

#[test]
fn what_was_flushed_is_read_by_direct_reads() {
    Fixture::new(8).everywhere().run(async |case| {
        let mut writer = case.file.writer(&case.handle).with_chunk_size(BLOCK);
        writer.write_all(&content(BLOCK + 10)).await.unwrap();
        writer.flush().await.unwrap();
        let mut bytes = vec![0; 2 * BLOCK];
        let (handle, flags) = (&case.handle, ReadFlags::empty());
        let read = case.file.read_bytes_at(handle, 0, &mut bytes, flags).await;
        assert_eq!(read.unwrap(), LEN + 10);
        assert!(bytes[..BLOCK + 10] == content(BLOCK + 10));
        writer.finish().await.unwrap();
    });
}
