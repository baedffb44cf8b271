//! Disks, contexts, files and requests that outlive each other.

use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio_kaio::simulation::{Fault, Latency, Operations, SimDisk};
use tokio_kaio::{ReadFlags, WriteFlags, sync_dir};

use crate::support::{BLOCK, Simulated, blocks, errno, open};

#[test]
fn a_power_cut_by_another_thread_ends_all_requests_of_a_multi_thread_runtime() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    for seed in 0..20 {
        let instant = Latency::constant(Duration::ZERO);
        let builder = SimDisk::builder().seed(seed).write_latency(instant);
        let disk = builder.build();
        disk.add_fault(Fault::stuck(Operations::WRITE).rate(0.02));
        let cutter = disk.clone();
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for task in 0..8 {
                let of = Simulated::on(disk.clone());
                tasks.spawn(async move {
                    let file = open(&of.disk, &format!("file-{task}")).await?;
                    let buffer = blocks(task, 1);
                    loop {
                        let write =
                            file.write_at(&of.handle, 0, &buffer, BLOCK, WriteFlags::empty());
                        if let Err(error) = write.await {
                            assert_eq!(error.raw_os_error(), Some(libc::EIO));
                            of.context.close().await;
                            return std::io::Result::Ok(());
                        }
                    }
                });
            }
            let cut = thread::spawn(move || {
                thread::sleep(Duration::from_millis(5));
                cutter.power_cut()
            });
            while let Some(ended) = tasks.join_next().await {
                // A file that was opened after the cut fails with EIO.
                let _ = ended.unwrap();
            }
            cut.join().unwrap();
        });
        assert!(disk.image().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_context_and_a_file_outlive_the_disk_that_the_program_has_dropped() {
    let Simulated {
        disk,
        context,
        handle,
    } = Simulated::new(1);
    let file = open(&disk, "file").await.unwrap();
    let path = disk.path().to_owned();
    drop(disk);
    let write = file.write_bytes_at(&handle, 0, b"kept", WriteFlags::DSYNC);
    write.await.unwrap();
    sync_dir(&path).await.unwrap(); // the context has the disk
    context.close().await;
    drop((file, handle));
    tokio::time::sleep(Duration::from_millis(1)).await; // the tasks of the context end
    assert_eq!(
        sync_dir(&path).await.unwrap_err().kind(),
        std::io::ErrorKind::NotFound
    );
}

#[test]
fn a_file_outlives_the_runtime_that_had_its_requests_in_flight() {
    let disk = SimDisk::builder().seed(1).build();
    disk.add_fault(Fault::stuck(Operations::WRITE | Operations::READ).at_most(2));
    let paused = || {
        let mut builder = Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap()
    };
    let file = paused().block_on(async {
        let of = Simulated::on(disk.clone());
        let file = open(&disk, "file").await.unwrap();
        for task in 0..2_u8 {
            let (file, handle) = (file.clone(), of.handle.clone());
            tokio::spawn(async move {
                let mut buffer = blocks(task, 1);
                match task {
                    0 => {
                        file.write_at(&handle, 0, &buffer, BLOCK, WriteFlags::empty())
                            .await
                    }
                    _ => {
                        file.read_at(&handle, 0, &mut buffer, BLOCK, ReadFlags::empty())
                            .await
                    }
                }
            });
        }
        tokio::time::sleep(Duration::from_secs(1)).await; // they are in flight
        file
    });
    paused().block_on(async {
        let of = Simulated::on(disk.clone());
        let threes = blocks(3, 1);
        let write = file.write_at(&of.handle, 0, &threes, BLOCK, WriteFlags::DSYNC);
        assert_eq!(write.await.unwrap(), BLOCK);
        file.drain(&of.handle).await;
        disk.power_cut();
        let after = file.write_at(&of.handle, 0, &threes, BLOCK, WriteFlags::DSYNC);
        assert_eq!(errno(after.await), libc::EIO);
    });
}

#[tokio::test(start_paused = true)]
async fn memory_of_dropped_reads_is_not_written_after_they_have_ended() {
    let of = Simulated::new(1);
    let file = of.file("file").await;
    let ones = blocks(1, 4);
    file.write_at(&of.handle, 0, &ones, 4 * BLOCK, WriteFlags::empty())
        .await
        .unwrap();
    for round in 0..100_u64 {
        let mut buffer = blocks(0, 4);
        let read = file.read_at(&of.handle, 0, &mut buffer, 4 * BLOCK, ReadFlags::empty());
        let limit = Duration::from_micros(round * 10);
        if tokio::time::timeout(limit, read).await.is_err() {
            drop(buffer);
            let reused = blocks(2, 4); // perhaps the same memory
            tokio::time::sleep(Duration::from_millis(5)).await;
            assert!(reused.iter().all(|&byte| byte == 2));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_read_and_a_stuck_write_end_with_the_power_and_their_context_closes() {
    let of = Simulated::new(1);
    let file = of.file("file").await;
    of.disk
        .add_fault(Fault::stuck(Operations::READ | Operations::WRITE));
    let mut unread = blocks(1, 1);
    let ones = blocks(1, 1);
    let mut read = Box::pin(file.read_at(&of.handle, 0, &mut unread, BLOCK, ReadFlags::empty()));
    assert!(futures::poll!(&mut read).is_pending());
    std::mem::forget(read);
    let mut write = Box::pin(file.write_at(&of.handle, 0, &ones, BLOCK, WriteFlags::DSYNC));
    assert!(futures::poll!(&mut write).is_pending());
    drop(write);
    drop(ones);
    let mut closed = Box::pin(of.context.close());
    let hour = Duration::from_secs(3600);
    assert!(
        tokio::time::timeout(hour, &mut closed).await.is_err(),
        "a stuck write is in flight"
    );
    let cutter = of.disk.clone();
    thread::spawn(move || cutter.power_cut()).join().unwrap();
    closed.await;
}
