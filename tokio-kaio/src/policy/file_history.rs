//! [`FileHistory`]: the submit policy of one file, and what was learned from earlier requests on it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use super::nowait::{NowaitPredictor, NowaitResult, Refusal};
use super::{NowaitAttempt, OpClass, OpInfo, SubmitObservation, SubmitPath, SubmitPlan};
use crate::SubmitPolicy;
use crate::sys::abi;

/// The largest write that is merged with others, in bytes. Larger writes gain little from it, and a file system
/// that extends files asynchronously would lose the queue depth.
pub(crate) const MAX_MERGED_WRITE: u64 = 64 << 10;

/// Shared by all contexts that the file is used with. A race between threads loses at most one observation.
#[derive(Debug)]
pub(crate) struct FileHistory {
    /// [`SubmitPolicy::code`]. 0: the policy of the context.
    policy: AtomicU8,
    /// Indexed by [`OpClass`].
    predictors: [NowaitPredictor; 4],
    /// The last submission was slow by the clock. The next submission is measured closely.
    suspect: AtomicBool,
    /// The file has data up to here, as earlier transfers have shown.
    known_end: AtomicU64,
}

impl FileHistory {
    pub(crate) fn new() -> FileHistory {
        FileHistory {
            policy: AtomicU8::new(0),
            predictors: [
                NowaitPredictor::new(),
                NowaitPredictor::new(),
                NowaitPredictor::new(),
                NowaitPredictor::offloading(), // an append always extends the file
            ],
            suspect: AtomicBool::new(false),
            known_end: AtomicU64::new(0),
        }
    }

    /// Creates the history of a descriptor that serves one request, so that there is nothing to learn.
    pub(crate) fn single_use() -> FileHistory {
        FileHistory {
            predictors: [const { NowaitPredictor::inline() }; 4],
            ..FileHistory::new()
        }
    }

    pub(crate) fn policy(&self) -> Option<SubmitPolicy> {
        SubmitPolicy::from_code(self.policy.load(Ordering::Relaxed))
    }

    /// Sets the policy. `None`: the policy of the context.
    pub(crate) fn set_policy(&self, policy: Option<SubmitPolicy>) {
        let code = policy.map_or(0, SubmitPolicy::code);
        self.policy.store(code, Ordering::Relaxed);
    }

    /// Returns the code of the file's policy, or of the policy `context` if the file has none.
    #[inline(always)]
    fn policy_or(&self, context: SubmitPolicy) -> u8 {
        match self.policy.load(Ordering::Relaxed) {
            0 => context.code(),
            own => own,
        }
    }

    /// Returns how to submit a request in a context with `policy`. `probe` is true if the request should
    /// probe whether the kernel still refuses `RWF_NOWAIT`.
    #[inline(always)]
    pub(super) fn plan(&self, op: &OpInfo, policy: SubmitPolicy, probe: bool) -> SubmitPlan {
        const INLINE: u8 = SubmitPolicy::Inline.code();
        const OFFLOAD: u8 = SubmitPolicy::Offload.code();
        let class = self.classify(op);
        let path = match self.policy_or(policy) {
            INLINE => SubmitPath::Inline,
            OFFLOAD if !op.is_poll => SubmitPath::Offload, // submitting a poll never blocks
            _ => match class {
                Some(class) if op.rw_flags & abi::RWF_NOWAIT == 0 => {
                    self.predictor(class).path(probe)
                }
                _ => SubmitPath::Inline,
            },
        };
        SubmitPlan { path, class }
    }

