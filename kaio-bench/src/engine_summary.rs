//! [`Summary`]: medians and ratios of an engine.

use serde::{Deserialize, Serialize};

use crate::bench_report::{Figures, Quantiles, Sample};
use crate::spread::Spread;

/// Medians of an engine's rounds, and ratios to the same rounds of the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// CPU nanoseconds per transfer.
    pub cpu_ns: Option<Spread>,
    /// User-space share of the CPU time of all rounds, 0 to 1. Not per round, since many kernels tell
    /// user from system time by clock ticks only.
    pub user_share: Option<f64>,
    /// Nanoseconds per transfer that the machine's CPUs were busy, over all rounds.
    pub machine_ns: Option<f64>,
    /// Transfers per second.
    pub iops: Option<Spread>,
    /// Context switches per transfer, voluntary and involuntary.
    pub switches: Option<Spread>,
    /// Ratio of CPU per transfer.
    pub cpu_ratio: Option<Spread>,
    /// Ratio of [`Summary::machine_ns`].
    pub machine_ratio: Option<f64>,
    /// Ratio of transfers per second.
    pub iops_ratio: Option<Spread>,
    /// Ratio of wall time per transfer: the reciprocal of [`Summary::iops_ratio`] in each round.
    pub time_ratio: Option<Spread>,
    /// Ratio of 99th-percentile latencies.
    pub p99_ratio: Option<Spread>,
}

impl Summary {
    pub(crate) fn of(figures: &Figures, baseline: Option<&Figures>) -> Summary {
        let rounds = &figures.rounds;
        let spread = |value: fn(&Sample) -> f64| Spread::of(rounds.iter().map(value));
        let ratio = |value: fn(&Sample) -> f64| {
            let theirs = baseline?.rounds.iter().map(value);
            Spread::of_ratios(rounds.iter().map(value), theirs)
        };
        let machine_ns = machine_ns(rounds);
        let p99 = |latency: &Quantiles| latency.p99_ns;
        Summary {
            cpu_ns: spread(Sample::cpu_ns),
            user_share: user_share(rounds),
            machine_ns,
            iops: spread(Sample::iops),
            switches: spread(|round| {
                round.per_transfer((round.voluntary + round.involuntary) as f64)
            }),
            cpu_ratio: ratio(Sample::cpu_ns),
            machine_ratio: baseline.and_then(|baseline| {
                let theirs = self::machine_ns(&baseline.rounds)?;
                Some(machine_ns? / theirs)
            }),
            iops_ratio: ratio(Sample::iops),
            time_ratio: ratio(|round| round.per_transfer(round.wall_ns)),
            p99_ratio: baseline.and_then(|baseline| {
                let theirs = baseline.latency_rounds.iter().map(p99);
                Spread::of_ratios(figures.latency_rounds.iter().map(p99), theirs)
            }),
        }
    }
}

/// Machine time per transfer over all rounds, since the resolution of 10 ms is too coarse for single
/// rounds. `None` if even the sum is below the resolution.
fn machine_ns(rounds: &[Sample]) -> Option<f64> {
    let busy: Option<f64> = rounds.iter().map(|round| round.busy_ns).sum();
    let transfers: u64 = rounds.iter().map(|round| round.transfers).sum();
    let each = busy? / transfers as f64;
    (each.is_finite() && each > 0.0).then_some(each)
}

fn user_share(rounds: &[Sample]) -> Option<f64> {
    let user: f64 = rounds.iter().map(|round| round.user_ns).sum();
    let system: f64 = rounds.iter().map(|round| round.system_ns).sum();
    let share = user / (user + system);
    share.is_finite().then_some(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of ten transfers with the given busy times.
    fn figures(busy: [Option<f64>; 3]) -> Figures {
        let round = |busy_ns| Sample {
            transfers: 10,
            wall_ns: 1.0,
            user_ns: 1.0,
            system_ns: 1.0,
            busy_ns,
            voluntary: 0,
            involuntary: 0,
        };
        Figures {
            rounds: busy.map(round).into(),
            ..Figures::default()
        }
    }

    #[test]
    fn machine_time_is_summed_over_all_rounds() {
        // Negative values, which the coarse resolution causes, are part of the sum.
        let theirs = figures([Some(-300.0), Some(900.0), Some(3300.0)]);
        let ours = figures([Some(300.0), Some(3300.0), Some(8100.0)]);
        let summary = Summary::of(&ours, Some(&theirs));
        assert_eq!(summary.machine_ns, Some(390.0));
        assert_eq!(summary.machine_ratio, Some(3.0));
    }

    #[test]
    fn a_sum_that_is_not_positive_or_incomplete_is_none() {
        let ours = figures([Some(300.0); 3]);
        for theirs in [
            [Some(-1e3), None, Some(1e4)],
            [Some(-5.0), Some(5.0), Some(0.0)],
        ] {
            let theirs = figures(theirs);
            let summary = Summary::of(&ours, Some(&theirs));
            assert_eq!(
                (summary.machine_ns, summary.machine_ratio),
                (Some(30.0), None)
            );
            assert_eq!(Summary::of(&theirs, Some(&ours)).machine_ns, None);
        }
    }
}
