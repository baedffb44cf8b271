//! The counters of a context, through the facade of the crate `metrics`.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::*;
use futures::FutureExt;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tokio::runtime::Builder;
use tokio_kaio::{AioContextBuilder, IoGroup, ReadFlags};

/// The recorded values, by name and labels.
fn recorded(snapshotter: &Snapshotter) -> BTreeMap<String, DebugValue> {
    let snapshot = snapshotter.snapshot().into_vec();
    let series = snapshot.into_iter().map(|(key, _, _, value)| {
        let key = key.key();
        let mut labels: Vec<_> = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        labels.sort();
        (format!("{}{{{}}}", key.name(), labels.join(",")), value)
    });
    series.collect()
}

fn counter(series: &BTreeMap<String, DebugValue>, name: &str) -> u64 {
    match series.get(name) {
        Some(DebugValue::Counter(value)) => *value,
        other => panic!("{name}: {other:?}, among {series:?}"),
    }
}

fn gauge(series: &BTreeMap<String, DebugValue>, name: &str) -> f64 {
    match series.get(name) {
        Some(DebugValue::Gauge(value)) => value.into_inner(),
        other => panic!("{name}: {other:?}, among {series:?}"),
    }
}

/// Runs `test` where no other thread records anything.
fn with_recorder(test: impl AsyncFnOnce(&Snapshotter)) {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(with_hang_guard(test(&snapshotter)));
    });
}

#[test]
fn every_counter_is_published_with_its_value() {
    with_recorder(async |snapshotter| {
        let dir = disk_dir();
        let file = patterned_file(&dir, 8).await;
        let builder = AioContextBuilder::new(4).measure_latency(true);
        let (context, handle) = builder.build().unwrap();
        let mut bytes = buffer(BLOCK);
        for block in 0..8 {
            read_block(&handle, &file, block * BLOCK as u64, &mut bytes)
                .await
                .unwrap();
        }
        read_block(&handle, &file, 1, &mut bytes).await.unwrap_err();
        let metrics = handle.metrics();
        metrics.publish("table");
        metrics.publish("table"); // sets, does not add
        let series = recorded(snapshotter);
        for (name, value) in [
            ("submitted", metrics.submitted),
            ("completed", metrics.completed),
            ("failed", metrics.failed),
            ("abandoned", metrics.abandoned),
            ("found_full", metrics.found_full),
            ("nowait_refusals", metrics.nowait_refusals),
            ("offloads", metrics.offloads),
            ("slow_submits", metrics.slow_submits),
            ("slow_offloads", metrics.slow_offloads),
            ("timed_submits", metrics.timed_submits),
            (
                "submit_nanoseconds",
                metrics.submit_time.as_nanos().try_into().unwrap(),
            ),
        ] {
            let name = format!("tokio_kaio_{name}_total{{context=table}}");
            assert_eq!(counter(&series, &name), value, "{name}");
        }
        assert_eq!((metrics.completed, metrics.failed), (9, 1));
        for (up_to, calls) in [1, 2, 4, 8, 16, 32, 64]
            .into_iter()
            .zip(metrics.batch_sizes)
        {
            let name = format!("tokio_kaio_batches_total{{context=table,up_to={up_to}}}");
            assert_eq!(counter(&series, &name), calls);
        }
        for (by, events) in [
            ("submit", metrics.reaped.after_submit),
            ("signal", metrics.reaped.by_signal),
            ("poll", metrics.reaped.by_poll),
            ("driver", metrics.reaped.by_driver),
            ("other", metrics.reaped.otherwise),
        ] {
            let name = format!("tokio_kaio_reaped_total{{by={by},context=table}}");
            assert_eq!(counter(&series, &name), events);
        }
        for (name, value) in [
            ("queued", metrics.queued),
            ("in_flight", metrics.in_flight),
            ("abandoned_in_flight", metrics.abandoned_in_flight),
            ("waiting_for_thread", metrics.waiting_for_thread),
            ("ring", usize::from(metrics.ring)),
        ] {
            let name = format!("tokio_kaio_{name}{{context=table}}");
            assert_eq!(gauge(&series, &name), value as f64, "{name}");
        }
        let latency = metrics.latency.unwrap();
        for (quantile, percent) in [("0.5", 50.0), ("0.99", 99.0), ("0.999", 99.9), ("1", 100.0)] {
            let name = format!("tokio_kaio_latency_seconds{{context=table,quantile={quantile}}}");
            let expected = latency.percentile(percent).unwrap().as_secs_f64();
            assert_eq!(gauge(&series, &name), expected);
        }
        context.close().await;
    });
}

