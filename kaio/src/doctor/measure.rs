//! One class of requests on one target.

use std::time::Duration;

use rustix::io::Errno;

use super::classes::{Answers, Bare, Class, Effort, Result, Target};
use super::report::ClassReport;
use super::way_out::{errno, full};
use crate::alignment::Aligned;

/// So many requests, and so long for them, that a path takes no more than five seconds on any disk.
pub(crate) fn effort(alignment: &Aligned) -> Effort {
    let wanted = alignment.offset.max(alignment.read_offset);
    Effort {
        block: wanted.max(alignment.memory).next_multiple_of(4096),
        requests: 256,
        few: 64,
        limit: Some(Duration::from_millis(300)),
    }
}

/// What the class comes to, and a failure with its way out, unless what failed is something that a
/// file system need not have.
pub(crate) async fn measure(
    target: &Target,
    class: Class,
    effort: Effort,
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
    let Err(error) = fill(&mut report, target, effort).await else {
        return (report, None);
    };
    report.error = Some(error.to_string());
    if errno(error.as_ref()) == Some(Errno::OPNOTSUPP.raw_os_error()) {
        return (report, None);
    }
    let failure = match full(error.as_ref()) {
        Some(way_out) => format!("{error}; {way_out}"),
        None => error.to_string(),
    };
    (report, Some(failure))
}

async fn fill(report: &mut ClassReport, target: &Target, effort: Effort) -> Result<()> {
    let class = report.class;
    let bare = Bare::measure(target, class, effort).await?;
    report.verdict = Some(bare.verdict());
    report.requests = bare.seen;
    report.share_inside = Some(bare.share_inside());
    report.share_slept = Some(bare.share_slept());
    report.median_us = Some(bare.median.as_secs_f64() * 1e6);
    if class != Class::Sync {
        report.nowait = Some(Answers::measure(target, class, effort).await?);
    }
    Ok(())
}
