//! [`InlineCompletionDetector`]: detects that requests complete inside `io_submit`, as on tmpfs.
//!
//! Why: the reap after the submission finds the completions of such requests, so signals are useless.
//! Without the eventfd (`IOCB_FLAG_RESFD`), a read from tmpfs takes 12 to 22 % less CPU on one thread, all of
//! it kernel time. On a disk nothing changes.

/// Detects a long run of inline completions.
///
/// After such a run, requests are submitted without a signal. If one of them does not complete inline after
/// all, the driver task reaps repeatedly, with pauses, until it has completed. Later requests are signalled
/// again, and the next run must be four times as long. Such a mistake is expensive, and a fast disk may
/// complete many batches in a row inline, so even the first run is long.
#[derive(Debug)]
pub(super) struct InlineCompletionDetector {
    /// Number of consecutive requests that completed inline.
    run: u32,
    /// The run at which signals are no longer needed.
    required: u32,
}

const FIRST_RUN: u32 = 1 << 14;
const LONGEST_RUN: u32 = 1 << 24;

impl Default for InlineCompletionDetector {
    fn default() -> InlineCompletionDetector {
        InlineCompletionDetector {
            run: 0,
            required: FIRST_RUN,
        }
    }
}

impl InlineCompletionDetector {
    /// Detects inline completion from the start.
    #[cfg(all(test, kaio_loom))]
    pub(super) fn always() -> InlineCompletionDetector {
        InlineCompletionDetector {
            run: 0,
            required: 0,
        }
    }

    /// Returns whether the next requests are expected to complete inline.
    #[inline]
    pub(super) fn completes_inline(&self) -> bool {
        self.run >= self.required
    }

    /// Returns whether all requests of the last submission completed inline.
    #[inline]
    pub(super) fn last_completed_inline(&self) -> bool {
        self.run > 0
    }

    /// Records a submission of `requests` requests, after the reap that followed it. `suppressed` is true if
    /// it was made without a signal, `all_completed` if none of the requests is in flight any more.
    #[inline]
    pub(super) fn on_submitted(&mut self, requests: usize, suppressed: bool, all_completed: bool) {
        if all_completed {
            let requests = u32::try_from(requests).unwrap_or(u32::MAX);
            self.run = self.run.saturating_add(requests);
            return;
        }
        self.run = 0;
        if suppressed {
            self.required = (self.required * 4).min(LONGEST_RUN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_until_inline(detector: &mut InlineCompletionDetector) -> u32 {
        let mut requests = 0;
        while !detector.completes_inline() {
            detector.on_submitted(1, false, true);
            requests += 1;
        }
        requests
    }

    #[test]
    fn a_run_of_inline_completions_is_detected() {
        let mut detector = InlineCompletionDetector::default();
        assert!(!detector.completes_inline());
        assert_eq!(run_until_inline(&mut detector), FIRST_RUN);
    }

    #[test]
    fn a_request_that_does_not_complete_inline_ends_the_run() {
        let mut detector = InlineCompletionDetector::default();
        detector.on_submitted(FIRST_RUN as usize - 1, false, true);
        detector.on_submitted(1, false, false);
        assert_eq!(run_until_inline(&mut detector), FIRST_RUN);
    }

    #[test]
    fn each_mistake_lengthens_the_run_that_is_required() {
        let mut detector = InlineCompletionDetector::default();
        for mistakes in 0..8 {
            let run = run_until_inline(&mut detector);
            assert_eq!(run, (FIRST_RUN << (2 * mistakes)).min(LONGEST_RUN));
            detector.on_submitted(32, true, false);
        }
    }
}
