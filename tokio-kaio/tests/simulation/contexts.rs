//! Every kind of context and of runtime on a simulated disk.

use std::time::Duration;

use tokio::runtime::Builder;
use tokio::task::LocalSet;
use tokio_kaio::simulation::SimDisk;
use tokio_kaio::{
    AioContextBuilder, AioContextError, AioContextHandle, Backend, File, GenericAioContextHandle,
    ReadFlags, SyncRequestAdapter, WriteFlags,
};

use crate::support::{BLOCK, Simulated, blocks, open};

/// Writes and reads a file of eight blocks, all at once.
async fn write_and_read<M, A, L>(disk: &SimDisk, handle: &GenericAioContextHandle<M, A, L>)
where
    M: lock_api::RawMutex,
{
    let file = open(disk, "file").await.unwrap();
    let writes = (0..8).map(|index| {
        let file = &file;
        async move {
            let buffer = blocks(index + 1, 1);
            let offset = u64::from(index) * BLOCK;
            file.write_at(handle, offset, &buffer, BLOCK, WriteFlags::empty())
                .await
                .unwrap()
        }
    });
    assert_eq!(futures::future::join_all(writes).await, [BLOCK; 8]);
    file.sync_data(handle).await.unwrap();
    let mut bytes = vec![0; 8 * BLOCK as usize];
    file.read_bytes_at(handle, 0, &mut bytes, ReadFlags::empty())
        .await
        .unwrap();
    for (index, block) in bytes.chunks(BLOCK as usize).enumerate() {
        assert!(
            block.iter().all(|&byte| byte == index as u8 + 1),
            "block {index}"
        );
    }
}

