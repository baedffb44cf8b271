//! [`FaultInjector`]: decides which operations have faults.

use std::ops::Range;
use std::time::Duration;

use crate::simulation::fault::{Fault, FaultEffect, FaultPlan, Operations};
use crate::simulation::seeded_rng::{RandomUse, SeededRng};

/// The faults of a disk, and how often they have happened.
#[derive(Debug)]
pub(super) struct FaultInjector {
    faults: Vec<ArmedFault>,
    /// Whether a fault depends on the path of the file.
    needs_path: bool,
    rng: SeededRng,
}

#[derive(Debug)]
struct ArmedFault {
    fault: Fault,
    /// Operations for which the conditions held.
    matched: u64,
    /// Operations that were affected.
    happened: u64,
}

/// An operation that may have a fault.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) kinds: Operations,
    pub(super) at: Duration,
    /// Bytes of the file.
    pub(super) range: Option<Range<u64>>,
}

/// The faults of one operation.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct InjectedFaults {
    pub(super) delay: Duration,
    pub(super) is_stuck: bool,
    pub(super) effect: Option<FaultEffect>,
}

impl FaultInjector {
    pub(super) fn new(seed: u64, plan: &FaultPlan) -> FaultInjector {
        let mut injector = FaultInjector {
            faults: Vec::new(),
            needs_path: false,
            rng: SeededRng::new(seed, RandomUse::Faults),
        };
        for fault in &plan.faults {
            injector.add(fault.clone());
        }
        injector
    }

    pub(super) fn add(&mut self, fault: Fault) {
        self.needs_path |= fault.file.is_some();
        self.faults.push(ArmedFault {
            fault,
            matched: 0,
            happened: 0,
        });
    }

    pub(super) fn clear(&mut self) {
        self.faults.clear();
        self.needs_path = false;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// Decides about an operation. `path` returns the path of its file.
    pub(super) fn decide(
        &mut self,
        operation: &Operation,
        path: impl FnOnce() -> String,
    ) -> InjectedFaults {
        let mut injected = InjectedFaults::default();
        let path = if self.needs_path {
            path()
        } else {
            String::new()
        };
        for armed in &mut self.faults {
            if !armed.fault.applies(operation, &path) {
                continue;
            }
            armed.matched += 1;
            let fault = &armed.fault;
            let is_nth = fault.nth.is_none_or(|nth| nth == armed.matched);
            let is_left = fault.at_most.is_none_or(|most| armed.happened < most);
            if !is_nth || !is_left {
                continue;
            }
            if fault.rate.is_some_and(|rate| self.rng.next() >= rate) {
                continue;
            }
            armed.happened += 1;
            match fault.effect {
                FaultEffect::Slow(delay) => {
                    injected.delay = injected.delay.saturating_add(delay);
                }
                FaultEffect::Stuck => injected.is_stuck = true,
                effect => {
                    injected.effect.get_or_insert(effect);
                }
            }
        }
        injected
    }
}

impl Fault {
    fn applies(&self, operation: &Operation, path: &str) -> bool {
        let is_in_file = |file: &String| {
            let below = path.strip_prefix(file.as_str());
            below.is_some_and(|rest| file.is_empty() || rest.is_empty() || rest.starts_with('/'))
        };
        let overlaps = |range: &Range<u64>| {
            let of_operation = operation.range.as_ref();
            of_operation.is_some_and(|of| of.start < range.end && range.start < of.end)
        };
        self.operations.intersects(operation.kinds)
            && self
                .time
                .as_ref()
                .is_none_or(|time| time.contains(&operation.at))
            && self.range.as_ref().is_none_or(overlaps)
            && self.file.as_ref().is_none_or(is_in_file)
    }
}
