//! Flags of single operations take effect in the kernel, and none is dropped on the way to it.

#[allow(clippy::undocumented_unsafe_blocks, clippy::unnecessary_cast)]
mod common;

use std::fs::{self, OpenOptions};

use common::{BLOCK, buffer, is_pattern, open_rw, patterned};
use futures::future::join_all;
use tokio_kaio::{
    AioCommandError, AioOpenOptionsExt, File, RawCommand, ReadFlags, WriteFlags, aio_context,
};

const LEN: u64 = BLOCK as u64;
/// `RWF_NOAPPEND`, which has no name here.
const NOAPPEND: isize = 0x20;

fn refused_errno(result: Result<u64, AioCommandError>) -> Option<i32> {
    match &result {
        Err(error @ AioCommandError::IoSubmit(_)) => error.raw_os_error(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn append_at_offset_zero_appends() {
    for dir in common::everywhere() {
        common::write_patterned(&dir.path().join("data"), 1);
        let (context, handle) = aio_context(4, true).unwrap();
        let file = open_rw(&dir, "data").await;
        for i in 1..4 {
            let bytes = patterned(i, BLOCK);
            let written = file
                .write_at(&handle, 0, &bytes, LEN, WriteFlags::APPEND)
                .await;
            assert_eq!(written.unwrap(), LEN);
        }
        let bytes = patterned(4, BLOCK);
        let both = WriteFlags::APPEND | WriteFlags::DSYNC;
        assert_eq!(
            file.write_at(&handle, 0, &bytes, LEN, both).await.unwrap(),
            LEN
        );
        let written = fs::read(dir.path().join("data")).unwrap();
        assert_eq!(written.len(), 5 * BLOCK);
        assert!(
            (0..)
                .zip(written.chunks(BLOCK))
                .all(|(i, block)| is_pattern(i, block))
        );
        context.close().await;
    }
}

#[tokio::test]
async fn without_append_offset_zero_is_overwritten() {
    for dir in common::everywhere() {
        common::write_patterned(&dir.path().join("data"), 2);
        let (context, handle) = aio_context(4, true).unwrap();
        let file = open_rw(&dir, "data").await;
        let bytes = patterned(7, BLOCK);
        file.write_at(&handle, 0, &bytes, LEN, WriteFlags::empty())
            .await
            .unwrap();
        let written = fs::read(dir.path().join("data")).unwrap();
        assert_eq!(written.len(), 2 * BLOCK);
        assert!(is_pattern(7, &written[..BLOCK]) && is_pattern(1, &written[BLOCK..]));
        context.close().await;
    }
}

#[tokio::test]
async fn concurrent_appends_each_get_a_place_of_their_own() {
    const APPENDS: u64 = 40;
    for dir in common::everywhere() {
        let (context, handle) = aio_context(8, true).unwrap();
        let file = open_rw(&dir, "data").await;
        let appends = (0..APPENDS).map(|i| {
            let (file, handle) = (&file, &handle);
            async move {
                let bytes = patterned(i, BLOCK);
                file.write_at(handle, 0, &bytes, LEN, WriteFlags::APPEND)
                    .await
                    .unwrap()
            }
        });
        assert!(
            join_all(appends)
                .await
                .iter()
                .all(|&written| written == LEN)
        );
        let written = fs::read(dir.path().join("data")).unwrap();
        assert_eq!(written.len() as u64, APPENDS * LEN);
        for i in 0..APPENDS {
            let copies = written
                .chunks(BLOCK)
                .filter(|block| is_pattern(i, block))
                .count();
            assert_eq!(copies, 1, "of append {i}");
        }
        context.close().await;
    }
}

#[tokio::test]
async fn nowait_on_an_extending_write_is_eagain_and_writes_nothing() {
    let dir = common::on_disk();
    common::write_patterned(&dir.path().join("data"), 1);
    let (context, handle) = aio_context(4, true).unwrap();
    let file = open_rw(&dir, "data").await;
    for flags in [WriteFlags::NOWAIT, WriteFlags::NOWAIT | WriteFlags::APPEND] {
        let bytes = patterned(7, BLOCK);
        match file.write_at(&handle, LEN, &bytes, LEN, flags).await {
            Err(error @ AioCommandError::IoSubmit(_))
                if error.raw_os_error() == Some(libc::EOPNOTSUPP) =>
            {
                eprintln!("skipped: NOWAIT is not for the file system of the build");
                return;
            }
            Err(error @ AioCommandError::BadResult(_)) => {
                assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
            }
            other => panic!("{other:?}"),
        }
    }
    let written = fs::read(dir.path().join("data")).unwrap();
    assert!(is_pattern(0, &written), "it is as it was");
    // Without it the same write goes through.
    let bytes = patterned(1, BLOCK);
    assert_eq!(
        file.write_at(&handle, LEN, &bytes, LEN, WriteFlags::empty())
            .await
            .unwrap(),
        LEN
    );
    context.close().await;
}

#[tokio::test]
async fn nowait_on_what_is_allocated_is_served_or_eagain() {
    let dir = common::on_disk();
    common::write_patterned(&dir.path().join("data"), 8);
    let (context, handle) = aio_context(4, true).unwrap();
    let file = open_rw(&dir, "data").await;
    for i in 0..8 {
        let mut bytes = buffer(BLOCK);
        match file
            .read_at(&handle, i * LEN, &mut bytes, LEN, ReadFlags::NOWAIT)
            .await
        {
            Ok(read) => assert!(read == LEN && is_pattern(i, bytes.as_ref())),
            Err(error) => {
                let allowed = [Some(libc::EAGAIN), Some(libc::EOPNOTSUPP)];
                assert!(allowed.contains(&error.raw_os_error()), "{error:?}");
            }
        }
    }
    context.close().await;
}

#[tokio::test]
async fn nowait_where_the_file_system_can_not_promise_it_is_eopnotsupp() {
    let Some(dir) = common::on_tmpfs() else {
        return;
    };
    let (context, handle) = aio_context(4, true).unwrap();
    let file = open_rw(&dir, "data").await;
    let mut bytes = patterned(7, BLOCK);
    let writing = file
        .write_at(&handle, 0, &bytes, LEN, WriteFlags::NOWAIT)
        .await;
    let reading = file
        .read_at(&handle, 0, &mut bytes, LEN, ReadFlags::NOWAIT)
        .await;
    if writing.is_ok() {
        eprintln!("skipped: this kernel's tmpfs can do NOWAIT");
        return;
    }
    assert_eq!(refused_errno(writing), Some(libc::EOPNOTSUPP));
    assert_eq!(refused_errno(reading), Some(libc::EOPNOTSUPP));
    assert!(is_pattern(7, bytes.as_ref()), "the buffer is as it was");
    assert_eq!(fs::read(dir.path().join("data")).unwrap().len(), 0);
    context.close().await;
}

#[tokio::test]
async fn bits_that_no_kernel_knows_are_eopnotsupp() {
    // The highest of 32 bits and all above it do not even fit the request.
    let mut unknown = vec![1 << 29, 1 << 30, -1, isize::MIN, isize::MAX];
    unknown.extend((31..isize::BITS - 1).map(|bit| 1_isize << bit));
    for dir in common::everywhere() {
        common::write_patterned(&dir.path().join("data"), 1);
        let (context, handle) = aio_context(4, true).unwrap();
        let file = open_rw(&dir, "data").await;
        let mut bytes = patterned(7, BLOCK);
        for &bits in &unknown {
            let flags = WriteFlags::from_bits_retain(bits);
            let writing = file.write_at(&handle, 0, &bytes, LEN, flags).await;
            assert_eq!(
                refused_errno(writing),
                Some(libc::EOPNOTSUPP),
                "write with {bits:#x}"
            );
            let both = WriteFlags::from_bits_retain(bits) | WriteFlags::DSYNC;
            let writing = file.write_at(&handle, 0, &bytes, LEN, both).await;
            assert_eq!(
                refused_errno(writing),
                Some(libc::EOPNOTSUPP),
                "write with {bits:#x}"
            );
            let flags = ReadFlags::from_bits_retain(bits);
            let reading = file.read_at(&handle, 0, &mut bytes, LEN, flags).await;
            assert_eq!(
                refused_errno(reading),
                Some(libc::EOPNOTSUPP),
                "read with {bits:#x}"
            );
            let offset = 0;
            let command = RawCommand::Pread {
                offset,
                buffer: &mut bytes,
                flags,
                len: LEN,
            };
            let reading = handle.submit_request(&file, command).await;
            assert_eq!(
                refused_errno(reading),
                Some(libc::EOPNOTSUPP),
                "read with {bits:#x}"
            );
        }
        assert!(is_pattern(7, bytes.as_ref()), "the buffer is as it was");
        assert!(
            is_pattern(0, &fs::read(dir.path().join("data")).unwrap()),
            "and the file"
        );
        assert_eq!(handle.available_slots(), Some(4));
        let read = file
            .read_at(&handle, 0, &mut bytes, LEN, ReadFlags::empty())
            .await;
        assert_eq!(read.unwrap(), LEN);
        context.close().await;
    }
}

#[tokio::test]
async fn a_bit_without_a_name_here_reaches_the_kernel() {
    let dir = common::on_disk();
    common::write_patterned(&dir.path().join("data"), 2);
    let (context, handle) = aio_context(4, true).unwrap();
    let mut options = OpenOptions::new();
    options.read(true).append(true);
    let file = options
        .aio_open(dir.path().join("data"), false)
        .await
        .unwrap();
    let bytes = patterned(2, BLOCK);
    file.write_at(&handle, 0, &bytes, LEN, WriteFlags::empty())
        .await
        .unwrap();
    let here = patterned(9, BLOCK);
    let no_append = WriteFlags::from_bits_retain(NOAPPEND);
    match file.write_at(&handle, 0, &here, LEN, no_append).await {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            eprintln!("skipped: this kernel has no RWF_NOAPPEND");
            return;
        }
        written => assert_eq!(written.unwrap(), LEN),
    }
    let written = fs::read(dir.path().join("data")).unwrap();
    let found: Vec<bool> = [9, 1, 2]
        .into_iter()
        .zip(written.chunks(BLOCK))
        .map(|(i, b)| is_pattern(i, b))
        .collect();
    assert_eq!((found, written.len()), (vec![true; 3], 3 * BLOCK));
    context.close().await;
}

#[tokio::test]
async fn durable_and_high_priority_operations_move_their_data() {
    for dir in common::everywhere() {
        let (context, handle) = aio_context(4, true).unwrap();
        let file = open_rw(&dir, "data").await;
        let all = [
            WriteFlags::DSYNC,
            WriteFlags::SYNC,
            WriteFlags::DSYNC | WriteFlags::SYNC,
            WriteFlags::HIPRI,
            WriteFlags::HIPRI | WriteFlags::SYNC,
        ];
        for (i, flags) in (0..).zip(all) {
            let mut bytes = patterned(i, BLOCK);
            let written = file.write_at(&handle, i * LEN, &bytes, LEN, flags).await;
            assert_eq!(written.unwrap(), LEN, "{flags:?}");
            bytes.as_mut().fill(0);
            let read = file
                .read_at(&handle, i * LEN, &mut bytes, LEN, ReadFlags::HIPRI)
                .await;
            assert_eq!(read.unwrap(), LEN);
            assert!(is_pattern(i, bytes.as_ref()), "{flags:?}");
        }
        context.close().await;
    }
}

#[tokio::test]
async fn flags_are_those_of_their_own_request_within_a_batch() {
    for dir in common::everywhere() {
        common::write_patterned(&dir.path().join("data"), 4);
        let (context, handle) = aio_context(32, true).unwrap();
        let file: File = open_rw(&dir, "data").await;
        for _wave in 0..3 {
            let before = file.metadata().await.unwrap().len();
            let writes = (0..20_u64).map(|i| {
                let (file, handle) = (&file, &handle);
                async move {
                    let flags = match i % 4 {
                        0 => WriteFlags::APPEND,
                        1 => WriteFlags::DSYNC,
                        2 => WriteFlags::from_bits_retain(1 << 30),
                        _ => WriteFlags::empty(),
                    };
                    let bytes = patterned(i % 4, BLOCK);
                    let written = file
                        .write_at(handle, (i % 4) * LEN, &bytes, LEN, flags)
                        .await;
                    if i % 4 == 2 {
                        assert_eq!(refused_errno(written), Some(libc::EOPNOTSUPP));
                    } else {
                        assert_eq!(written.unwrap(), LEN);
                    }
                }
            });
            join_all(writes).await;
            let after = file.metadata().await.unwrap().len();
            assert_eq!(
                after,
                before + 5 * LEN,
                "five appends, and nothing else that grows it"
            );
        }
        let written = fs::read(dir.path().join("data")).unwrap();
        assert!(
            (0..4)
                .zip(written.chunks(BLOCK))
                .all(|(i, block)| is_pattern(i, block))
        );
        assert!(
            written[4 * BLOCK..]
                .chunks(BLOCK)
                .all(|block| is_pattern(0, block))
        );
        context.close().await;
    }
}
