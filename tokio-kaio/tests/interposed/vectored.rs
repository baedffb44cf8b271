//! Vectored reads and writes move the same data as one plain transfer, whatever the pieces; their
//! buffers always come back.

use std::fs::{self, OpenOptions};
use std::task::Poll;

use crate::common::*;
use crate::interposer::{Gate, WatchedFile, poll_until_at_gate, submissions};
use futures::future::join_all;
use futures::poll;
use tempfile::TempDir;
use tokio_kaio::{
    AioCommandError, AioContext, AioContextHandle, AioOpenOptionsExt, AlignedBuf, Backend,
    BufferPool, BufferPoolBuilder, File, IoBuf, Part, PartMut, ReadFlags, SubmitPolicy, WriteFlags,
};

/// The most pieces that the kernel accepts in one request.
const IOV_MAX: usize = 1024;

/// The smallest piece that direct I/O on `file` accepts and that can hold a pattern.
async fn smallest(file: &File) -> usize {
    let alignment = file.alignment().await.unwrap();
    alignment.memory.max(alignment.offset as usize).max(512)
}

fn pool_of(count: usize, size: usize) -> BufferPool {
    let builder = BufferPoolBuilder::new(count, size).alignment(512);
    builder.build().unwrap()
}

fn take(pool: &BufferPool, count: usize) -> Vec<AlignedBuf> {
    (0..count).map(|_| pool.try_get().unwrap()).collect()
}

fn joined<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    pieces.into_iter().flatten().copied().collect()
}

/// Lengths of pieces, in units of the smallest.
fn lists() -> Vec<Vec<usize>> {
    let uneven = |count| (0..count).map(|i| 1 + i % 3).collect();
    vec![
        vec![1],
        vec![5],
        vec![2, 1],
        uneven(17),
        vec![1; IOV_MAX],
        uneven(IOV_MAX + 1),
        uneven(3000),
    ]
}

// ---- What is moved ----------------------------------------------------------------------------

#[test]
fn borrowed_ranges_move_the_same_data_as_one_plain_transfer() {
    Fixture::new(8).everywhere().run(async |case| {
        let (dir, handle) = (case.dir, case.handle);
        for units in lists() {
            borrowed(dir, &handle, &units).await;
        }
    });
}

/// The pieces are in one buffer, in reverse order and with gaps; then each is in a buffer of its
/// own, after a margin.
async fn borrowed(dir: &TempDir, handle: &AioContextHandle, units: &[usize]) {
    let file = file_with_content(dir, 0).await;
    let unit = smallest(&file).await;
    let total = units.iter().sum::<usize>() * unit;
    let expected = content(total);

    let mut source = AlignedBuf::new(total + units.len() * unit).unwrap();
    let mut ranges = Vec::new();
    let (mut at, mut end) = (0, source.size());
    for units in units {
        let len = units * unit;
        source[end - len..end].copy_from_slice(&expected[at..at + len]);
        ranges.push(end - len..end);
        at += len;
        end -= len + unit;
    }
    let parts: Vec<Part<'_>> = ranges.into_iter().map(|range| source.part(range)).collect();
    assert_eq!(parts.iter().map(Part::len).sum::<usize>(), total);
    let written = file.write_vectored_at(handle, 0, &parts, WriteFlags::empty());
    assert_eq!(with_hang_guard(written).await.unwrap(), total as u64);
    assert!(file_content(dir) == expected, "{} pieces", units.len());

    let pool = pool_of(units.len(), 7 * unit);
    let mut targets = take(&pool, units.len());
    let mut parts: Vec<PartMut<'_>> = targets
        .iter_mut()
        .zip(units)
        .map(|(target, units)| {
            target.fill(0xaa);
            target.part_mut(unit..(1 + units) * unit)
        })
        .collect();
    let read = file.read_vectored_at(handle, 0, &mut parts, ReadFlags::empty());
    assert_eq!(with_hang_guard(read).await.unwrap(), total as u64);
    let of_part = targets.iter().zip(units);
    let found = joined(of_part.map(|(target, units)| &target[unit..(1 + units) * unit]));
    assert!(found == expected, "{} pieces", units.len());
    for (target, units) in targets.iter().zip(units) {
        let mut around = target[..unit].iter().chain(&target[(1 + units) * unit..]);
        assert!(around.all(|&byte| byte == 0xaa));
    }
}

