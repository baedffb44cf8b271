//! Publishes [`GroupMetrics`] through the facade of the crate `metrics`.

use metrics::{SharedString, counter, describe_counter, describe_gauge, gauge};

use super::group_metrics::GroupMetrics;

/// Name, description, and value.
type Series<T> = (&'static str, &'static str, fn(&GroupMetrics) -> T);

const COUNTERS: [Series<u64>; 4] = [
    (
        "tokio_kaio_group_requests_total",
        "Requests of the group that have had their turn",
        |metrics| metrics.requests,
    ),
    (
        "tokio_kaio_group_bytes_total",
        "Bytes that these requests asked for",
        |metrics| metrics.bytes,
    ),
    (
        "tokio_kaio_group_waited_total",
        "Requests of the group that had to wait for their turn",
        |metrics| metrics.waited,
    ),
    (
        "tokio_kaio_group_wait_nanoseconds_total",
        "Time that these requests waited",
        |metrics| u64::try_from(metrics.time_waited.as_nanos()).unwrap_or(u64::MAX),
    ),
];

const GAUGES: [Series<u64>; 2] = [
    (
        "tokio_kaio_group_in_flight",
        "Requests of the group that have had their turn and are not done",
        |metrics| metrics.in_flight,
    ),
    (
        "tokio_kaio_group_waiting",
        "Requests of the group that wait for their turn",
        |metrics| metrics.waiting,
    ),
];

impl GroupMetrics {
    /// Passes these metrics to the recorder of the crate [`metrics`](https://docs.rs/metrics), under names
    /// that start with `tokio_kaio_group_`, with the label `group`. Needs the feature `metrics`.
    ///
    /// Counters are set to their values (`absolute`), so it may be called at any time and repeatedly.
    /// [`report_metrics`](crate::GenericAioContextHandle::report_metrics) does so at an interval, for all
    /// groups that have handles on the context.
    ///
    /// | name | kind | value |
    /// |---|---|---|
    /// | `tokio_kaio_group_requests_total` | counter | [`requests`](GroupMetrics::requests) |
    /// | `tokio_kaio_group_bytes_total` | counter | [`bytes`](GroupMetrics::bytes) |
    /// | `tokio_kaio_group_waited_total` | counter | [`waited`](GroupMetrics::waited) |
    /// | `tokio_kaio_group_wait_nanoseconds_total` | counter | [`time_waited`](GroupMetrics::time_waited) |
    /// | `tokio_kaio_group_in_flight` | gauge | [`in_flight`](GroupMetrics::in_flight) |
    /// | `tokio_kaio_group_waiting` | gauge | [`waiting`](GroupMetrics::waiting) |
    ///
    /// # Examples
    ///
    /// ```
    /// let group = tokio_kaio::IoGroup::new("compaction");
    /// group.metrics().publish("compaction");
    /// ```
    pub fn publish(&self, group: impl Into<SharedString>) {
        let group = group.into();
        for (name, _, read) in COUNTERS {
            counter!(name, "group" => group.clone()).absolute(read(self));
        }
        for (name, _, read) in GAUGES {
            gauge!(name, "group" => group.clone()).set(read(self) as f64);
        }
    }
}

/// Describes the metrics to the recorder.
pub(crate) fn describe() {
    for (name, about, _) in COUNTERS {
        describe_counter!(name, about);
    }
    for (name, about, _) in GAUGES {
        describe_gauge!(name, about);
    }
}
