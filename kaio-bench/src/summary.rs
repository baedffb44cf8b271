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
    /// Nanoseconds a transfer that the machine's CPUs were busy, all rounds together.
    pub machine_ns: Option<f64>,
    /// Transfers a second.
    pub iops: Option<Spread>,
    /// Context switches a transfer, voluntary and not.
    pub switches: Option<Spread>,
    /// CPU, to the baseline's in the same round.
    pub cpu_ratio: Option<Spread>,
    /// [`Summary::machine_ns`], to the baseline's.
    pub machine_ratio: Option<f64>,
    /// Transfers a second, to the baseline's in the same round.
    pub iops_ratio: Option<Spread>,
    /// Wall time a transfer, to the baseline's in the same round: how many a second, turned over.
    pub time_ratio: Option<Spread>,
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
        let machine_ns = machine_ns(rounds);
        let p99 = |latency: &Quantiles| latency.p99_ns;
        Summary {
            cpu_ns: over(Sample::cpu_ns),
            user_share: user_share(rounds),
            machine_ns,
            iops: over(Sample::iops),
            switches: over(|round| round.each((round.voluntary + round.involuntary) as f64)),
            cpu_ratio: ratio(Sample::cpu_ns),
            machine_ratio: baseline.and_then(|baseline| {
                let theirs = self::machine_ns(&baseline.rounds)?;
                Some(machine_ns? / theirs)
            }),
            iops_ratio: ratio(Sample::iops),
            time_ratio: ratio(|round| round.each(round.wall_ns)),
            p99_ratio: baseline.and_then(|baseline| {
                let theirs = baseline.latency_rounds.iter().map(p99);
                Spread::of_ratios(figures.latency_rounds.iter().map(p99), theirs)
            }),
        }
    }
}

/// Not for each round: it is told in steps of 10 ms. `None` where even the sum is too small for them.
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

    /// Rounds of ten transfers in which the machine was so busy.
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
    fn how_busy_the_machine_was_is_told_by_the_sum_of_all_rounds() {
        // Less than nothing, for the steps are coarse, counts as well as the rest.
        let theirs = figures([Some(-300.0), Some(900.0), Some(3300.0)]);
        let ours = figures([Some(300.0), Some(3300.0), Some(8100.0)]);
        let summary = Summary::of(&ours, Some(&theirs));
        assert_eq!(summary.machine_ns, Some(390.0));
        assert_eq!(summary.machine_ratio, Some(3.0));
    }

    #[test]
    fn a_sum_that_is_too_small_or_not_whole_is_none() {
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