#[test]
fn whole_buffers_can_be_pieces() {
    Fixture::new(8).everywhere().run(async |case| {
        let (dir, file, handle) = (case.dir, case.file, case.handle);
        let expected = content(3 * BLOCK);
        let mut buffers = [AlignedBuf::new(BLOCK), AlignedBuf::new(2 * BLOCK)].map(Result::unwrap);
        buffers[0].copy_from_slice(&expected[..BLOCK]);
        buffers[1].copy_from_slice(&expected[BLOCK..]);
        let parts = buffers.each_ref().map(Part::from);
        let written = file.write_vectored_at(&handle, 0, &parts, WriteFlags::DSYNC);
        assert_eq!(written.await.unwrap(), 3 * BLOCK as u64);
        assert!(file_content(dir) == expected);
        buffers.iter_mut().for_each(|buffer| buffer.fill(0));
        let mut parts = buffers.each_mut().map(PartMut::from);
        let read = file.read_vectored_at(&handle, 0, &mut parts, ReadFlags::empty());
        assert_eq!(read.await.unwrap(), 3 * BLOCK as u64);
        assert!(joined(buffers.iter().map(|buffer| &buffer[..])) == expected);
    });
}

#[test]
fn owned_buffers_move_the_same_data_as_one_plain_transfer() {
    Fixture::new(8).everywhere().run(async |case| {
        let (dir, handle) = (case.dir, case.handle);
        for units in lists() {
            handed_over(dir, &handle, &units).await;
        }
    });
}

async fn handed_over(dir: &TempDir, handle: &AioContextHandle, units: &[usize]) {
    let file = file_with_content(dir, 0).await;
    let unit = smallest(&file).await;
    let total = units.iter().sum::<usize>() * unit;
    let expected = content(total);
    let pool = pool_of(units.len(), 7 * unit);
    let mut at = 0;
    let slices = take(&pool, units.len()).into_iter().zip(units);
    let slices = slices.map(|(mut buffer, units)| {
        let range = unit..(1 + units) * unit;
        buffer.fill(0xaa);
        buffer[range.clone()].copy_from_slice(&expected[at..at + range.len()]);
        at += range.len();
        buffer.into_slice(range)
    });
    let slices = slices.collect();
    let written = file.write_vectored_owned_at(handle, 0, slices, WriteFlags::empty());
    let (written, slices) = with_hang_guard(written).await;
    assert_eq!(written.unwrap(), total as u64);
    assert!(file_content(dir) == expected, "{} pieces", units.len());
    assert_eq!(slices.len(), units.len());

    let slices = slices.into_iter().map(|slice| {
        let mut buffer = slice.into_inner();
        buffer.fill(0);
        buffer
    });
    let slices = slices.zip(units);
    let slices = slices.map(|(buffer, units)| buffer.into_slice(unit..(1 + units) * unit));
    let slices = slices.collect();
    let read = file.read_vectored_owned_at(handle, 0, slices, ReadFlags::empty());
    let (read, slices) = with_hang_guard(read).await;
    assert_eq!(read.unwrap(), total as u64);
    let of_slice = slices.iter().zip(units);
    let found = joined(of_slice.map(|(s, units)| &s.get_ref()[unit..(1 + units) * unit]));
    assert!(found == expected, "{} pieces", units.len());
    drop(slices);
    assert_eq!(pool.available(), units.len());
}

