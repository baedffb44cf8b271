//! Spans and events for the crate `tracing`.
#![allow(unsafe_code)] // for what the tests share

#[allow(clippy::undocumented_unsafe_blocks, clippy::unnecessary_cast)]
mod common;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use futures::FutureExt;
use futures::future::{join, join_all};
use tokio::runtime::Builder;
use tokio_kaio::{AioContextBuilder, AioContextHandle, Backend, IoGroup, SubmitPolicy, WriteFlags};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

#[derive(Clone, Default, Debug, PartialEq)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.into());
    }
}

impl Fields {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// Keeps spans and events.
#[derive(Clone, Default)]
struct Keeper {
    /// Spans that were closed.
    spans: Arc<Mutex<Vec<Fields>>>,
    events: Arc<Mutex<Vec<(Level, Fields)>>>,
    /// Read at every event, as a subscriber that uses the crate might do.
    handle: Arc<Mutex<Option<AioContextHandle>>>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target() == "tokio_kaio"
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let span = context.span(id).unwrap();
        assert_eq!(span.name(), "aio");
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        values.record(span.extensions_mut().get_mut::<Fields>().unwrap());
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let recorded = (*event.metadata().level(), fields);
        self.events.lock().unwrap().push(recorded);
        if let Some(handle) = &*self.handle.lock().unwrap() {
            handle.metrics();
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).unwrap();
        let fields = span.extensions_mut().remove::<Fields>().unwrap();
        self.spans.lock().unwrap().push(fields);
    }
}

impl Keeper {
    fn spans(&self) -> Vec<Fields> {
        self.spans.lock().unwrap().clone()
    }

    /// Events whose message has `text` in it.
    fn events(&self, text: &str) -> Vec<(Level, Fields)> {
        let events = self.events.lock().unwrap();
        let wanted = |(_, fields): &&(Level, Fields)| {
            fields
                .get("message")
                .is_some_and(|message| message.contains(text))
        };
        events.iter().filter(wanted).cloned().collect()
    }
}

/// Runs `test` on this thread alone, with a subscriber that keeps its spans and events.
fn with_keeper(test: impl AsyncFnOnce(&Keeper)) {
    let keeper = Keeper::default();
    let subscriber = Registry::default().with(keeper.clone());
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    tracing::subscriber::with_default(subscriber, || {
        runtime.block_on(with_hang_guard(test(&keeper)));
    });
}

#[test]
fn each_operation_has_a_span_with_its_parameters_and_result() {
    with_keeper(async |keeper| {
        let dir = disk_dir();
        let file = patterned_file(&dir, 2).await;
        let (context, handle) = AioContextBuilder::new(4).build().unwrap();
        let mut bytes = buffer(BLOCK);
        read_block(&handle, &file, LEN, &mut bytes).await.unwrap();
        let written = file.write_at(&handle, 0, &bytes, LEN, WriteFlags::empty());
        written.await.unwrap();
        file.sync_all(&handle).await.unwrap();
        file.sync_data(&handle).await.unwrap();
        read_block(&handle, &file, 1, &mut bytes).await.unwrap_err();
        context.close().await;

        let spans = keeper.spans();
        let names: Vec<_> = spans
            .iter()
            .map(|span| ["op", "offset", "len", "bytes"].map(|name| span.get(name)))
            .collect();
        let block = Some("4096");
        assert_eq!(
            names,
            [
                [Some("read"), block, block, block],
                [Some("write"), Some("0"), block, block],
                [Some("fsync"), None, None, Some("0")],
                [Some("fdatasync"), None, None, Some("0")],
                [Some("read"), Some("1"), block, None],
            ]
        );
        assert!(spans.iter().all(|span| span.get("fd").is_some()));
        let error = spans[4].get("error").unwrap();
        assert!(error.contains("Invalid argument"), "{error}");
        assert!(spans[..4].iter().all(|span| span.get("error").is_none()));
    });
}

#[test]
fn a_dropped_operation_is_recorded_in_its_span() {
    with_keeper(async |keeper| {
        let dir = disk_dir();
        let file = patterned_file(&dir, 1).await;
        let (context, handle) = AioContextBuilder::new(4).build().unwrap();
        retry_until(async || {
            let mut bytes = buffer(BLOCK);
            let dropped = read_block(&handle, &file, 0, &mut bytes).now_or_never();
            dropped.is_none().then_some(())
        })
        .await;
        let events = keeper.events("dropped before it was done");
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].0, Level::DEBUG);
        context.close().await;
    });
}

