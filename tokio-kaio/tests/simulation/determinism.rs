//! The same program and the same seed: the same trace.

use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::Instant;
use tokio_kaio::simulation::{Latency, SimDisk};
use tokio_kaio::{
    AioContextBuilder, IoGroup, PublishMode, ReadFlags, StagedFileBuilder, WriteFlags, create_dir,
    remove_file, rename, sync_dir,
};

use crate::support::{BLOCK, blocks, open};

/// What a run has done: the trace, its hash, and the time that it has taken.
#[derive(Debug, PartialEq)]
struct Run {
    trace: String,
    hash: u64,
    took: Duration,
}

/// Runs a workload that uses much of the API, with several tasks.
fn run(seed: u64) -> Run {
    let disk = SimDisk::builder().seed(seed).build();
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let took = runtime.block_on(async {
        let start = Instant::now();
        let (context, handle) = AioContextBuilder::new(16).simulated(&disk).build().unwrap();
        let slow = IoGroup::new("slow").with_weight(10);
        let tasks = (0..6_u8).map(|task| {
            let disk = disk.clone();
            let handle = match task % 2 {
                0 => handle.clone(),
                _ => handle.with_group(&slow),
            };
            tokio::spawn(async move {
                let dir = disk.path().join(format!("task-{task}"));
                create_dir(&dir).await.unwrap();
                let file = open(&disk, &format!("task-{task}/log")).await.unwrap();
                for round in 0..20 {
                    let buffer = blocks(round, 1);
                    let offset = u64::from(round) * BLOCK;
                    let flags = match round % 3 {
                        0 => WriteFlags::DSYNC,
                        _ => WriteFlags::empty(),
                    };
                    file.write_at(&handle, offset, &buffer, BLOCK, flags)
                        .await
                        .unwrap();
                    let mut few = [0; 100];
                    let limited = handle.with_timeout(Duration::from_millis(1));
                    let _ = file
                        .read_bytes_at(&limited, offset + 7, &mut few, ReadFlags::empty())
                        .await;
                    file.write_bytes_at(&handle, offset + 100, b"unaligned", WriteFlags::empty())
                        .await
                        .unwrap();
                }
                file.sync_all(&handle).await.unwrap();
                let staged = StagedFileBuilder::new(dir.join("state"))
                    .sync(true)
                    .create();
                let staged = staged.await.unwrap();
                staged
                    .file()
                    .write_bytes_at(&handle, 0, b"state", WriteFlags::empty())
                    .await
                    .unwrap();
                staged.publish(PublishMode::Replace).await.unwrap();
                rename(dir.join("log"), dir.join("old")).await.unwrap();
                sync_dir(&dir).await.unwrap();
                remove_file(dir.join("old")).await.unwrap();
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        context.close().await;
        start.elapsed()
    });
    Run {
        trace: disk.trace().to_string(),
        hash: disk.trace_hash(),
        took,
    }
}

#[test]
fn two_runs_with_a_seed_have_the_same_trace_to_the_byte() {
    let first = run(42);
    println!("trace hash: {:016x}", first.hash);
    assert!(first.trace.lines().count() > 300, "{}", first.trace);
    for _ in 0..5 {
        let again = run(42);
        assert_eq!(again, first);
    }
    assert!(
        !first.trace.contains("simulated-disk"),
        "the number of the disk is in no trace"
    );
}

#[test]
fn runs_in_parallel_threads_do_not_disturb_each_other() {
    let expected = run(7);
    let threads: Vec<_> = (0..3).map(|_| std::thread::spawn(|| run(7))).collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), expected);
    }
}

#[test]
fn another_seed_gives_another_trace() {
    assert_ne!(run(1).hash, run(2).hash);
}

#[tokio::test(start_paused = true)]
async fn requests_take_the_time_of_the_disk_on_the_clock_of_the_runtime() {
    let latency = Latency::constant(Duration::from_millis(5));
    let disk = SimDisk::builder().read_latency(latency).build();
    let (_context, handle) = AioContextBuilder::new(8).simulated(&disk).build().unwrap();
    let file = open(&disk, "file").await.unwrap();
    file.set_len(BLOCK).await.unwrap();
    let start = Instant::now();
    for _ in 0..100 {
        let mut buffer = blocks(1, 1);
        file.read_at(&handle, 0, &mut buffer, BLOCK, ReadFlags::empty())
            .await
            .unwrap();
    }
    assert_eq!(start.elapsed(), Duration::from_millis(500));
}