#[test]
fn an_empty_list_moves_nothing() {
    Fixture::new(8)
        .everywhere()
        .content(content(BLOCK))
        .run(async |case| {
            let (dir, file, handle, mode) = (case.dir, case.file, case.handle, case.mode);
            let read = file.read_vectored_at(&handle, 0, &mut [], ReadFlags::empty());
            assert_eq!(read.await.unwrap(), 0, "{mode:?}");
            let written = file.write_vectored_at(&handle, 0, &[], WriteFlags::empty());
            assert_eq!(written.await.unwrap(), 0, "{mode:?}");
            let none = Vec::<AlignedBuf>::new();
            let read = file.read_vectored_owned_at(&handle, 0, none, ReadFlags::empty());
            let (read, none) = read.await;
            assert_eq!((read.unwrap(), none.len()), (0, 0), "{mode:?}");
            let written = file.write_vectored_owned_at(&handle, 0, none, WriteFlags::empty());
            assert_eq!(written.await.0.unwrap(), 0, "{mode:?}");
            assert!(file_content(dir) == content(BLOCK));
        });
}

/// Also if they fill a whole request, which then moves nothing although the file does not end.
#[test]
fn empty_pieces_are_skipped() {
    Fixture::new(8).everywhere().run(async |case| {
        let (dir, handle, mode) = (case.dir, case.handle, case.mode);
        for (before, between) in [(1, 1), (0, 5), (IOV_MAX, 0), (3 * IOV_MAX + 1, 1500)] {
            let file = file_with_content(dir, 0).await;
            let expected = content(2 * BLOCK);
            let mut source = AlignedBuf::new(2 * BLOCK).unwrap();
            source.copy_from_slice(&expected);
            let empty = || source.part(..0);
            let mut parts: Vec<_> = (0..before).map(|_| empty()).collect();
            parts.push(source.part(..BLOCK));
            parts.extend((0..between).map(|_| empty()));
            parts.extend([source.part(BLOCK..), empty()]);
            assert!(parts[parts.len() - 1].is_empty());
            let written = file.write_vectored_at(&handle, 0, &parts, WriteFlags::empty());
            let written = written.await.unwrap();
            assert_eq!(written, 2 * BLOCK as u64, "{mode:?}: {before}, {between}");
            assert!(file_content(dir) == expected);

            let none = || AlignedBuf::default();
            let mut buffers: Vec<_> = (0..before).map(|_| none()).collect();
            buffers.push(AlignedBuf::new(BLOCK).unwrap());
            buffers.extend((0..between).map(|_| none()));
            buffers.push(AlignedBuf::new(BLOCK).unwrap());
            let mut parts: Vec<_> = buffers.iter_mut().map(PartMut::from).collect();
            let read = file.read_vectored_at(&handle, 0, &mut parts, ReadFlags::empty());
            assert_eq!(read.await.unwrap(), 2 * BLOCK as u64, "{mode:?}");
            assert!(joined(buffers.iter().map(|buffer| &buffer[..])) == expected);
            buffers.iter_mut().for_each(|buffer| buffer.fill(0));
            let read = file.read_vectored_owned_at(&handle, 0, buffers, ReadFlags::empty());
            let (read, buffers) = read.await;
            assert_eq!(read.unwrap(), 2 * BLOCK as u64, "{mode:?}");
            assert!(joined(buffers.iter().map(|buffer| &buffer[..])) == expected);
        }
    });
}

#[test]
fn a_vectored_read_across_the_end_of_the_file_is_short() {
    Fixture::new(8).everywhere().run(async |case| {
        let (dir, handle, mode) = (case.dir, case.handle, case.mode);
        let unit = smallest(&file_with_content(dir, 0).await).await;
        // The end is between pieces, within one, and where a request is full.
        for (bytes, count) in [
            (3 * unit, 5),
            (3 * unit + unit / 2, 5),
            (IOV_MAX * unit, IOV_MAX + 9),
            ((IOV_MAX + 3) * unit + 100, IOV_MAX + 9),
            (700 * unit, 3000),
            (0, 2),
        ] {
            let file = file_with_content(dir, bytes).await;
            let pool = pool_of(count, unit);
            let mut buffers = take(&pool, count);
            buffers.iter_mut().for_each(|buffer| buffer.fill(0));
            let mut parts: Vec<_> = buffers.iter_mut().map(PartMut::from).collect();
            let read = file.read_vectored_at(&handle, 0, &mut parts, ReadFlags::empty());
            assert_eq!(read.await.unwrap(), bytes as u64, "{mode:?}");
            let found = joined(buffers.iter().map(|buffer| &buffer[..]));
            assert!(found[..bytes] == content(bytes));
            let read = file.read_vectored_owned_at(&handle, 0, buffers, ReadFlags::empty());
            let (read, buffers) = read.await;
            assert_eq!((read.unwrap(), buffers.len()), (bytes as u64, count));
            assert_eq!(pool.available(), 0);
        }
    });
}

