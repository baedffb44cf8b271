//! [`FileHistory`]: submit policy of one file, and what earlier requests on it have shown.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use super::nowait::{NowaitPredictor, NowaitResult, Refusal};
use super::{NowaitAttempt, OpClass, OpInfo, SubmitObservation, SubmitPath, SubmitPlan};
use crate::SubmitPolicy;
use crate::sys::abi;

/// Shared by all contexts that the file is used with. A race between threads loses one observation at
/// most.
#[derive(Debug)]
pub(crate) struct FileHistory {
    /// [`SubmitPolicy::code`]; 0: that of the context.
    policy: AtomicU8,
    /// By [`OpClass`].
    predictors: [NowaitPredictor; 4],
    /// The last submission took long by the clock.
    suspect: AtomicBool,
    /// The file has had data up to here, as far as transfers have shown.
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

    /// For a descriptor that serves one request: there is nothing to learn.
    pub(crate) fn single_use() -> FileHistory {
        FileHistory {
            predictors: [const { NowaitPredictor::inline() }; 4],
            ..FileHistory::new()
        }
    }

    pub(crate) fn policy(&self) -> Option<SubmitPolicy> {
        SubmitPolicy::from_code(self.policy.load(Ordering::Relaxed))
    }

    /// `None`: that of the context.
    pub(crate) fn set_policy(&self, policy: Option<SubmitPolicy>) {
        let code = policy.map_or(0, SubmitPolicy::code);
        self.policy.store(code, Ordering::Relaxed);
    }

    /// Code of the file's policy, or else of the context's.
    #[inline(always)]
    fn policy_or(&self, context: SubmitPolicy) -> u8 {
        match self.policy.load(Ordering::Relaxed) {
            0 => context.code(),
            own => own,
        }
    }

    /// How a request is submitted in a context with `policy`. `probe`: it is the turn of one to find
    /// out whether the kernel still refuses.
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

    /// Whether its next submission is measured closely, in a context with `policy`. `due`: it is the
    /// turn of one.
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

    /// Learns from the result of an attempt. Returns why the request has to be submitted again, if it
    /// has.
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

    /// A thread of the runtime submitted a request of `class`. After a slow submission, the next one
    /// is measured closely.
    pub(crate) fn observe_submit(&self, class: Option<OpClass>, observation: SubmitObservation) {
        let slow = observation == SubmitObservation::Slow;
        self.suspect.store(slow, Ordering::Relaxed);
        if let (SubmitObservation::Blocked, Some(class)) = (observation, class) {
            self.predictor(class).observe(true);
        }
    }

    /// A thread of the blocking pool submitted one; these are all measured closely.
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

    /// A transfer has shown that the file has data up to `end`.
    #[inline(always)]
    pub(crate) fn has_data_to(&self, end: u64) {
        if self.known_end.load(Ordering::Relaxed) < end {
            self.known_end.fetch_max(end, Ordering::Relaxed);
        }
    }

    /// The file has no data from `end` on.
    pub(crate) fn ends_at(&self, end: u64) {
        self.known_end.fetch_min(end, Ordering::Relaxed);
    }
}
