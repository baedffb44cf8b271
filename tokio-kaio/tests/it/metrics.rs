//! `AioContextHandle::metrics`.

use std::fs;
use std::pin::pin;
use std::time::Duration;

use crate::common::*;
use futures::future::join_all;
use futures::poll;
use tokio_kaio::{
    AioCommandError, AioContextBuilder, AioContextHandle, Backend, File, Metrics, ReadFlags,
    SubmitPolicy, WriteFlags, aio_context,
};

fn events(metrics: &Metrics) -> u64 {
    let reaped = metrics.reaped;
    reaped.after_submit + reaped.by_signal + reaped.by_poll + reaped.by_driver + reaped.otherwise
}

#[tokio::test]
async fn the_counters_of_a_new_context_are_zero() {
    let (context, handle) = aio_context(8, true).unwrap();
    let metrics = handle.metrics();
    let mut nothing = Metrics::default();
    nothing.ring = metrics.ring;
    assert_eq!(metrics, nothing);
    with_hang_guard(context.close()).await;
}

#[tokio::test]
async fn the_text_of_the_counters_has_the_numbers_in_a_few_lines() {
    let mut metrics = Metrics::default();
    let lines = |metrics: &Metrics| {
        let text = metrics.to_string();
        text.lines().map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(
        lines(&metrics),
        [
            "requests: 0 submitted, 0 completed, 0 failed, 0 abandoned",
            "now: 0 queued, 0 in flight, of those 0 abandoned and 0 waiting for a thread",
            "calls: 0, 0 slow there",
            "blocking pool: 0 requests offloaded, 0 after a refused NOWAIT, 0 slow submissions",
            "full: 0 requests found no free slot",
        ]
    );
    (metrics.submitted, metrics.batches) = (2000, 250);
    (metrics.completed, metrics.abandoned) = (1999, 1);
    (metrics.in_flight, metrics.abandoned_in_flight) = (1, 1);
    (metrics.submit_time, metrics.timed_submits) = (Duration::from_micros(8200), 2000);
    metrics.unmatched_completions = 2;
    let text = lines(&metrics);
    assert_eq!(
        text[0],
        "requests: 2000 submitted, 1999 completed, 0 failed, 1 abandoned"
    );
    assert_eq!(
        text[2],
        "calls: 250, with 8.0 requests each, 4.1µs each on the runtime's threads, 0 slow there"
    );
    assert_eq!(text[5], "unmatched: 2 completions of no request");

    let builder = AioContextBuilder::new(2).measure_latency(true);
    let (context, handle) = builder.build().unwrap();
    assert_eq!(lines(&handle.metrics()).len(), 5, "no latency yet");
    let dir = disk_dir();
    let file = patterned_file(&dir, 1).await;
    let mut block = buffer(BLOCK);
    let read = read_block(&handle, &file, 0, &mut block);
    assert_eq!(with_hang_guard(read).await.unwrap(), LEN);
    let text = lines(&handle.metrics());
    assert!(text[5].starts_with("latency: median "), "{text:?}");
    with_hang_guard(context.close()).await;
}

#[tokio::test]
async fn each_request_counts_once_in_every_mode() {
    for dir in test_dirs() {
        let modes = BACKENDS
            .iter()
            .flat_map(|&backend| POLICIES.map(|policy| (backend, policy)));
        for (backend, policy) in modes {
            let (context, handle) = context_in((backend, policy), 16);
            let file = open_rw(&dir, "file").await;
            let block = patterned_buffer(0, BLOCK);
            for wave in 0..4 {
                let writes = join_all((0..16).map(|i| {
                    let offset = (wave * 16 + i) * LEN;
                    file.write_at(&handle, offset, &block, LEN, WriteFlags::empty())
                }));
                for written in with_hang_guard(writes).await {
                    assert_eq!(written.unwrap(), LEN);
                }
            }
            with_hang_guard(file.sync_data(&handle)).await.unwrap();
            // A thread counts its call when it returns, which may be after the completion.
            let counted = || handle.metrics().batch_sizes.iter().sum::<u64>();
            if handle.backend() == Backend::ThreadPool {
                wait_until(|| counted() == 65, counted).await;
            }
            let metrics = handle.metrics();
            let counted = (metrics.submitted, metrics.completed, metrics.failed);
            assert_eq!(counted, (65, 65, 0), "{backend:?}, {policy:?}: {metrics:?}");
            let now = (metrics.queued, metrics.in_flight, metrics.abandoned);
            assert_eq!(now, (0, 0, 0), "{backend:?}, {policy:?}: {metrics:?}");
            assert_eq!(metrics.batches, metrics.batch_sizes.iter().sum::<u64>());
            let refused = events(&metrics) - metrics.completed;
            assert!(refused <= metrics.nowait_refusals, "{metrics:?}");
            assert!(metrics.offloads >= metrics.nowait_refusals, "{metrics:?}");
            match (handle.backend(), policy) {
                (Backend::ThreadPool, _) => {
                    assert_eq!((metrics.offloads, metrics.batches), (65, 65));
                    assert_eq!(metrics.nowait_refusals, 0);
                }
                // The only requests that are offloaded there are writes that extend the file, to be merged.
                (Backend::IoUring, SubmitPolicy::NoWaitFirst) if !cfg!(kaio_plain_policy) => {}
                (backend, policy)
                    if cfg!(kaio_plain_policy)
                        || backend == Backend::IoUring
                        || policy == SubmitPolicy::Inline =>
                {
                    assert_eq!((metrics.offloads, metrics.nowait_refusals), (0, 0));
                    assert!(metrics.timed_submits <= metrics.batches);
                    assert!(metrics.timed_submits > 0 && !metrics.submit_time.is_zero());
                }
                (_, SubmitPolicy::Offload) => {
                    assert_eq!((metrics.offloads, metrics.timed_submits), (65, 0));
                }
                _ => {}
            }
            with_hang_guard(context.close()).await;
            fs::remove_file(dir.path().join("file")).unwrap();
        }
    }
}

/// Makes 32 reads at once. Returns what they have added to the counters.
async fn metrics_of_a_wave(handle: &AioContextHandle, file: &File) -> Metrics {
    let mut buffers: Vec<_> = (0..32).map(|_| buffer(BLOCK)).collect();
    let reads = (0..).zip(&mut buffers);
    let reads = reads.map(|(i, bytes)| read_block(handle, file, i * LEN, bytes));
    let before = handle.metrics();
    join_all(reads).await;
    let wave = handle.metrics().since(&before);
    assert_eq!(wave.submitted, 32);
    wave
}

#[test]
#[cfg_attr(kaio_plain_policy, ignore = "counts batches; Plain defers no request")]
fn batches_are_counted_by_size() {
    Fixture::new(32)
        .inline()
        .build(|builder| builder.max_batch(32))
        .blocks(32)
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            if handle.backend() == Backend::ThreadPool {
                eprintln!("skipped: threads take one request at a time");
                return;
            }
            // Before the background task has run, each request is submitted alone, and some waves
            // are split.
            retry_until(async || {
                let wave = metrics_of_a_wave(&handle, &file).await;
                let in_one = wave.batch_sizes == [0, 0, 0, 0, 0, 1, 0];
                assert!(!in_one || wave.mean_batch() == Some(32.0), "{wave:?}");
                in_one.then_some(())
            })
            .await;
        });
}