/// Room that is not filled does not count as initialized.
#[test]
fn each_vector_grows_by_the_bytes_read_into_it() {
    Fixture::new(8)
        .tmpfs()
        .every_mode()
        .content(content(10_000))
        .run(async |case| {
            let (file, handle, mode) = (case.file, case.handle, case.mode);
            let room = || Vec::with_capacity(4096);
            let vectors: Vec<Vec<u8>> = vec![room(), vec![1; 4096], room(), room()];
            let read = file.read_vectored_owned_at(&handle, 0, vectors, ReadFlags::empty());
            let (read, vectors) = read.await;
            assert_eq!(read.unwrap(), 10_000);
            let lengths: Vec<_> = vectors.iter().map(Vec::len).collect();
            assert_eq!(lengths, [4096, 4096, 10_000 - 8192, 0], "{mode:?}");
            assert!(joined(vectors.iter().map(|v| &v[..])) == content(10_000));
        });
}

// ---- Requests ---------------------------------------------------------------------------------

#[test]
fn one_system_call_moves_1024_pieces() {
    if !is_kernel_aio_build() {
        return;
    }
    Fixture::new(8)
        .inline()
        .every_dir()
        .start_driver()
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            let unit = smallest(&file).await;
            let pool = pool_of(3000, unit);
            for (count, calls) in [(1, 1), (2, 1), (1024, 1), (1025, 2), (2048, 2), (3000, 3)] {
                let before = submissions();
                let buffers = take(&pool, count);
                let written =
                    file.write_vectored_owned_at(&handle, 0, buffers, WriteFlags::empty());
                let (written, mut buffers) = written.await;
                assert_eq!(written.unwrap(), (count * unit) as u64);
                assert_eq!(submissions() - before, calls, "{count} pieces written");
                let before = submissions();
                let mut parts: Vec<_> = buffers.iter_mut().map(PartMut::from).collect();
                let read = file.read_vectored_at(&handle, 0, &mut parts, ReadFlags::empty());
                assert_eq!(read.await.unwrap(), (count * unit) as u64);
                assert_eq!(submissions() - before, calls, "{count} pieces read");
            }
        });
}

/// One piece is a plain request, also as what is left of many.
#[test]
fn requests_of_a_long_list_run_in_order_each_at_the_end_of_the_last() {
    Fixture::new(8).everywhere().run(async |case| {
        let (file, handle, mode) = (case.file, case.handle, case.mode);
        let unit = smallest(&file).await;
        let pool = pool_of(2049, unit);
        let watched = WatchedFile::new(&file);
        let buffers = take(&pool, 2049);
        let written = file.write_vectored_owned_at(&handle, 0, buffers, WriteFlags::empty());
        assert_eq!(written.await.0.unwrap(), 2049 * unit as u64);
        let seen = watched.transfers();
        let seen = seen.iter().map(|s| (s.writes, s.vectored, s.offset, s.len));
        let (unit, full) = (unit as u64, (IOV_MAX * unit) as u64);
        let expected = [
            (true, true, 0, 1024),
            (true, true, full, 1024),
            (true, false, 2 * full, unit),
        ];
        assert_eq!(seen.collect::<Vec<_>>(), expected, "{mode:?}");
        assert_eq!(handle.metrics().submitted, 3, "{mode:?}");
    });
}

