//! Time limits, cancellation and groups on a simulated disk.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_kaio::simulation::{Fault, Latency, Operations, SimDisk};
use tokio_kaio::{AioCommandError, AioContextBuilder, IoGroup, ReadFlags, WriteFlags, sync_dir};

use crate::support::{BLOCK, Simulated, blocks, open};

/// A disk whose requests take an hour.
fn slow() -> SimDisk {
    let hour = || Latency::constant(Duration::from_secs(3600));
    SimDisk::builder()
        .read_latency(hour())
        .write_latency(hour())
        .build()
}

#[tokio::test(start_paused = true)]
async fn a_request_that_takes_an_hour_takes_no_time_and_times_out_at_its_limit() {
    let simulated = Simulated::on(slow());
    let file = open(&simulated.disk, "file").await.unwrap();
    let start = Instant::now();
    let buffer = blocks(1, 1);
    let limited = simulated.handle.with_timeout(Duration::from_secs(60));
    let write = file
        .write_at(&limited, 0, &buffer, BLOCK, WriteFlags::empty())
        .await;
    assert!(matches!(write, Err(AioCommandError::TimedOut)), "{write:?}");
    assert_eq!(start.elapsed(), Duration::from_secs(60));
    file.drain(&simulated.handle).await; // the write goes on
    assert_eq!(start.elapsed(), Duration::from_secs(3600));
    assert_eq!(file.metadata().await.unwrap().len(), BLOCK);
    simulated.context.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_read_that_is_dropped_is_cancelled_and_its_slot_is_free() {
    let disk = slow();
    let (context, handle) = AioContextBuilder::new(1).simulated(&disk).build().unwrap();
    let file = open(&disk, "file").await.unwrap();
    file.set_len(BLOCK).await.unwrap();
    let start = Instant::now();
    for _ in 0..10 {
        let mut buffer = blocks(1, 1);
        let read = file.read_at(&handle, 0, &mut buffer, BLOCK, ReadFlags::empty());
        assert!(timeout(Duration::from_secs(1), read).await.is_err());
    }
    context.close().await;
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "the reads were not waited for"
    );
}

#[tokio::test(start_paused = true)]
async fn a_closed_context_waits_for_a_write_on_the_clock_of_the_runtime() {
    let simulated = Simulated::on(slow());
    let file = open(&simulated.disk, "file").await.unwrap();
    let buffer = blocks(1, 1);
    let write = file.write_at(&simulated.handle, 0, &buffer, BLOCK, WriteFlags::empty());
    assert!(timeout(Duration::from_secs(1), write).await.is_err());
    let start = Instant::now();
    let early = simulated
        .context
        .close_timeout(Duration::from_secs(10))
        .await;
    assert!(early.is_err());
    assert_eq!(start.elapsed(), Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_group_keeps_its_limit_for_a_simulated_hour() {
    let simulated = Simulated::new(1);
    let file = open(&simulated.disk, "file").await.unwrap();
    let group = IoGroup::new("slow").with_max_bandwidth(BLOCK);
    let handle = simulated.handle.with_group(&group);
    let start = Instant::now();
    for index in 0..3600 {
        let buffer = blocks(1, 1);
        let write = file.write_at(
            &handle,
            index % 10 * BLOCK,
            &buffer,
            BLOCK,
            WriteFlags::empty(),
        );
        write.await.unwrap();
    }
    let hours = start.elapsed().as_secs_f64() / 3600.0;
    assert!((0.95..1.05).contains(&hours), "{hours} simulated hours");
}

#[tokio::test(start_paused = true)]
async fn a_delay_beyond_the_clock_is_for_ever() {
    let of = Simulated::new(1);
    let file = of.file("file").await;
    let beyond = Duration::from_secs(u64::MAX / 2);
    of.disk
        .add_fault(Fault::slow(Operations::READ | Operations::SYNC_DIR, beyond).at_most(2));
    let mut buffer = blocks(0, 1);
    let read = file.read_at(&of.handle, 0, &mut buffer, BLOCK, ReadFlags::empty());
    let hour = Duration::from_secs(3600);
    assert!(tokio::time::timeout(hour, read).await.is_err());
    let synced = tokio::time::timeout(hour, sync_dir(of.disk.path())).await;
    assert!(synced.is_err());
}