#[test]
#[cfg_attr(kaio_plain_policy, ignore = "counts batches; Plain defers no request")]
fn by_default_a_wave_starts_with_a_small_batch_or_is_one_batch() {
    Fixture::new(32).inline().blocks(32).run(async |case| {
        let (file, handle) = (case.file, case.handle);
        if handle.backend() == Backend::ThreadPool {
            eprintln!("skipped: threads take one request at a time");
            return;
        }
        retry_until(async || {
            let wave = metrics_of_a_wave(&handle, &file).await;
            // Where the last submission completed inline, the wave is one batch. Otherwise it starts with
            // two requests, and no batch is larger than the number of requests in flight.
            let in_one = wave.batch_sizes == [0, 0, 0, 0, 0, 1, 0];
            let starts_small = wave.batch_sizes[..2].iter().sum::<u64>() > 0;
            assert!(in_one || starts_small, "{wave:?}");
            // For a device: 2, 2, 4, 8, 16, or smaller ones if some complete meanwhile.
            (in_one || (wave.batches >= 5 && wave.batch_sizes[1] >= 2)).then_some(())
        })
        .await;
    });
}

#[test]
fn failures_at_submission_and_at_completion_are_counted() {
    Fixture::new(4).blocks(1).every_backend().run(async |case| {
        let (file, handle, backend) = (case.file, case.handle, case.mode.0);
        let mut bytes = buffer(BLOCK);
        read_block(&handle, &file, 1, &mut bytes).await.unwrap_err(); // misaligned: the kernel took it
        let metrics = handle.metrics();
        let counted = (metrics.submitted, metrics.completed, metrics.failed);
        assert_eq!(counted, (1, 1, 1), "{backend:?}");
        let unknown = ReadFlags::from_bits_retain(1 << 30);
        let refused = file.read_at(&handle, 0, &mut bytes, LEN, unknown);
        refused.await.unwrap_err(); // it did not take that one
        let metrics = handle.metrics();
        let counted = (metrics.submitted, metrics.completed, metrics.failed);
        let taken = match handle.backend() {
            Backend::IoUring => 2, // it takes every request, and looks at its flags later
            _ => 1,
        };
        assert_eq!(counted, (taken, taken, 2), "{backend:?}");
    });
}

