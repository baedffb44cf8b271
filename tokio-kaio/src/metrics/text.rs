//! The counters as lines of text.

use std::fmt::{self, Display, Formatter};

use super::Metrics;

/// A few lines for people: for a log at the end of a program, or a debugging session. Programs should read
/// the fields. The form may change.
///
/// ```text
/// requests: 2000 submitted, 1999 completed, 0 failed, 1 abandoned
/// now: 0 queued, 1 in flight, of those 1 abandoned and 0 waiting for a thread
/// calls: 250, with 8.0 requests each, 4.1µs each on the runtime's threads, 0 slow there
/// blocking pool: 12 requests offloaded, 3 after a refused NOWAIT, 1 slow submission
/// full: 7 requests found no free slot
/// latency: median 81.9µs, 99 % below 147.5µs, longest 1.2ms
/// ```
impl Display for Metrics {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Metrics {
            submitted,
            completed,
            failed,
            abandoned,
            ..
        } = self;
        writeln!(
            f,
            "requests: {submitted} submitted, {completed} completed, {failed} failed, {abandoned} abandoned"
        )?;
        writeln!(
            f,
            "now: {} queued, {} in flight, of those {} abandoned and {} waiting for a thread",
            self.queued, self.in_flight, self.abandoned_in_flight, self.waiting_for_thread
        )?;
        write!(f, "calls: {}", self.batches)?;
        if let Some(mean) = self.mean_batch() {
            write!(f, ", with {mean:.1} requests each")?;
        }
        if let Some(mean) = self.mean_submit() {
            write!(f, ", {mean:.1?} each on the runtime's threads")?;
        }
        writeln!(f, ", {} slow there", self.slow_submits)?;
        writeln!(
            f,
            "blocking pool: {} requests offloaded, {} after a refused NOWAIT, {} slow {}",
            self.offloads,
            self.nowait_refusals,
            self.slow_offloads,
            match self.slow_offloads {
                1 => "submission",
                _ => "submissions",
            }
        )?;
        write!(f, "full: {} requests found no free slot", self.found_full)?;
        if self.unmatched_completions > 0 {
            let count = self.unmatched_completions;
            write!(f, "\nunmatched: {count} completions of no request")?;
        }
        if self.unfinished_writers > 0 {
            let count = self.unfinished_writers;
            write!(
                f,
                "\nunfinished: {count} writers dropped with bytes or an error in them"
            )?;
        }
        let Some(latency) = &self.latency else {
            return Ok(());
        };
        if let (Some(median), Some(most)) = (latency.percentile(50.0), latency.percentile(99.0)) {
            write!(
                f,
                "\nlatency: median {median:.1?}, 99 % below {most:.1?}, longest {:.1?}",
                latency.max()
            )?;
        }
        Ok(())
    }
}