/// As with a request that the kernel shortens, which is not resumed either.
#[test]
fn a_short_request_ends_the_operation() {
    Fixture::new(8).everywhere().run(async |case| {
        let (file, handle, mode) = (case.file, case.handle, case.mode);
        let unit = smallest(&file).await;
        let pool = pool_of(IOV_MAX + 5, unit);
        let watched = WatchedFile::new(&file);
        watched.shorten_to(9 * unit);
        let buffers = take(&pool, IOV_MAX + 5);
        let written = file.write_vectored_owned_at(&handle, 0, buffers, WriteFlags::empty());
        let (written, buffers) = written.await;
        assert_eq!(written.unwrap(), 9 * unit as u64, "{mode:?}");
        assert_eq!(buffers.len(), IOV_MAX + 5);
        assert_eq!(handle.metrics().submitted, 1, "{mode:?}");
    });
}

/// The caller gets the error when it continues the write. A read is short only at the end of the
/// file.
#[tokio::test]
async fn an_error_after_the_first_request_makes_a_write_short_and_fails_a_read() {
    for dir in test_dirs() {
        // NOWAIT attempts may be submitted twice, an unknown number of times.
        let once =
            |mode: &Mode| mode.0 != Backend::KernelAio || mode.1 != SubmitPolicy::NoWaitFirst;
        for mode in modes().filter(once) {
            let (context, handle) = context_in(mode, 8);
            let file = file_with_content(&dir, 0).await;
            let unit = smallest(&file).await;
            let pool = pool_of(3000, unit);
            let watched = WatchedFile::new(&file);
            watched.fail_after(1);
            let buffers = take(&pool, 3000);
            let written = file.write_vectored_owned_at(&handle, 0, buffers, WriteFlags::empty());
            let (written, mut buffers) = with_hang_guard(written).await;
            assert_eq!(written.unwrap(), (IOV_MAX * unit) as u64, "{mode:?}");
            assert_eq!(buffers.len(), 3000);
            watched.fail_after(1);
            let mut parts: Vec<_> = buffers.iter_mut().map(PartMut::from).collect();
            let read = file.read_vectored_at(&handle, 0, &mut parts, ReadFlags::empty());
            let error = with_hang_guard(read).await.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{mode:?}: {error}");
            assert!(buffers.iter().all(|buffer| buffer.size() == unit));
            watched.fail_after(1);
            let read = file.read_vectored_owned_at(&handle, 0, buffers, ReadFlags::empty());
            let (read, buffers) = with_hang_guard(read).await;
            assert_eq!(errno(read), Some(libc::EBADF), "{mode:?}");
            assert_eq!(buffers.len(), 3000);
            assert_idle(&handle, 8).await;
            with_hang_guard(context.close()).await;
        }
    }
}

/// A short result would be wrong: the rest of a write may still land, and a read is short only at
/// the end of the file.
#[tokio::test]
async fn a_context_dropped_between_two_requests_fails_the_operation() {
    let dir = disk_dir();
    for mode in modes() {
        for writes in [false, true] {
            let file = file_with_content(&dir, 3000 * BLOCK).await;
            let pool = pool_of(3000, BLOCK);
            retry_until(async || {
                let (context, handle) = context_in(mode, 8);
                let mut buffers = take(&pool, 3000);
                let result = if writes {
                    let parts: Vec<_> = buffers.iter().map(Part::from).collect();
                    let flags = WriteFlags::empty();
                    let write = file.write_vectored_at(&handle, 0, &parts, flags);
                    dropping(context, write).await
                } else {
                    let mut parts: Vec<_> = buffers.iter_mut().map(PartMut::from).collect();
                    let flags = ReadFlags::empty();
                    let read = file.read_vectored_at(&handle, 0, &mut parts, flags);
                    dropping(context, read).await
                };
                match result {
                    Ok(moved) => assert_eq!(moved, 3000 * BLOCK as u64, "{mode:?}"),
                    Err(AioCommandError::AioStopped) => return Some(()),
                    Err(error) => panic!("{mode:?}: {error}"),
                }
                None
            })
            .await;
        }
    }
}

