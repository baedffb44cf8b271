//! [`QueryReport`]: the result size, time and I/O of a statement.

use std::fmt;
use std::time::Duration;

use kaio_datafusion::{KaioFilesMetrics, PrefetchMetrics};
use kaio_object_store::{StoreMetrics, Transfers};
use tokio_kaio::Backend;

use crate::byte_sizes::format_bytes;
use crate::process_usage::ProcessUsage;

/// What a statement has produced and used. Its [`Display`](fmt::Display) is a few lines for people.
#[derive(Clone, Debug, Default)]
pub(crate) struct QueryReport {
    /// The rows of the result. `None` for statements without one, such as `CREATE TABLE`.
    pub(crate) result: Option<ResultSize>,
    /// Time from the text to the end of the result.
    pub(crate) wall: Duration,
    /// The part of `wall` that was spent on parsing and planning, which reads the metadata of files.
    pub(crate) planning: Duration,
    /// What the process has used meanwhile.
    pub(crate) usage: ProcessUsage,
    /// How files were read and written meanwhile. `None` with `LocalFileSystem`, which does not count.
    pub(crate) files: Option<KaioFilesMetrics>,
}

/// Size of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResultSize {
    /// Number of rows.
    pub(crate) rows: u64,
    /// Their bytes as Arrow arrays.
    pub(crate) bytes: u64,
}

/// What was counted between two readings of the counters of files.
pub(crate) fn files_since(now: KaioFilesMetrics, then: &KaioFilesMetrics) -> KaioFilesMetrics {
    let mut since = now;
    let (store, then_store) = (&mut since.store, &then.store);
    for (now, then) in [
        (&mut store.direct, then_store.direct),
        (&mut store.cached, then_store.cached),
        (&mut store.blocking, then_store.blocking),
        (&mut store.direct_writes, then_store.direct_writes),
        (&mut store.blocking_writes, then_store.blocking_writes),
    ] {
        now.count = now.count.saturating_sub(then.count);
        now.bytes = now.bytes.saturating_sub(then.bytes);
    }
    let (prefetch, then_prefetch) = (&mut since.prefetch, &then.prefetch);
    for (now, then) in [
        (&mut store.direct_failures, then_store.direct_failures),
        (&mut prefetch.row_groups, then_prefetch.row_groups),
        (&mut prefetch.row_groups_used, then_prefetch.row_groups_used),
        (&mut prefetch.bytes, then_prefetch.bytes),
        (&mut prefetch.bytes_unused, then_prefetch.bytes_unused),
        (&mut prefetch.waits, then_prefetch.waits),
    ] {
        *now = now.saturating_sub(then);
    }
    since
}

impl fmt::Display for QueryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |time: Duration| format!("{:.3} s", time.as_secs_f64());
        match self.result {
            Some(ResultSize { rows: 1, bytes }) => write!(f, "1 row, {}, ", format_bytes(bytes))?,
            Some(ResultSize { rows, bytes }) => {
                write!(f, "{rows} rows, {}, ", format_bytes(bytes))?;
            }
            None => write!(f, "done, ")?,
        }
        let (wall, planning) = (seconds(self.wall), seconds(self.planning));
        let cpu = seconds(self.usage.cpu);
        writeln!(f, "{wall} (planning {planning}), CPU {cpu}")?;

        match &self.files {
            Some(files) => {
                write_reads(f, &files.store)?;
                write_writes(f, &files.store)?;
                write_prefetch(f, &files.prefetch)?;
            }
            None => {
                let bytes = self.usage.io.map(|io| format_bytes(io.read_calls));
                let bytes = bytes.unwrap_or_else(|| "unknown".into());
                writeln!(f, "reads: LocalFileSystem, {bytes} by read(2)")?;
            }
        }
        match self.usage.io {
            Some(io) => {
                let (read, written) = (
                    format_bytes(io.device_reads),
                    format_bytes(io.device_writes),
                );
                write!(f, "device: {read} read, {written} written")
            }
            None => write!(f, "device: unknown, /proc/self/io can't be read"),
        }
    }
}

fn write_reads(f: &mut fmt::Formatter<'_>, store: &StoreMetrics) -> fmt::Result {
    let direct = transfers(store.direct);
    let (cached, blocking) = (transfers(store.cached), transfers(store.blocking));
    write!(
        f,
        "reads: direct {direct}, cached {cached}, blocking {blocking}"
    )?;
    match (&store.context_error, store.backend) {
        (Some(error), _) => write!(f, "; no direct I/O: {error}")?,
        (None, Some(Backend::ThreadPool)) => write!(f, "; backend threads")?,
        (None, Some(Backend::KernelAio)) => write!(f, "; backend kernel AIO")?,
        (None, Some(other)) => write!(f, "; backend {other:?}")?,
        (None, None) => (),
    }
    match store.direct_failures {
        0 => writeln!(f),
        failed => writeln!(f, "; {failed} direct reads failed and were repeated"),
    }
}

fn write_writes(f: &mut fmt::Formatter<'_>, store: &StoreMetrics) -> fmt::Result {
    if store.direct_writes.count + store.blocking_writes.count == 0 {
        return Ok(());
    }
    let direct = transfers(store.direct_writes);
    let blocking = transfers(store.blocking_writes);
    writeln!(f, "writes: direct {direct}, blocking {blocking}")
}

fn write_prefetch(f: &mut fmt::Formatter<'_>, prefetch: &PrefetchMetrics) -> fmt::Result {
    if prefetch.row_groups == 0 {
        return Ok(());
    }
    let PrefetchMetrics {
        row_groups,
        row_groups_used,
        bytes,
        waits,
        ..
    } = *prefetch;
    let (bytes, groups) = (
        format_bytes(bytes),
        if row_groups == 1 { "group" } else { "groups" },
    );
    write!(f, "prefetch: {row_groups} row {groups} ({bytes}), ")?;
    write!(f, "{row_groups_used} used, {waits} waited for")?;
    match prefetch.bytes_unused {
        0 => writeln!(f),
        unused => writeln!(f, ", {} not used", format_bytes(unused)),
    }
}

fn transfers(transfers: Transfers) -> String {
    match transfers.count {
        0 => "0".to_owned(),
        count => format!("{count} ({})", format_bytes(transfers.bytes)),
    }
}
