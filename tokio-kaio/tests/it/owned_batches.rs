//! Batches that own their buffers, files and handle; reads up to the end of the file; clones of files.

use std::fs;

use crate::common::*;
use futures::{Stream, StreamExt};
use tokio_kaio::{
    AioCommandError, AioContextBuilder, AioContextHandle, AlignedBuf, File, IoBuf,
    LocalAioContextHandle, OwnedBatch, ReadFlags, WriteFlags,
};

const READ: ReadFlags = ReadFlags::empty();

/// The blocks of a file. Borrows nothing.
fn blocks_of(
    handle: &AioContextHandle,
    file: &File,
    count: u64,
) -> impl Stream<Item = (usize, Result<u64, AioCommandError>, AlignedBuf)> + Send + Unpin + 'static
{
    let mut batch = handle.owned_batch();
    for block in 0..count {
        assert_eq!(batch.read(file, block * LEN, buffer(BLOCK)), block as usize);
    }
    assert_eq!(batch.len(), count as usize);
    batch.stream()
}

#[test]
fn the_stream_of_an_owned_batch_outlives_its_file_and_its_handle() {
    // More operations than slots, too.
    for slots in [2, 32] {
        Fixture::new(slots)
            .blocks(20)
            .everywhere()
            .multi_thread()
            .run(async |case| {
                let mut stream = blocks_of(&case.handle, &case.file, 20);
                drop(case.file);
                let task = tokio::spawn(async move {
                    let mut seen = vec![false; 20];
                    while let Some((index, read, buffer)) = stream.next().await {
                        assert_eq!(read.unwrap(), LEN);
                        assert!(is_pattern(index as u64, &buffer));
                        assert!(!std::mem::replace(&mut seen[index], true));
                    }
                    assert_eq!(stream.size_hint(), (0, Some(0)));
                    seen
                });
                assert!(task.await.unwrap().into_iter().all(|seen| seen));
            });
    }
}

#[test]
fn an_owned_batch_mixes_reads_writes_and_syncs_of_several_files() {
    Fixture::new(16).blocks(4).everywhere().run(async |case| {
        let other = open_rw(case.dir, "other").await;
        let mut batch = case.handle.owned_batch();
        batch.read(&case.file, LEN, buffer(BLOCK).into_slice(..));
        batch.write(
            &other,
            0,
            patterned_buffer(9, 2 * BLOCK).into_slice(..BLOCK),
        );
        batch.sync_data(&case.file);
        batch.write_all(&other, LEN, patterned_buffer(8, BLOCK).into_slice(..));
        batch.read_full(&case.file, 3 * LEN, buffer(2 * BLOCK).into_slice(..));
        batch.sync_all(&other);
        let results = batch.all().await;
        let moved: Vec<_> = results
            .iter()
            .map(|(result, _)| *result.as_ref().unwrap())
            .collect();
        assert_eq!(moved, [LEN, LEN, 0, LEN, LEN, 0]);
        let mut buffers = results.into_iter().map(|(_, buffer)| buffer.into_inner());
        assert!(is_pattern(1, &buffers.next().unwrap()));
        assert!(is_pattern(3, &buffers.nth(3).unwrap()[..BLOCK]));
        let written = fs::read(case.dir.path().join("other")).unwrap();
        assert!(is_pattern(8, &written[BLOCK..]));
        assert_eq!(written.len(), 2 * BLOCK);
        fs::remove_file(case.dir.path().join("other")).unwrap();
    });
}

#[test]
fn a_failed_operation_of_an_owned_batch_returns_its_buffer_and_leaves_the_others() {
    Fixture::new(8).blocks(2).everywhere().run(async |case| {
        let mut batch = case.handle.owned_batch();
        batch.read(&case.file, u64::MAX - 10, buffer(BLOCK));
        batch.read(&case.file, 0, buffer(BLOCK));
        batch.read(&case.file, i64::MAX as u64 - LEN + 1, buffer(2 * BLOCK));
        let results = batch.all().await;
        assert_eq!(results.len(), 3);
        let sizes: Vec<_> = results.iter().map(|(_, buffer)| buffer.size()).collect();
        assert_eq!(sizes, [BLOCK, BLOCK, 2 * BLOCK]);
        assert!(results[0].0.is_err() && results[2].0.is_err());
        assert_eq!(*results[1].0.as_ref().unwrap(), LEN);
        assert!(is_pattern(0, &results[1].1));
    });
}