    /// Like [`plan`](FileHistory::plan), if submissions never block: only for writes that the
    /// offload pool may merge with others. All other requests are left to the kernel.
    #[cold]
    pub(super) fn plan_nonblocking(
        &self,
        op: &OpInfo,
        policy: SubmitPolicy,
        probe: bool,
    ) -> SubmitPlan {
        let is_default = self.policy_or(policy) == SubmitPolicy::NoWaitFirst.code();
        let merges = op.nbytes <= MAX_MERGED_WRITE && self.classify(op) == Some(OpClass::Extend);
        // Without the flag nobody knows whether the write would block.
        let is_known = !self.predictor(OpClass::Extend).is_flag_unsupported();
        match is_default && merges && is_known {
            true => self.plan(op, policy, probe),
            false => SubmitPlan::INLINE,
        }
    }

    /// Returns whether to measure the thread usage of the next submission, in a context with `policy`. `due`
    /// is true if the submission was selected as a sample.
    #[inline(always)]
    pub(super) fn wants_thread_usage(&self, policy: SubmitPolicy, due: bool) -> bool {
        (due || self.suspect.load(Ordering::Relaxed))
            && self.policy_or(policy) == SubmitPolicy::NoWaitFirst.code()
    }

    #[inline(always)]
    pub(crate) fn classify(&self, op: &OpInfo) -> Option<OpClass> {
        match op.direction? {
            super::Direction::Read => Some(OpClass::Read),
            super::Direction::Write if op.appends => Some(OpClass::Append),
            super::Direction::Write => {
                let end = op.offset.saturating_add(op.nbytes);
                Some(match end <= self.known_end.load(Ordering::Relaxed) {
                    true => OpClass::Overwrite,
                    false => OpClass::Extend,
                })
            }
        }
    }

    #[inline(always)]
    fn predictor(&self, class: OpClass) -> &NowaitPredictor {
        &self.predictors[class as usize]
    }

    /// Learns from the result of an attempt. Returns the reason if the request has to be submitted again.
    pub(super) fn on_nowait_result(
        &self,
        op: &OpInfo,
        attempt: NowaitAttempt,
        result: NowaitResult,
    ) -> Option<Refusal> {
        let predictor = self.predictor(attempt.class);
        let refusal = Refusal::of(op, result);
        match refusal {
            None if matches!(result, NowaitResult::Completed(_)) => {
                predictor.accepted(attempt.probe);
            }
            Some(Refusal::WouldBlock) => predictor.refused(false),
            Some(Refusal::FlagUnsupported) => predictor.refused(true),
            // These say nothing about the next attempt.
            None | Some(Refusal::SomeFlagUnsupported | Refusal::Short) => {}
        }
        refusal
    }

    /// Learns from the submission of a request of `class` by a thread of the runtime. After a slow
    /// submission, the thread usage of the next submission is measured.
    pub(crate) fn observe_submit(&self, class: Option<OpClass>, observation: SubmitObservation) {
        let slow = observation == SubmitObservation::Slow;
        self.suspect.store(slow, Ordering::Relaxed);
        if let (SubmitObservation::Blocked, Some(class)) = (observation, class) {
            self.predictor(class).observe(true);
        }
    }

    /// Returns whether submissions of writes that extend the file block, as far as measured.
    pub(crate) fn extending_blocks(&self) -> bool {
        self.predictor(OpClass::Extend).blocked()
    }

    /// Learns from the submission of a request of `class` by the blocking pool, where the thread usage of all
    /// submissions is measured.
    pub(crate) fn observe_offloaded_submit(
        &self,
        class: Option<OpClass>,
        observation: SubmitObservation,
    ) {
        if let Some(class) = class {
            let blocked = observation == SubmitObservation::Blocked;
            self.predictor(class).observe(blocked);
        }
    }

    /// Records that the file has data up to `end`, as a transfer has shown.
    #[inline(always)]
    pub(crate) fn has_data_to(&self, end: u64) {
        if self.known_end.load(Ordering::Relaxed) < end {
            self.known_end.fetch_max(end, Ordering::Relaxed);
        }
    }

    /// Records that the file has no data from `end` on.
    pub(crate) fn ends_at(&self, end: u64) {
        self.known_end.fetch_min(end, Ordering::Relaxed);
    }
}
