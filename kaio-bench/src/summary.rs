//! [`Summary`]: medians and ratios.

use serde::{Deserialize, Serialize};

use crate::report::{Figures, Quantiles, Sample};
use crate::stats::Spread;

/// What follows from an engine's figures and the baseline's, round by round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// CPU nanoseconds a transfer.
    pub cpu_ns: Option<Spread>,
    /// The share of all rounds' CPU that was used in user space, 0 to 1. Not for each round: many
    /// kernels only look at the clock's ticks which of the two it is.
    pub user_share: Option<f64>,
    /// Transfers a second.
    pub iops: Option<Spread>,
    /// Context switches a transfer, voluntary and not.
    pub switches: Option<Spread>,
    /// CPU, to the baseline's in the same round.
    pub cpu_ratio: Option<Spread>,
    /// Transfers a second, to the baseline's in the same round.
    pub iops_ratio: Option<Spread>,
    /// The latency that 99 % did not exceed, to the baseline's in the same round.
    pub p99_ratio: Option<Spread>,
}

impl Summary {
    pub(crate) fn of(figures: &Figures, baseline: Option<&Figures>) -> Summary {
        let rounds = &figures.rounds;
        let over = |value: fn(&Sample) -> f64| Spread::of(rounds.iter().map(value));
        let ratio = |value: fn(&Sample) -> f64| {
            let theirs = baseline?.rounds.iter().map(value);
            Spread::of_ratios(rounds.iter().map(value), theirs)
        };
        let p99 = |latency: &Quantiles| latency.p99_ns;
        Summary {
            cpu_ns: over(Sample::cpu_ns),
            user_share: user_share(rounds),
            iops: over(Sample::iops),
            switches: over(|round| round.each((round.voluntary + round.involuntary) as f64)),
            cpu_ratio: ratio(Sample::cpu_ns),
            iops_ratio: ratio(Sample::iops),
            p99_ratio: baseline.and_then(|baseline| {
                let theirs = baseline.latency_rounds.iter().map(p99);
                Spread::of_ratios(figures.latency_rounds.iter().map(p99), theirs)
            }),
        }
    }
}

fn user_share(rounds: &[Sample]) -> Option<f64> {
    let user: f64 = rounds.iter().map(|round| round.user_ns).sum();
    let system: f64 = rounds.iter().map(|round| round.system_ns).sum();
    let share = user / (user + system);
    share.is_finite().then_some(share)
}