#[tokio::test]
async fn found_full_counts_requests_that_find_no_slot() {
    let dir = disk_dir();
    let file = patterned_file(&dir, 8).await;
    for waits in [true, false] {
        let (context, handle) = AioContextBuilder::new(2)
            .wait_for_slot(waits)
            .build()
            .unwrap();
        let (mut made, mut turned_away) = (0, 0);
        retry_until(async || {
            let mut buffers: Vec<_> = (0..8).map(|_| buffer(BLOCK)).collect();
            let reads = (0..).zip(&mut buffers);
            let reads = reads.map(|(i, bytes)| read_block(&handle, &file, i * LEN, bytes));
            for end in with_hang_guard(join_all(reads)).await {
                made += 1;
                turned_away += u64::from(matches!(end, Err(AioCommandError::CapacityExceeded)));
            }
            // A disk that is fast enough always has a slot.
            (handle.metrics().found_full > 0).then_some(())
        })
        .await;
        let metrics = handle.metrics();
        match waits {
            true => assert_eq!(turned_away, 0),
            false => assert_eq!(metrics.found_full, turned_away),
        }
        assert_eq!(metrics.completed, made - turned_away);
        with_hang_guard(context.close()).await;
    }
}

#[test]
fn abandoned_requests_are_counted_in_flight_and_in_total() {
    Fixture::new(8)
        .inline()
        .blocks(LONG / BLOCK)
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            let mut bytes = buffer(LONG);
            let mut seen = 0;
            retry_until(async || {
                let pending = {
                    let len = bytes.size() as u64;
                    let mut read =
                        pin!(file.read_at(&handle, 0, &mut bytes, len, ReadFlags::empty()));
                    let pending = poll!(read.as_mut()).is_pending();
                    wait_until_all_offloaded(&handle).await;
                    pending
                };
                let metrics = handle.metrics();
                // It may have been done before it was dropped.
                if pending && metrics.abandoned > seen {
                    assert_eq!(metrics.abandoned, seen + 1);
                    seen += 1;
                }
                assert!(metrics.abandoned_in_flight <= metrics.in_flight);
                wait_all_free(&handle, 8).await;
                let metrics = handle.metrics();
                assert_eq!((metrics.abandoned_in_flight, metrics.in_flight), (0, 0));
                assert_eq!(metrics.submitted, metrics.completed);
                (seen > 3).then_some(())
            })
            .await;
        });
}

#[tokio::test]
async fn latencies_are_measured_on_request() {
    let dir = disk_dir();
    let file = patterned_file(&dir, 8).await;
    for &backend in BACKENDS {
        let builder = AioContextBuilder::new(8).backend(backend);
        let (plain, plain_handle) = builder.clone().build().unwrap();
        let (measured, handle) = builder.measure_latency(true).build().unwrap();
        let mut bytes = buffer(BLOCK);
        for block in 0..8 {
            for handle in [&handle, &plain_handle] {
                with_hang_guard(read_block(handle, &file, block * LEN, &mut bytes))
                    .await
                    .unwrap();
            }
        }
        assert_eq!(plain_handle.metrics().latency, None);
        let latency = handle.metrics().latency.unwrap();
        assert_eq!(latency.count(), 8);
        assert_eq!(latency.buckets().map(|(_, count)| count).sum::<u64>(), 8);
        let (median, longest) = (latency.percentile(50.0).unwrap(), latency.max());
        assert!(median <= longest && !median.is_zero(), "{latency:?}");
        with_hang_guard(plain.close()).await;
        with_hang_guard(measured.close()).await;
    }
}

