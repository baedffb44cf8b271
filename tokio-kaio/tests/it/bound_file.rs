//! `BoundFile`: a file with the handle of the context that runs its operations.

use std::fmt::Debug;
use std::sync::Arc;

use crate::common::*;
use tokio::time::Instant;
use tokio_kaio::{
    AioCommandError, AioContextBuilder, AlignedBuf, BoundFile, File, IoPriority, ReadFlags,
    WriteFlags, local_aio_context,
};

const R: ReadFlags = ReadFlags::empty();
const W: WriteFlags = WriteFlags::empty();

#[test]
fn it_has_every_operation_of_the_file_with_the_same_result() {
    Fixture::new(4).everywhere().blocks(4).run(async |case| {
        let bound = case.file.with_handle(&case.handle);
        let mut bytes = buffer(2 * BLOCK);
        assert_eq!(bound.read_at(LEN, &mut bytes, LEN, R).await.unwrap(), LEN);
        assert!(is_pattern(1, &bytes[..BLOCK]));
        bound
            .read_exact_at(2 * LEN, &mut bytes, LEN, R)
            .await
            .unwrap();
        assert!(is_pattern(2, &bytes[..BLOCK]));
        let full = bound.read_full_at(3 * LEN, &mut bytes, 2 * LEN, R).await;
        assert_eq!(full.unwrap(), LEN, "the file ends there");
        assert!(is_pattern(3, &bytes[..BLOCK]));
        let parts = &mut [bytes.part_mut(..)];
        let vectored = bound.read_vectored_at(0, parts, R).await;
        assert_eq!(vectored.unwrap(), 2 * LEN);
        assert!(is_pattern(0, &bytes[..BLOCK]) && is_pattern(1, &bytes[BLOCK..]));

        let (read, owned) = bound.read_owned_at(LEN, buffer(BLOCK), R).await;
        assert!(read.unwrap() == LEN && is_pattern(1, &owned));
        let (read, owned) = bound.read_exact_owned_at(2 * LEN, owned, R).await;
        read.unwrap();
        assert!(is_pattern(2, &owned));
        let (read, owned) = bound.read_full_owned_at(3 * LEN, owned, R).await;
        assert!(read.unwrap() == LEN && is_pattern(3, &owned));
        let buffers = vec![owned, buffer(BLOCK)];
        let (read, buffers) = bound.read_vectored_owned_at(0, buffers, R).await;
        assert!(read.unwrap() == 2 * LEN && is_pattern(1, &buffers[1]));

        let seven = patterned_buffer(7, BLOCK);
        assert_eq!(bound.write_at(0, &seven, LEN, W).await.unwrap(), LEN);
        bound.write_all_at(LEN, &seven, LEN, W).await.unwrap();
        let parts = &[seven.part(..)];
        let vectored = bound.write_vectored_at(2 * LEN, parts, W).await;
        assert_eq!(vectored.unwrap(), LEN);
        let (written, seven) = bound.write_owned_at(3 * LEN, seven, W).await;
        assert_eq!(written.unwrap(), LEN);
        let (written, seven) = bound.write_all_owned_at(4 * LEN, seven, W).await;
        written.unwrap();
        let (written, _) = bound.write_vectored_owned_at(5 * LEN, vec![seven], W).await;
        assert_eq!(written.unwrap(), LEN);
        bound
            .write_bytes_at(6 * LEN + 3, b"hello", W)
            .await
            .unwrap();
        bound.sync_data().await.unwrap();
        bound.sync_all().await.unwrap();
        bound.drain().await;
        let mut hello = [0; 5];
        let read = bound.read_bytes_at(6 * LEN + 3, &mut hello, R).await;
        assert!(read.unwrap() == 5 && &hello == b"hello");
        let content = file_content(case.dir);
        assert_eq!(content.len(), 6 * BLOCK + 8);
        let blocks = content[..6 * BLOCK].chunks(BLOCK);
        assert!(blocks.into_iter().all(|block| is_pattern(7, block)));
    });
}

#[tokio::test]
async fn a_clone_keeps_file_and_context_and_moves_to_another_task() {
    fn sendable<T: Send + Sync + Clone + Debug + 'static>(value: T) -> T {
        value
    }
    let dir = disk_dir();
    let file = patterned_file(&dir, 2).await;
    let handle = AioContextBuilder::new(4).build_detached().unwrap();
    let bound: BoundFile = sendable(file.with_handle(&handle));
    drop((file, handle));
    let task = {
        let bound = bound.clone();
        tokio::spawn(async move {
            let mut bytes = buffer(BLOCK);
            let read = bound.read_exact_at(LEN, &mut bytes, LEN, R);
            with_hang_guard(read).await.unwrap();
            assert!(is_pattern(1, &bytes));
        })
    };
    task.await.unwrap();
    let (file, handle) = bound.into_parts();
    assert_eq!(file.metadata().await.unwrap().len(), 2 * LEN);
    with_hang_guard(handle.closed()).await;
}

#[tokio::test]
async fn a_deadline_or_a_priority_applies_to_the_returned_file_only() {
    let dir = disk_dir();
    let file = patterned_file(&dir, 1).await;
    let handle = AioContextBuilder::new(4).build_detached().unwrap();
    let bound = file.with_handle(&handle);
    let mut bytes = buffer(BLOCK);
    let late = {
        let bound = bound.with_deadline(Instant::now());
        bound.read_at(0, &mut bytes, LEN, R).await
    };
    assert!(matches!(late, Err(AioCommandError::TimedOut)), "{late:?}");
    let others = [
        bound.clone(),
        bound.with_timeout(HANG),
        bound.with_priority(IoPriority::idle()),
    ];
    for bound in others {
        let read = with_hang_guard(bound.read_at(0, &mut bytes, LEN, R)).await;
        assert_eq!(read.unwrap(), LEN);
    }
    assert_eq!(bound.handle().metrics().completed, 3);
    with_hang_guard(async {
        drop(bound);
        handle.closed().await;
    })
    .await;
}

#[tokio::test]
async fn it_works_with_the_handle_of_a_local_context() {
    let dir = disk_dir();
    let file = patterned_file(&dir, 1).await;
    let (context, handle, background) = local_aio_context(2, true).unwrap();
    let bound = file.with_handle(&handle);
    let mut bytes: AlignedBuf = buffer(BLOCK);
    let read = with_hang_guard(bound.read_at(0, &mut bytes, LEN, R)).await;
    assert_eq!(read.unwrap(), LEN);
    assert!(is_pattern(0, &bytes));
    drop(context);
    with_hang_guard(background).await.unwrap();
}

#[tokio::test]
async fn any_type_of_path_opens_a_file() {
    let dir = disk_dir();
    let path = dir.path().join("data");
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true);
    let text = path.to_str().unwrap();
    let opened: [File; 5] = [
        File::open_with(&options, &path, false).await.unwrap(),
        File::open_with(&options, path.as_path(), true)
            .await
            .unwrap(),
        File::open_with(&options, path.clone(), false)
            .await
            .unwrap(),
        File::open_with(&options, text, false).await.unwrap(),
        File::open_with(&options, text.to_string(), false)
            .await
            .unwrap(),
    ];
    assert!(opened.iter().all(File::is_direct));
    let shared = Arc::new(opened);
    assert_eq!(shared[0].metadata().await.unwrap().len(), 0);
}