/// The result of `operation` if `context` is dropped after its start.
async fn dropping<T>(context: AioContext, operation: impl Future<Output = T>) -> T {
    let mut operation = Box::pin(operation);
    let polled = poll!(operation.as_mut());
    drop(context);
    match polled {
        Poll::Ready(result) => result,
        Poll::Pending => with_hang_guard(operation).await,
    }
}

// ---- Appends ----------------------------------------------------------------------------------

#[test]
fn each_list_is_appended_in_one_piece() {
    const LISTS: u64 = 8;
    Fixture::new(4).everywhere().run(async |case| {
        let (path, handle) = (case.path, case.handle);
        for by_flag in [true, false] {
            fs::write(&path, content(BLOCK)).unwrap();
            let mut options = OpenOptions::new();
            options.append(!by_flag).write(true);
            let file = options.aio_open(path.clone(), false).await.unwrap();
            let flags = match by_flag {
                true => WriteFlags::APPEND,
                false => WriteFlags::empty(),
            };
            let sources: Vec<_> = (0..LISTS).map(|i| patterned_buffer(i, 2 * BLOCK)).collect();
            let lists: Vec<_> = sources
                .iter()
                .map(|source| [source.part(..BLOCK), source.part(BLOCK..)])
                .collect();
            let appends = lists
                .iter()
                .map(|list| file.write_vectored_at(&handle, 0, list, flags));
            for appended in join_all(appends).await {
                assert_eq!(appended.unwrap(), 2 * BLOCK as u64);
            }
            let found = fs::read(&path).unwrap();
            assert!(found[..BLOCK] == content(BLOCK));
            // In submission order.
            let found = found[BLOCK..].chunks(2 * BLOCK);
            assert!((0..LISTS).eq(found.map(|list| {
                let of_list = |&i: &u64| is_pattern(i, list);
                (0..LISTS).find(of_list).unwrap()
            })));
        }
    });
}

#[test]
fn a_list_of_several_requests_is_appended_in_one_piece_without_other_appends() {
    Fixture::new(4)
        .everywhere()
        .content(content(BLOCK))
        .run(async |case| {
            let (dir, file, handle) = (case.dir, case.file, case.handle);
            let unit = smallest(&file).await;
            let count = 2 * IOV_MAX + 1;
            let mut source = AlignedBuf::new(count * unit).unwrap();
            source.copy_from_slice(&content(count * unit));
            let parts: Vec<_> = (0..count)
                .map(|i| source.part(i * unit..(i + 1) * unit))
                .collect();
            let appended = file.write_vectored_at(&handle, 0, &parts, WriteFlags::APPEND);
            assert_eq!(appended.await.unwrap(), (count * unit) as u64);
            assert!(file_content(dir)[BLOCK..] == content(count * unit));
        });
}

// ---- What fails or is given up ----------------------------------------------------------------

fn errno(result: Result<u64, AioCommandError>) -> Option<i32> {
    result.unwrap_err().raw_os_error()
}

