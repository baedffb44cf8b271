//! Publishes [`Metrics`] through the facade of the crate `metrics`.

use metrics::{SharedString, Unit, counter, describe_counter, describe_gauge, gauge};

use super::Metrics;

/// Name, description, and value.
type Series<T> = (&'static str, &'static str, fn(&Metrics) -> T);

const COUNTERS: [Series<u64>; 13] = [
    (
        "tokio_kaio_submitted_total",
        "Requests that the kernel or a thread took",
        |metrics| metrics.submitted,
    ),
    (
        "tokio_kaio_completed_total",
        "Submitted requests that completed",
        |metrics| metrics.completed,
    ),
    (
        "tokio_kaio_failed_total",
        "Requests that ended with an errno",
        |metrics| metrics.failed,
    ),
    (
        "tokio_kaio_unmatched_completions_total",
        "Completions that matched no request in flight",
        |metrics| metrics.unmatched_completions,
    ),
    (
        "tokio_kaio_abandoned_total",
        "Requests in flight whose future was dropped or timed out",
        |metrics| metrics.abandoned,
    ),
    (
        "tokio_kaio_found_full_total",
        "Requests that found no free slot",
        |metrics| metrics.found_full,
    ),
    (
        "tokio_kaio_unfinished_writers_total",
        "FileWriters that were dropped with bytes not flushed, or an error not returned",
        |metrics| metrics.unfinished_writers,
    ),
    (
        "tokio_kaio_nowait_refusals_total",
        "Submissions with RWF_NOWAIT that the kernel refused",
        |metrics| metrics.nowait_refusals,
    ),
    (
        "tokio_kaio_offloads_total",
        "Requests that were offloaded to the blocking pool",
        |metrics| metrics.offloads,
    ),
    (
        "tokio_kaio_slow_submits_total",
        "Submissions that took longer than a millisecond, on a thread of the runtime",
        |metrics| metrics.slow_submits,
    ),
    (
        "tokio_kaio_slow_offloads_total",
        "Submissions that took longer than a millisecond, on a thread of the blocking pool",
        |metrics| metrics.slow_offloads,
    ),
    (
        "tokio_kaio_submit_nanoseconds_total",
        "Time inside io_submit on threads of the runtime, in the calls that were timed",
        |metrics| u64::try_from(metrics.submit_time.as_nanos()).unwrap_or(u64::MAX),
    ),
    (
        "tokio_kaio_timed_submits_total",
        "Calls of io_submit that were timed, on threads of the runtime",
        |metrics| metrics.timed_submits,
    ),
];

const GAUGES: [Series<f64>; 5] = [
    (
        "tokio_kaio_queued",
        "Requests that wait to be submitted",
        |metrics| metrics.queued as f64,
    ),
    (
        "tokio_kaio_in_flight",
        "Requests in flight: in the kernel, or on their way to it",
        |metrics| metrics.in_flight as f64,
    ),
    (
        "tokio_kaio_abandoned_in_flight",
        "Requests in flight that no future waits for",
        |metrics| metrics.abandoned_in_flight as f64,
    ),
    (
        "tokio_kaio_waiting_for_thread",
        "Requests in flight that wait for a thread of the blocking pool",
        |metrics| metrics.waiting_for_thread as f64,
    ),
    (
        "tokio_kaio_ring",
        "1 if completions are read from a ring in user memory, else 0",
        |metrics| f64::from(u8::from(metrics.ring)),
    ),
];

const BATCHES: &str = "tokio_kaio_batches_total";
/// Values of the label `up_to`, for [`Metrics::batch_sizes`].
const UP_TO: [&str; 7] = ["1", "2", "4", "8", "16", "32", "64"];

const REAPED: &str = "tokio_kaio_reaped_total";

const LATENCY: &str = "tokio_kaio_latency_seconds";
const QUANTILES: [(&str, f64); 4] = [("0.5", 50.0), ("0.99", 99.0), ("0.999", 99.9), ("1", 100.0)];