#[test]
fn a_report_runs_until_the_context_has_ended_and_includes_the_end() {
    with_recorder(async |snapshotter| {
        let dir = disk_dir();
        let file = patterned_file(&dir, 1).await;
        let (context, handle) = AioContextBuilder::new(4).build().unwrap();
        let report = handle
            .clone()
            .report_metrics("log", Duration::from_millis(1));
        let report = tokio::spawn(report);
        let submitted = || {
            let series = recorded(snapshotter);
            let name = "tokio_kaio_submitted_total{context=log}";
            series.contains_key(name).then(|| counter(&series, name))
        };
        wait_until(|| submitted() == Some(0), submitted).await;
        let mut bytes = buffer(BLOCK);
        read_block(&handle, &file, 0, &mut bytes).await.unwrap();
        wait_until(|| submitted() == Some(1), submitted).await;
        // The last report comes after the end, so that nothing is missed.
        read_block(&handle, &file, 0, &mut bytes).await.unwrap();
        context.close().await;
        report.await.unwrap();
        assert_eq!(submitted(), Some(2));
    });
}

#[test]
fn a_report_neither_keeps_a_detached_context_nor_needs_a_runtime() {
    let builder = AioContextBuilder::new(4).own_thread();
    let handle = builder.build_detached().unwrap();
    let report = handle.report_metrics("detached", Duration::from_secs(3600));
    bounded(move || futures::executor::block_on(report)); // resolves when the context has ended
}

#[test]
fn a_report_on_an_ended_context_is_made_at_once() {
    with_recorder(async |snapshotter| {
        let (context, handle) = AioContextBuilder::new(4).build().unwrap();
        context.close().await;
        let mut report = Box::pin(handle.report_metrics("late", Duration::from_secs(3600)));
        assert!(report.as_mut().now_or_never().is_some());
        let series = recorded(snapshotter);
        assert_eq!(counter(&series, "tokio_kaio_failed_total{context=late}"), 0);
    });
}

#[test]
fn the_counters_of_groups_are_published_with_their_names() {
    with_recorder(async |snapshotter| {
        let dir = disk_dir();
        let file = patterned_file(&dir, 8).await;
        let (context, handle) = AioContextBuilder::new(4).build().unwrap();
        let (queries, backup) = (IoGroup::new("queries"), IoGroup::new("backup"));
        let grouped = [&queries, &backup].map(|group| handle.with_group(group));
        let mut bytes = buffer(BLOCK);
        for (times, handle) in [(3, &grouped[0]), (2, &grouped[1])] {
            for _ in 0..times {
                let read = file.read_at(handle, 0, &mut bytes, LEN, ReadFlags::empty());
                assert_eq!(read.await.unwrap(), LEN);
            }
        }
        let report = handle.report_metrics("wal", Duration::from_secs(3600));
        let report = tokio::spawn(report);
        context.close().await;
        report.await.unwrap();
        let series = recorded(snapshotter);
        for (group, requests) in [("queries", 3), ("backup", 2)] {
            let named = |name: &str| format!("tokio_kaio_group_{name}{{group={group}}}");
            assert_eq!(counter(&series, &named("requests_total")), requests);
            assert_eq!(counter(&series, &named("bytes_total")), requests * LEN);
            assert_eq!(counter(&series, &named("waited_total")), 0);
            assert_eq!(counter(&series, &named("wait_nanoseconds_total")), 0);
            assert_eq!(gauge(&series, &named("waiting")), 0.0);
            assert_eq!(gauge(&series, &named("in_flight")), 0.0);
        }
    });
}