#[test]
fn a_context_works_on_runtimes_with_one_and_with_several_threads() {
    let current = Builder::new_current_thread().enable_time().build().unwrap();
    let several = Builder::new_multi_thread()
        .worker_threads(3)
        .enable_time()
        .build()
        .unwrap();
    for runtime in [current, several] {
        runtime.block_on(async {
            let simulated = Simulated::new(1);
            assert_eq!(simulated.context.backend(), Backend::Simulated);
            assert_eq!(simulated.handle.backend().to_string(), "the simulated disk");
            let tasks = (0..4).map(|index| {
                let (disk, handle) = (simulated.disk.clone(), simulated.handle.clone());
                tokio::spawn(async move {
                    let file = open(&disk, &format!("file-{index}")).await.unwrap();
                    for block in 0..50 {
                        let buffer = blocks(index, 1);
                        let write = file.write_at(
                            &handle,
                            block * BLOCK,
                            &buffer,
                            BLOCK,
                            WriteFlags::empty(),
                        );
                        assert_eq!(write.await.unwrap(), BLOCK);
                    }
                    file.sync_all(&handle).await.unwrap();
                    assert_eq!(file.metadata().await.unwrap().len(), 50 * BLOCK);
                })
            });
            for task in tasks.collect::<Vec<_>>() {
                task.await.unwrap();
            }
            write_and_read(&simulated.disk, &simulated.handle).await;
            simulated.context.close().await;
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_local_context_works_on_a_local_set() {
    let disk = SimDisk::builder().build();
    let set = LocalSet::new();
    let run = set.run_until(async {
        let builder = AioContextBuilder::new(8).simulated(&disk);
        let (context, handle, driver) = builder.build_local().unwrap();
        let driver = tokio::task::spawn_local(driver);
        write_and_read(&disk, &handle).await;
        context.close().await;
        driver.await.unwrap().unwrap();
    });
    run.await;
}

#[tokio::test(start_paused = true)]
async fn a_generic_context_works_with_its_driver_in_a_task() {
    let disk = SimDisk::builder().build();
    let builder = AioContextBuilder::new(8).simulated(&disk);
    let (context, handle, driver) = builder
        .build_generic::<parking_lot::RawMutex, SyncRequestAdapter, _>()
        .unwrap();
    let driver = tokio::spawn(driver);
    write_and_read(&disk, &handle).await;
    context.close().await;
    driver.await.unwrap().unwrap();
}

#[test]
fn a_context_with_its_own_thread_needs_no_runtime() {
    let disk = SimDisk::builder().build();
    let builder = AioContextBuilder::new(8).simulated(&disk).own_thread();
    let (context, handle) = builder.build().unwrap();
    let file = File::create_blocking(disk.path().join("file"), false).unwrap();
    let buffer = blocks(1, 1);
    let write = file.write_at(&handle, 0, &buffer, BLOCK, WriteFlags::DSYNC);
    assert_eq!(futures::executor::block_on(write).unwrap(), BLOCK);
    futures::executor::block_on(context.close());
}

#[tokio::test(start_paused = true)]
async fn a_detached_context_ends_with_its_last_handle() {
    let disk = SimDisk::builder().build();
    let handle: AioContextHandle = AioContextBuilder::new(8)
        .simulated(&disk)
        .build_detached()
        .unwrap();
    write_and_read(&disk, &handle).await;
    drop(handle);
}

#[tokio::test(start_paused = true)]
async fn several_contexts_share_a_disk_and_a_context_has_one_shard() {
    let disk = SimDisk::builder().build();
    let (one, first) = AioContextBuilder::new(8)
        .shards(4)
        .simulated(&disk)
        .build()
        .unwrap();
    let (other, second) = AioContextBuilder::new(8).simulated(&disk).build().unwrap();
    let file = open(&disk, "file").await.unwrap();
    let buffer = blocks(3, 1);
    file.write_at(&first, 0, &buffer, BLOCK, WriteFlags::empty())
        .await
        .unwrap();
    let mut byte = [0];
    file.read_bytes_at(&second, 100, &mut byte, ReadFlags::empty())
        .await
        .unwrap();
    assert_eq!(byte, [3]);
    one.close().await;
    other.close().await;
}

#[test]
fn a_context_outside_a_runtime_is_an_error_that_says_so() {
    let disk = SimDisk::builder().build();
    let error = AioContextBuilder::new(8)
        .simulated(&disk)
        .build()
        .unwrap_err();
    assert!(matches!(error, AioContextError::IoSetup(_)));
    assert!(error.to_string().contains("no tokio runtime"), "{error}");
}

#[tokio::test]
async fn a_context_with_no_slot_or_without_its_disk_is_refused() {
    let disk = SimDisk::builder().build();
    let none = AioContextBuilder::new(0)
        .simulated(&disk)
        .build()
        .unwrap_err();
    assert_eq!(none.raw_os_error(), Some(libc::EINVAL));
    if cfg!(not(any(kaio_force_threads, kaio_force_uring))) {
        let no_disk = AioContextBuilder::new(8)
            .backend(Backend::Simulated)
            .build();
        let error = no_disk.unwrap_err().to_string();
        assert!(error.contains("AioContextBuilder::simulated"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_context_is_closed_with_abandoned_requests_and_dropped_with_requests_in_flight() {
    let simulated = Simulated::new(1);
    let file = simulated.file("file").await;
    let buffer = blocks(1, 1);
    let write = file.write_at(&simulated.handle, 0, &buffer, BLOCK, WriteFlags::empty());
    assert!(tokio::time::timeout(Duration::ZERO, write).await.is_err());
    simulated.context.close().await;
    let (context, handle) = AioContextBuilder::new(8)
        .simulated(&simulated.disk)
        .build()
        .unwrap();
    let mut write = Box::pin(file.write_at(&handle, 0, &buffer, BLOCK, WriteFlags::empty()));
    assert!(futures::poll!(&mut write).is_pending());
    drop(context);
    let _ = write.await; // completes, or the context has stopped
    handle.closed().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_happens_on_a_thread_of_the_blocking_pool() {
    let blocking_threads = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let simulated = Simulated::new(1);
    let before = blocking_threads();
    write_and_read(&simulated.disk, &simulated.handle).await;
    assert_eq!(simulated.handle.metrics().offloads, 0);
    assert_eq!(blocking_threads(), before);
}
