//! [`NowaitPredictor`]: predicts whether requests of one class on one file block in `io_submit`.
//!
//! Why: `io_submit` blocks if the file system has to allocate blocks, read metadata or wait for a lock. With
//! `RWF_NOWAIT` the kernel refuses such a request instead, which costs a second submission. If every
//! request of a class is refused, or if none ever blocks, the attempt is wasted. Figures: when two tasks
//! extended files on ext4 with 2 workers, inline submission made the gaps between polls 4 to 170 times as
//! long. On tmpfs and XFS, the prediction saves a refused attempt for every write (docs/performance.md,
//! docs/file-systems.md).

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::{OpInfo, SubmitPath};
use crate::sys::abi;

/// Learns the best submit path for a class of requests from the results of earlier requests.
///
/// ```text
///  Nowait ─── refused, 4 in a row ───► Offload ── 8 in a row did not block ──► Inline
///   ▲  │                                 ▲  │                                   │  │
///   │  └────────── one blocked ──────────┘  │              one blocked ─────────┼─►Offload
///   └──── a probe now and then is accepted ─┴───────────────────────────────────┘
/// ```
///
/// A race between threads loses at most one observation.
#[derive(Debug)]
pub(crate) struct NowaitPredictor {
    stage: AtomicU8,
    /// Number of consecutive observations in favour of another stage.
    run: AtomicU8,
    /// The kernel does not support `RWF_NOWAIT` for this file, so probes are useless.
    flag_unsupported: AtomicBool,
    /// The last offloaded submission that was measured blocked.
    blocked: AtomicBool,
}

const NOWAIT: u8 = 0;
const OFFLOAD: u8 = 1;
const INLINE: u8 = 2;

/// Number of consecutive refusals that end the attempts.
const MAX_REFUSALS: u8 = 4;
/// Number of consecutive offloaded submissions without blocking after which requests go inline.
const MIN_NOT_BLOCKED: u8 = 8;

impl NowaitPredictor {
    pub(super) const fn new() -> NowaitPredictor {
        NowaitPredictor {
            stage: AtomicU8::new(NOWAIT),
            run: AtomicU8::new(0),
            flag_unsupported: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
        }
    }

    /// Never attempts `RWF_NOWAIT`. Submits inline until a submission blocks.
    pub(super) const fn inline() -> NowaitPredictor {
        NowaitPredictor::without_attempts(INLINE)
    }

    /// Never attempts `RWF_NOWAIT`. Offloads until offloaded submissions turn out not to block.
    pub(super) const fn offloading() -> NowaitPredictor {
        NowaitPredictor::without_attempts(OFFLOAD)
    }

    const fn without_attempts(stage: u8) -> NowaitPredictor {
        NowaitPredictor {
            stage: AtomicU8::new(stage),
            run: AtomicU8::new(0),
            flag_unsupported: AtomicBool::new(true),
            blocked: AtomicBool::new(false),
        }
    }

    /// Returns the path of the next request. `probe` is true if the request should probe whether attempts are
    /// still refused.
    #[inline(always)]
    pub(super) fn path(&self, probe: bool) -> SubmitPath {
        match self.stage() {
            NOWAIT => SubmitPath::Nowait,
            _ if probe && !self.flag_unsupported.load(Ordering::Relaxed) => SubmitPath::NowaitProbe,
            OFFLOAD => SubmitPath::Offload,
            _ => SubmitPath::Inline,
        }
    }

    /// Records that the kernel refused an attempt: with `EOPNOTSUPP` (`unsupported`), or because it would
    /// block.
    pub(super) fn refused(&self, unsupported: bool) {
        if unsupported {
            self.flag_unsupported.store(true, Ordering::Relaxed);
        }
        let limit = if unsupported { 1 } else { MAX_REFUSALS };
        if self.stage() == NOWAIT && self.count_to(limit) {
            self.enter(OFFLOAD);
        }
    }

    /// Records that the kernel accepted an attempt. Only a probe changes the stage back to `Nowait`: other
    /// attempts may have been submitted before the stage changed.
    #[inline]
    pub(super) fn accepted(&self, probe: bool) {
        if probe || self.run.load(Ordering::Relaxed) != 0 && self.stage() == NOWAIT {
            self.enter(NOWAIT);
        }
    }

    /// Returns whether the kernel does not support `RWF_NOWAIT` for this file, as an attempt has shown.
    pub(super) fn is_flag_unsupported(&self) -> bool {
        self.flag_unsupported.load(Ordering::Relaxed)
    }

    /// Returns whether the last submission that was measured blocked its thread.
    pub(super) fn blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Records whether a submission blocked its thread, as measured.
    pub(super) fn observe(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::Relaxed);
        match (self.stage(), blocked) {
            (OFFLOAD, true) => self.run.store(0, Ordering::Relaxed),
            (_, true) => self.enter(OFFLOAD),
            (OFFLOAD, false) if self.count_to(MIN_NOT_BLOCKED) => self.enter(INLINE),
            (_, false) => {}
        }
    }

    fn stage(&self) -> u8 {
        self.stage.load(Ordering::Relaxed)
    }

    fn enter(&self, stage: u8) {
        self.run.store(0, Ordering::Relaxed);
        self.stage.store(stage, Ordering::Relaxed);
    }

    /// Counts one observation. Returns whether there were `limit` in a row.
    fn count_to(&self, limit: u8) -> bool {
        let run = self.run.load(Ordering::Relaxed).saturating_add(1);
        self.run.store(run, Ordering::Relaxed);
        run >= limit
    }
}

