//! Measures one class of requests on one target.

use std::time::Duration;

use rustix::io::Errno;

use super::doctor_report::ClassReport;
use super::error_hints::{errno, no_space_hint};
use super::request_classes::{
    MeasureSettings, MeasureTarget, NowaitResults, RequestClass, Result, SubmitStats,
};
use crate::direct_io_probe::DirectIoAlignment;

/// The settings with which a path takes at most five seconds on any disk.
pub(crate) fn measure_settings(alignment: &DirectIoAlignment) -> MeasureSettings {
    let required = alignment.offset.max(alignment.read_offset);
    MeasureSettings {
        block: required.max(alignment.memory).next_multiple_of(4096),
        requests: 256,
        few: 64,
        limit: Some(Duration::from_millis(300)),
    }
}

/// Measures a class. Returns the report, and the error with a hint, unless the file system just doesn't
/// support the operation.
pub(crate) async fn measure_class(
    target: &MeasureTarget,
    class: RequestClass,
    settings: MeasureSettings,
) -> (ClassReport, Option<String>) {
    let mut report = ClassReport {
        class,
        verdict: None,
        requests: 0,
        share_inside: None,
        share_slept: None,
        median_us: None,
        nowait: None,
        error: None,
    };
    let Err(error) = fill(&mut report, target, settings).await else {
        return (report, None);
    };
    report.error = Some(error.to_string());
    if errno(error.as_ref()) == Some(Errno::OPNOTSUPP.raw_os_error()) {
        return (report, None);
    }
    let error = match no_space_hint(error.as_ref()) {
        Some(hint) => format!("{error}; {hint}"),
        None => error.to_string(),
    };
    (report, Some(error))
}

async fn fill(
    report: &mut ClassReport,
    target: &MeasureTarget,
    settings: MeasureSettings,
) -> Result<()> {
    let class = report.class;
    let stats = SubmitStats::measure(target, class, settings).await?;
    report.verdict = Some(stats.verdict());
    report.requests = stats.seen;
    report.share_inside = Some(stats.share_inside());
    report.share_slept = Some(stats.share_slept());
    report.median_us = Some(stats.median.as_secs_f64() * 1e6);
    if class != RequestClass::Sync {
        report.nowait = Some(NowaitResults::measure(target, class, settings).await?);
    }
    Ok(())
}