impl Metrics {
    /// Passes these metrics to the recorder of the crate [`metrics`](https://docs.rs/metrics), under names
    /// that start with `tokio_kaio_`. The label `context` distinguishes contexts. Needs the feature
    /// `metrics`.
    ///
    /// Counters are set to their values (`absolute`), so it may be called at any time and repeatedly.
    /// [`report_metrics`](crate::GenericAioContextHandle::report_metrics) does so at an interval.
    ///
    /// `up_to` is not cumulative, unlike Prometheus's `le`. Latencies cover all requests since the context
    /// was made, not since the last call. Time inside `io_submit` is in nanoseconds, because counters of
    /// the facade are integers.
    ///
    /// | name | kind | value |
    /// |---|---|---|
    /// | `tokio_kaio_submitted_total` | counter | [`submitted`](Metrics::submitted) |
    /// | `tokio_kaio_completed_total` | counter | [`completed`](Metrics::completed) |
    /// | `tokio_kaio_failed_total` | counter | [`failed`](Metrics::failed) |
    /// | `tokio_kaio_unmatched_completions_total` | counter | [`unmatched_completions`](Metrics::unmatched_completions) |
    /// | `tokio_kaio_abandoned_total` | counter | [`abandoned`](Metrics::abandoned) |
    /// | `tokio_kaio_found_full_total` | counter | [`found_full`](Metrics::found_full) |
    /// | `tokio_kaio_batches_total` | counter, label `up_to` | [`batch_sizes`](Metrics::batch_sizes) |
    /// | `tokio_kaio_reaped_total` | counter, label `by` | [`reaped`](Metrics::reaped) |
    /// | `tokio_kaio_nowait_refusals_total` | counter | [`nowait_refusals`](Metrics::nowait_refusals) |
    /// | `tokio_kaio_offloads_total` | counter | [`offloads`](Metrics::offloads) |
    /// | `tokio_kaio_slow_submits_total` | counter | [`slow_submits`](Metrics::slow_submits) |
    /// | `tokio_kaio_slow_offloads_total` | counter | [`slow_offloads`](Metrics::slow_offloads) |
    /// | `tokio_kaio_submit_nanoseconds_total` | counter | [`submit_time`](Metrics::submit_time) |
    /// | `tokio_kaio_timed_submits_total` | counter | [`timed_submits`](Metrics::timed_submits) |
    /// | `tokio_kaio_queued` | gauge | [`queued`](Metrics::queued) |
    /// | `tokio_kaio_in_flight` | gauge | [`in_flight`](Metrics::in_flight) |
    /// | `tokio_kaio_abandoned_in_flight` | gauge | [`abandoned_in_flight`](Metrics::abandoned_in_flight) |
    /// | `tokio_kaio_waiting_for_thread` | gauge | [`waiting_for_thread`](Metrics::waiting_for_thread) |
    /// | `tokio_kaio_ring` | gauge, 0 or 1 | [`ring`](Metrics::ring) |
    /// | `tokio_kaio_latency_seconds` | gauge, label `quantile`: 0.5, 0.99, 0.999, 1 | [`latency`](Metrics::latency) in seconds, if measured: of all requests, or with `report_metrics` of those in the interval |
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tokio_kaio::AioContextError> {
    /// let (context, handle) = tokio_kaio::aio_context(8, true)?;
    /// handle.metrics().publish("wal");
    /// context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn publish(&self, context: impl Into<SharedString>) {
        self.publish_since(None, context.into());
    }

    /// Publishes these metrics, with the latencies since `earlier` if there is an earlier snapshot.
    pub(crate) fn publish_since(&self, earlier: Option<&Metrics>, context: SharedString) {
        for (name, _, read) in COUNTERS {
            counter!(name, "context" => context.clone()).absolute(read(self));
        }
        for (up_to, calls) in UP_TO.into_iter().zip(self.batch_sizes) {
            let labels = [("context", context.clone()), ("up_to", up_to.into())];
            counter!(BATCHES, &labels).absolute(calls);
        }
        for (by, events) in self.reaped.by_path() {
            let labels = [("context", context.clone()), ("by", by.into())];
            counter!(REAPED, &labels).absolute(events);
        }
        for (name, _, read) in GAUGES {
            gauge!(name, "context" => context.clone()).set(read(self));
        }
        let Some(latency) = &self.latency else { return };
        let earlier = earlier.and_then(|earlier| earlier.latency.as_ref());
        let latency = &earlier.map_or_else(|| latency.clone(), |earlier| latency.since(earlier));
        for (quantile, percent) in QUANTILES {
            if let Some(duration) = latency.percentile(percent) {
                let labels = [("context", context.clone()), ("quantile", quantile.into())];
                gauge!(LATENCY, &labels).set(duration.as_secs_f64());
            }
        }
    }
}

/// Describes the metrics to the recorder.
pub(crate) fn describe() {
    for (name, about, _) in COUNTERS {
        describe_counter!(name, about);
    }
    describe_counter!(
        BATCHES,
        "Calls of io_submit, by the most requests that they took"
    );
    describe_counter!(REAPED, "Completions, by cause of the reap");
    for (name, about, _) in GAUGES {
        describe_gauge!(name, about);
    }
    describe_gauge!(LATENCY, Unit::Seconds, "Latency of requests, by quantile");
}