#[tokio::test]
async fn an_ended_context_keeps_its_counters() {
    let dir = disk_dir();
    let file = patterned_file(&dir, 1).await;
    let (context, handle) = aio_context(8, true).unwrap();
    let mut bytes = buffer(BLOCK);
    with_hang_guard(read_block(&handle, &file, 0, &mut bytes))
        .await
        .unwrap();
    with_hang_guard(context.close()).await;
    let metrics = handle.metrics();
    assert_eq!((metrics.submitted, metrics.completed), (1, 1));
    assert_eq!((metrics.in_flight, metrics.queued), (0, 0));
}

#[test]
fn metrics_report_whether_there_is_a_ring() {
    Fixture::new(8).every_backend().run(async |case| {
        let (handle, backend) = (case.handle, case.mode.0);
        let ring = match handle.backend() {
            Backend::KernelAio => !cfg!(kaio_force_getevents),
            backend => backend == Backend::IoUring,
        };
        assert_eq!(handle.metrics().ring, ring, "{backend:?}");
    });
}

#[test]
fn metrics_add_up_all_shards() {
    Fixture::new(16)
        .build(|builder| builder.shards(2).measure_latency(true))
        .blocks(64)
        .multi_thread()
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            read_in_tasks(&handle, file, 64).await;
            let metrics = handle.metrics();
            assert_eq!((metrics.submitted, metrics.completed), (64, 64));
            assert_eq!(metrics.latency.unwrap().count(), 64);
        });
}

#[test]
fn metrics_report_queued_and_in_flight_requests() {
    Fixture::new(2).blocks(4).run(async |case| {
        let (file, handle) = (case.file, case.handle);
        retry_until(async || {
            let (mut first, mut second, mut third) = (buffer(BLOCK), buffer(BLOCK), buffer(BLOCK));
            let mut reads = [
                Box::pin(read_block(&handle, &file, 0, &mut first)),
                Box::pin(read_block(&handle, &file, LEN, &mut second)),
            ];
            let mut waits = pin!(read_block(&handle, &file, 2 * LEN, &mut third));
            let out = [
                poll!(&mut reads[0]).is_pending(),
                poll!(&mut reads[1]).is_pending(),
            ];
            let waiting = poll!(waits.as_mut()).is_pending();
            let metrics = handle.metrics();
            let in_all = metrics.queued + metrics.in_flight;
            // Reads that have completed by now are not counted.
            assert!(in_all <= 3, "{metrics:?}");
            let seen = out == [true; 2] && waiting && in_all == 3;
            if waiting {
                waits.await.unwrap();
            }
            for (read, pending) in reads.into_iter().zip(out) {
                if pending {
                    read.await.unwrap();
                }
            }
            seen.then_some(())
        })
        .await;
    });
}

#[test]
fn since_subtracts_a_snapshot() {
    Fixture::new(8)
        .inline()
        .build(|builder| builder.measure_latency(true))
        .blocks(8)
        .run(async |case| {
            let (file, handle) = (case.file, case.handle);
            let read = async |blocks| {
                let mut bytes = buffer(BLOCK);
                for block in 0..blocks {
                    let read = read_block(&handle, &file, block * LEN, &mut bytes);
                    read.await.unwrap();
                }
            };
            assert_eq!(handle.metrics().mean_batch(), None);
            assert_eq!(handle.metrics().mean_submit(), None);
            read(5).await;
            let before = handle.metrics();
            read(3).await;
            let now = handle.metrics();
            let since = now.since(&before);
            assert_eq!((since.submitted, since.completed), (3, 3));
            assert_eq!(since.batches, now.batches - before.batches);
            assert_eq!(since.submit_time, now.submit_time - before.submit_time);
            assert_eq!(events(&since), 3);
            assert_eq!(since.ring, now.ring);
            let latency = since.latency.as_ref().unwrap();
            assert_eq!(latency.count(), 3);
            assert!(latency.mean().unwrap() <= latency.max());
            if handle.backend() == Backend::KernelAio {
                assert_eq!(since.mean_batch(), Some(1.0));
                let calls = u32::try_from(since.timed_submits).unwrap();
                assert_eq!(since.mean_submit(), Some(since.submit_time / calls));
            }
        });
}