#[test]
fn a_refused_attempt_is_an_event_with_its_errno() {
    let Some(dir) = tmpfs_dir() else { return };
    with_keeper(async |keeper| {
        let file = patterned_file(&dir, 1).await;
        let (context, handle) = AioContextBuilder::new(4).build().unwrap();
        if handle.backend() == Backend::ThreadPool {
            eprintln!("skipped: threads make no attempts");
            return;
        }
        *keeper.handle.lock().unwrap() = Some(handle.clone()); // events are emitted without a lock
        let mut bytes = buffer(BLOCK);
        for _ in 0..4 {
            read_block(&handle, &file, 0, &mut bytes).await.unwrap();
        }
        let refusals = keeper.events("refused RWF_NOWAIT");
        assert_eq!(refusals.len() as u64, handle.metrics().nowait_refusals);
        assert_eq!(refusals.len(), 1, "it is learnt at once");
        let (level, fields) = &refusals[0];
        assert_eq!(*level, Level::DEBUG);
        let values = ["op", "errno", "len"].map(|name| fields.get(name).unwrap());
        assert_eq!(values, ["read", "EOPNOTSUPP", "4096"]);
        let offloaded = keeper.events("submitted from the blocking pool");
        assert_eq!(offloaded.len() as u64, handle.metrics().offloads);
        *keeper.handle.lock().unwrap() = None;
        context.close().await;
    });
}

#[test]
fn a_request_that_finds_no_slot_is_an_event() {
    with_keeper(async |keeper| {
        let dir = disk_dir();
        let file = patterned_file(&dir, 8).await;
        let builder = AioContextBuilder::new(1).submit_policy(SubmitPolicy::Inline);
        let (context, handle) = builder.build().unwrap();
        retry_until(async || {
            let mut buffers: Vec<_> = (0..8).map(|_| buffer(BLOCK)).collect();
            let reads = (0..).zip(&mut buffers);
            let reads = reads.map(|(i, bytes)| read_block(&handle, &file, i * LEN, bytes));
            join_all(reads).await;
            (handle.metrics().found_full > 0).then_some(())
        })
        .await;
        let events = keeper.events("no slot");
        assert_eq!(events.len() as u64, handle.metrics().found_full);
        assert_eq!(events[0].0, Level::TRACE);
        assert_eq!(events[0].1.get("slots"), Some("1"));
        context.close().await;
    });
}

#[test]
fn a_context_that_falls_back_to_threads_warns() {
    with_keeper(async |keeper| {
        let limit = std::fs::read_to_string("/proc/sys/fs/aio-max-nr").unwrap();
        let more: usize = limit.trim().parse::<usize>().unwrap() + 1;
        let builder = AioContextBuilder::new(more).automatic_backend();
        let (context, handle) = builder.build().unwrap();
        assert_eq!(handle.backend(), Backend::ThreadPool);
        let events = keeper.events("not available");
        if cfg!(kaio_force_threads) {
            return eprintln!("skipped: AIO is not tried");
        }
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].0, Level::WARN);
        let errno = libc::EAGAIN.to_string();
        assert!(
            events[0].1.get("errno").unwrap().contains(&errno),
            "{events:?}"
        );
        let message = events[0].1.get("message").unwrap();
        assert!(message.contains("fs.aio-max-nr"), "{message}");
        context.close().await;
    });
}

#[test]
fn operations_of_a_group_name_it_and_a_long_wait_is_an_event() {
    with_keeper(async |keeper| {
        let dir = disk_dir();
        let file = patterned_file(&dir, 8).await;
        let (context, handle) = AioContextBuilder::new(4).build().unwrap();
        let group = IoGroup::new("backup");
        let grouped = handle.with_group(&group);
        let mut bytes = buffer(BLOCK);
        // The second of two reads waits for an hour, or until the limit is lifted.
        let lift = async || {
            tokio::time::sleep(Duration::from_millis(20)).await;
            group.set_max_bandwidth(0);
        };
        group.set_max_bandwidth(1);
        read_block(&grouped, &file, 0, &mut bytes).await.unwrap();
        let (read, ()) = join(read_block(&grouped, &file, 0, &mut bytes), lift()).await;
        read.unwrap();
        group.set_max_bandwidth(1);
        read_block(&grouped, &file, 0, &mut bytes).await.unwrap();
        let mut batch = grouped.owned_batch();
        batch.read(&file, 0, buffer(BLOCK));
        join(batch.all(), lift()).await;
        read_block(&handle, &file, 0, &mut bytes).await.unwrap();
        let spans = keeper.spans();
        let groups: Vec<_> = spans.iter().map(|span| span.get("group")).collect();
        let backup = Some("backup");
        assert_eq!(groups, [backup, backup, backup, backup, None]);
        let events = keeper.events("waited for the turn");
        assert_eq!(
            events.len(),
            2,
            "the second read, and the batch: {events:?}"
        );
        assert_eq!(events[0].0, Level::DEBUG);
        assert_eq!(events[0].1.get("group"), backup);
        let micros: u64 = events[0].1.get("micros").unwrap().parse().unwrap();
        assert!(micros >= 10_000, "{micros}");
        context.close().await;
    });
}