/// Result of a submission with `RWF_NOWAIT`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NowaitResult {
    /// The result from the completion: bytes moved, or a negated errno.
    Completed(i64),
    /// The submission itself failed with this errno.
    Rejected(i32),
}

/// Why an attempt must be repeated without `RWF_NOWAIT`: its result is not the result of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The submission would have blocked.
    WouldBlock,
    /// The kernel does not support `RWF_NOWAIT` for this file.
    FlagUnsupported,
    /// The kernel does not support `RWF_NOWAIT`, or a flag that the caller has set.
    SomeFlagUnsupported,
    /// The attempt moved only a part: the rest would have blocked, or the file ends there.
    Short,
}

impl Refusal {
    /// Returns the refusal in `result`, or `None` if `result` is the result of the request.
    pub(crate) fn of(op: &OpInfo, result: NowaitResult) -> Option<Refusal> {
        /// Flags that every kernel with `RWF_NOWAIT` supports.
        const OLD: i32 = abi::RWF_HIPRI | abi::RWF_DSYNC | abi::RWF_SYNC | abi::RWF_APPEND;
        const WOULD_BLOCK: i64 = -(libc::EAGAIN as i64);
        // As the result of a completion: from a buffered write on ext4.
        const UNSUPPORTED: i64 = -(libc::EOPNOTSUPP as i64);
        // From io_uring, which takes a request before it looks at the file.
        const REFUSED: i64 = crate::backend::refusal(libc::EOPNOTSUPP);
        // An attempt is cut short only at a page boundary. A read that ends within a page has reached the
        // end of the file, as in most files, and is not repeated.
        const PAGE: u64 = 4096;
        match result {
            NowaitResult::Completed(WOULD_BLOCK) => Some(Refusal::WouldBlock),
            NowaitResult::Completed(UNSUPPORTED | REFUSED)
            | NowaitResult::Rejected(libc::EOPNOTSUPP) => Some(match op.rw_flags & !OLD {
                0 => Refusal::FlagUnsupported,
                _ => Refusal::SomeFlagUnsupported,
            }),
            NowaitResult::Completed(res @ 1..) if (res as u64) < op.nbytes => {
                let end = op.offset.wrapping_add(res as u64);
                (end % PAGE == 0).then_some(Refusal::Short)
            }
            _ => None,
        }
    }

    /// Returns whether the kernel does not support a flag.
    pub(crate) fn is_unsupported_flag(self) -> bool {
        matches!(
            self,
            Refusal::FlagUnsupported | Refusal::SomeFlagUnsupported
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(predictor: &NowaitPredictor) -> SubmitPath {
        predictor.path(false)
    }

    fn probe(predictor: &NowaitPredictor) -> SubmitPath {
        predictor.path(true)
    }

    fn refuse_until_offloaded(predictor: &NowaitPredictor) {
        for _ in 0..MAX_REFUSALS {
            assert_eq!(path(predictor), SubmitPath::Nowait);
            predictor.refused(false);
        }
        assert_eq!(path(predictor), SubmitPath::Offload);
    }

    #[test]
    fn consecutive_refusals_end_the_attempts() {
        let predictor = NowaitPredictor::new();
        for _ in 0..10 {
            (1..MAX_REFUSALS).for_each(|_| predictor.refused(false));
            predictor.accepted(false);
        }
        refuse_until_offloaded(&predictor);
    }

    #[test]
    fn an_accepted_probe_resumes_the_attempts() {
        let predictor = NowaitPredictor::new();
        refuse_until_offloaded(&predictor);
        assert_eq!(probe(&predictor), SubmitPath::NowaitProbe);
        predictor.refused(false);
        assert_eq!(path(&predictor), SubmitPath::Offload);
        predictor.accepted(true);
        assert_eq!(path(&predictor), SubmitPath::Nowait);
    }

    #[test]
    fn requests_that_are_refused_but_never_block_go_inline() {
        let predictor = NowaitPredictor::new();
        refuse_until_offloaded(&predictor);
        for _ in 1..MIN_NOT_BLOCKED {
            predictor.observe(false);
        }
        predictor.observe(true);
        for _ in 0..MIN_NOT_BLOCKED {
            assert_eq!(path(&predictor), SubmitPath::Offload);
            predictor.observe(false);
        }
        assert_eq!(path(&predictor), SubmitPath::Inline);
        assert_eq!(probe(&predictor), SubmitPath::NowaitProbe);
        predictor.observe(true);
        assert_eq!(path(&predictor), SubmitPath::Offload);
    }

    #[test]
    fn an_unsupported_flag_is_tried_once() {
        let predictor = NowaitPredictor::new();
        predictor.refused(true);
        assert_eq!(probe(&predictor), SubmitPath::Offload);
        (0..MIN_NOT_BLOCKED).for_each(|_| predictor.observe(false));
        assert_eq!(probe(&predictor), SubmitPath::Inline);
    }

    #[test]
    fn an_attempt_that_blocked_offloads_the_next_requests() {
        let predictor = NowaitPredictor::new();
        predictor.observe(false);
        assert_eq!(path(&predictor), SubmitPath::Nowait);
        predictor.observe(true);
        assert_eq!(path(&predictor), SubmitPath::Offload);
        predictor.accepted(false); // submitted before that
        assert_eq!(path(&predictor), SubmitPath::Offload);
    }
}