#[test]
fn a_refused_list_returns_every_buffer() {
    Fixture::new(8).everywhere().run(async |case| {
        let (dir, path, handle, mode) = (case.dir, case.path, case.handle, case.mode);
        file_with_content(dir, BLOCK).await;
        let writes_only = File::create(dir.path().join("other"), false).await.unwrap();
        let reads_only = File::open(path.clone(), false).await.unwrap();
        let mut buffers: Vec<_> = (0..3).map(|i| patterned_buffer(i, BLOCK)).collect();
        let is_whole = |buffers: &[AlignedBuf]| {
            let mut numbered = (0..).zip(buffers);
            assert!(buffers.len() == 3 && numbered.all(|(i, buffer)| is_pattern(i, buffer)));
        };

        // The wrong access mode; an unknown flag; a flag that does not fit; an offset past the
        // maximum.
        let unknown = ReadFlags::from_bits_retain;
        for (file, offset, flags, refusal) in [
            (&writes_only, 0, ReadFlags::empty(), libc::EBADF),
            (&reads_only, 0, unknown(1 << 30), libc::EOPNOTSUPP),
            (&reads_only, 0, unknown(1 << 31), libc::EOPNOTSUPP),
            (&reads_only, 1 << 63, ReadFlags::empty(), libc::EINVAL),
        ] {
            let mut parts: Vec<_> = buffers.iter_mut().map(PartMut::from).collect();
            let read = file.read_vectored_at(&handle, offset, &mut parts, flags);
            assert_eq!(errno(read.await), Some(refusal), "{mode:?}");
            is_whole(&buffers);
            let read = file.read_vectored_owned_at(&handle, offset, buffers, flags);
            let read = read.await;
            buffers = read.1;
            assert_eq!(errno(read.0), Some(refusal), "{mode:?}");
            is_whole(&buffers);
        }
        let unknown = WriteFlags::from_bits_retain;
        for (file, flags, refusal) in [
            (&reads_only, WriteFlags::empty(), libc::EBADF),
            (&writes_only, unknown(1 << 30), libc::EOPNOTSUPP),
            (&writes_only, unknown(1 << 31), libc::EOPNOTSUPP),
        ] {
            let parts: Vec<_> = buffers.iter().map(Part::from).collect();
            let written = file.write_vectored_at(&handle, 0, &parts, flags);
            assert_eq!(errno(written.await), Some(refusal), "{mode:?}");
            let written = file.write_vectored_owned_at(&handle, 0, buffers, flags);
            let written = written.await;
            buffers = written.1;
            assert_eq!(errno(written.0), Some(refusal), "{mode:?}");
            is_whole(&buffers);
        }
    });
}

#[test]
fn a_list_at_a_misaligned_offset_fails_and_returns_every_buffer() {
    Fixture::new(8)
        .every_mode()
        .content(content(2 * BLOCK))
        .run(async |case| {
            let (path, file, handle) = (case.path, case.file, case.handle);
            let mut buffers: Vec<_> = (0..3).map(|i| patterned_buffer(i, BLOCK)).collect();
            let mut parts: Vec<_> = buffers.iter_mut().map(PartMut::from).collect();
            let read = file.read_vectored_at(&handle, 1, &mut parts, ReadFlags::empty());
            let error = read.await.unwrap_err();
            assert!(matches!(error, AioCommandError::BadResult(_)), "{error:?}");
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
            if statx_alignment(&fs::File::open(path.clone()).unwrap()).is_some() {
                let message = error.to_string();
                assert!(message.contains("12288 bytes at offset 1"), "{message}");
            }
            assert!((0..).zip(&buffers).all(|(i, buffer)| is_pattern(i, buffer)));
        });
}

#[tokio::test]
async fn buffers_of_a_dropped_list_get_new_memory_of_their_size() {
    for dir in test_dirs() {
        for mode in modes() {
            for count in [1, 3, IOV_MAX + 1] {
                let (context, handle) = context_in(mode, 8);
                tokio::task::yield_now().await;
                let file = file_with_content(&dir, BLOCK).await;
                let gate = Gate::closed();
                let pool = pool_of(count, 1024);
                let mut buffers = take(&pool, count);
                buffers.iter_mut().for_each(|buffer| buffer.fill(0xaa));
                let old: Vec<_> = buffers.iter().map(|buffer| buffer.as_ptr()).collect();
                let mut parts: Vec<_> = buffers.iter_mut().map(|b| b.part_mut(512..)).collect();
                let offset = gate.offset();
                let read = file.read_vectored_at(&handle, offset, &mut parts, ReadFlags::empty());
                let mut read = Box::pin(read);
                let waiting = || gate.waiting().len();
                poll_until_at_gate(&gate, &mut read).await;
                drop(read);
                assert_eq!(handle.metrics().abandoned_in_flight, 1);
                for (buffer, old) in buffers.iter_mut().zip(old) {
                    assert_eq!(buffer.size(), 1024);
                    assert_ne!(buffer.as_ptr(), old, "the kernel has it");
                    assert!(buffer.iter().all(|&byte| byte == 0));
                    buffer.fill(1);
                }
                assert_eq!((pool.available(), waiting()), (0, 1), "{mode:?}");
                gate.open();
                assert_idle(&handle, 8).await;
                // A slot is free a moment before its buffers are dropped.
                wait_until(|| pool.available() == count, || (mode, pool.available())).await;
                assert!(buffers.iter().all(|b| b.iter().all(|&byte| byte == 1)));
                with_hang_guard(context.close()).await;
            }
        }
    }
}