#[test]
fn a_dropped_or_timed_out_owned_batch_keeps_no_slot() {
    Fixture::new(4).blocks(64).everywhere().run(async |case| {
        for taken in 0..8 {
            let mut stream = blocks_of(&case.handle, &case.file, 64);
            for _ in 0..taken {
                assert!(stream.next().await.is_some());
            }
        }
        let late = tokio::time::Instant::now() - std::time::Duration::from_millis(1);
        let late = case.handle.with_deadline(late);
        let results = {
            let mut batch = late.owned_batch();
            for block in 0..8 {
                batch.read(&case.file, block * LEN, buffer(BLOCK));
            }
            batch.all().await
        };
        for (result, buffer) in results {
            assert!(matches!(result, Err(AioCommandError::TimedOut)));
            assert_eq!(buffer.size(), BLOCK, "the kernel never had the buffer");
        }
    });
}

#[test]
fn an_owned_batch_accepts_buffers_of_other_types_and_local_contexts() {
    fn of_vecs(
        handle: &LocalAioContextHandle,
        file: &File,
    ) -> OwnedBatch<Vec<u8>, tokio_kaio::NoopLock, tokio_kaio::LocalRequestAdapter, Link> {
        let mut batch = handle.owned_batch();
        batch.write(file, 0, vec![7; BLOCK]);
        batch
    }
    use intrusive_collections::linked_list::Link;
    let Some(dir) = tmpfs_dir() else {
        return eprintln!("skipped: no tmpfs with direct I/O, which accepts any memory");
    };
    current_thread().block_on(async {
        let (context, handle, background) = AioContextBuilder::new(4).build_local().unwrap();
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async move {
                let background = tokio::task::spawn_local(background);
                let file = open_rw(&dir, "data").await;
                let results = of_vecs(&handle, &file).all().await;
                assert_eq!(*results[0].0.as_ref().unwrap(), LEN);
                assert_eq!(results[0].1, vec![7; BLOCK]);
                assert_eq!(file_content(&dir), vec![7; BLOCK]);
                context.close().await;
                background.await.unwrap().unwrap();
            })
            .await;
    });
}

#[test]
fn the_short_forms_of_a_batch_read_and_write_whole_buffers() {
    Fixture::new(8).blocks(3).everywhere().run(async |case| {
        let source = patterned_buffer(5, BLOCK);
        let (mut first, mut last) = (buffer(2 * BLOCK), buffer(BLOCK));
        let mut batch = case.handle.batch();
        assert_eq!(batch.read(&case.file, 0, &mut first), 0);
        assert_eq!(batch.write(&case.file, 3 * LEN, &source), 1);
        assert_eq!(batch.read(&case.file, 2 * LEN, &mut last), 2);
        let moved: Vec<_> = batch.all().await.into_iter().map(Result::unwrap).collect();
        assert_eq!(moved, [2 * LEN, LEN, LEN]);
        assert!(is_pattern(1, &first[BLOCK..]) && is_pattern(2, &last));
        assert!(is_pattern(5, &file_content(case.dir)[3 * BLOCK..]));
    });
}

#[test]
fn a_full_read_is_short_only_at_the_end_of_the_file() {
    for len in [0, 1, 511, 512, BLOCK, BLOCK + 1, 3 * BLOCK + 512, 4 * BLOCK] {
        let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        Fixture::new(4)
            .content(bytes.clone())
            .everywhere()
            .run(async |case| {
                for start in [0, BLOCK, 2 * BLOCK, 5 * BLOCK] {
                    let there = bytes.get(start..).unwrap_or(&[]);
                    let there = &there[..there.len().min(2 * BLOCK)];
                    let mut target = buffer(3 * BLOCK);
                    let read = case.file.read_full_at(
                        &case.handle,
                        start as u64,
                        &mut target,
                        2 * LEN,
                        READ,
                    );
                    assert_eq!(read.await.unwrap(), there.len() as u64);
                    assert!(target[..there.len()] == *there);
                    let target = buffer(2 * BLOCK);
                    let read =
                        case.file
                            .read_full_owned_at(&case.handle, start as u64, target, READ);
                    let (read, target) = read.await;
                    assert_eq!(read.unwrap(), there.len() as u64);
                    assert!(target[..there.len()] == *there);
                }
            });
    }
}

#[test]
fn a_clone_of_a_file_is_the_same_open_file() {
    Fixture::new(4).blocks(2).every_backend().run(async |case| {
        use std::os::fd::AsRawFd;
        let clone = case.file.clone();
        assert_eq!(clone.as_raw_fd(), case.file.as_raw_fd());
        drop(case.file);
        let handle = case.handle.clone();
        let write = async move {
            let source = patterned_buffer(4, BLOCK);
            let write = clone.write_all_at(&handle, 0, &source, LEN, WriteFlags::empty());
            write.await
        };
        tokio::spawn(write).await.unwrap().unwrap();
        assert!(is_pattern(4, &file_content(case.dir)[..BLOCK]));
    });
}