#[test]
fn a_dropped_write_writes_the_data_that_was_submitted() {
    Fixture::new(8)
        .everywhere()
        .start_driver()
        .content(content(BLOCK))
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            let gate = Gate::closed();
            let mut buffers = [1, 2].map(|i| patterned_buffer(i, BLOCK));
            let old = buffers.each_ref().map(|buffer| buffer.as_ptr());
            let parts = buffers.each_ref().map(Part::from);
            let write = file.write_vectored_at(&handle, gate.offset(), &parts, WriteFlags::empty());
            let mut write = Box::pin(write);
            poll_until_at_gate(&gate, &mut write).await;
            drop(write);
            assert_eq!(buffers.each_ref().map(|buffer| buffer.as_ptr()), old);
            for buffer in &mut buffers {
                buffer[0] = !buffer[0];
            }
            assert!(
                buffers
                    .iter()
                    .zip(old)
                    .all(|(buffer, old)| buffer.as_ptr() != old)
            );
            gate.open();
        });
}

#[tokio::test]
async fn owned_buffers_of_a_dropped_list_are_kept_until_the_completion() {
    for dir in test_dirs() {
        for mode in modes() {
            for writes in [false, true] {
                let (context, handle) = context_in(mode, 8);
                tokio::task::yield_now().await;
                let file = file_with_content(&dir, BLOCK).await;
                let gate = Gate::closed();
                let pool = pool_of(4, 4096);
                let (buffers, offset) = (take(&pool, 4), gate.offset());
                let mut operation = Box::pin(async {
                    if writes {
                        let flags = WriteFlags::empty();
                        file.write_vectored_owned_at(&handle, offset, buffers, flags)
                            .await
                    } else {
                        let flags = ReadFlags::empty();
                        file.read_vectored_owned_at(&handle, offset, buffers, flags)
                            .await
                    }
                });
                poll_until_at_gate(&gate, &mut operation).await;
                drop(operation);
                assert_eq!(pool.available(), 0, "{mode:?}");
                gate.open();
                assert_idle(&handle, 8).await;
                wait_until(|| pool.available() == 4, || (mode, pool.available())).await;
                with_hang_guard(context.close()).await;
            }
        }
    }
}

/// The data read by the first of two requests is lost, and the buffers get new memory.
#[test]
fn a_list_dropped_between_two_requests_leaves_every_buffer_its_size() {
    Fixture::new(8)
        .everywhere()
        .content(content(3000 * 4096))
        .run(async |case| {
            let (file, handle, mode) = (case.file, case.handle, case.mode);
            let pool = pool_of(3000, 4096);
            let mut buffers = take(&pool, 3000);
            let flags = ReadFlags::empty();
            for polls in 0..6 {
                let mut parts: Vec<_> = buffers.iter_mut().map(PartMut::from).collect();
                let mut read = Box::pin(file.read_vectored_at(&handle, 0, &mut parts, flags));
                for _ in 0..polls {
                    if poll!(read.as_mut()).is_ready() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                drop(read);
                assert!(
                    buffers.iter().all(|buffer| buffer.size() == 4096),
                    "{mode:?}"
                );
            }
        });
}
