//! [`calibrate`]: finds how many transfers fill a round.

use std::time::Duration;

use crate::Result;

/// Finds a number of transfers, a multiple of `depth`, that takes about `time`. `run` performs a given
/// number of transfers and returns how long they took; this also warms up the engine.
///
/// # Errors
///
/// Those of `run`.
pub(crate) fn calibrate(
    mut run: impl FnMut(usize) -> Result<Duration>,
    time: Duration,
    depth: usize,
) -> Result<usize> {
    let mut transfers = depth;
    loop {
        let took = run(transfers)?;
        // Long enough to extrapolate from.
        if took >= time / 4 || transfers >= MAX_TRANSFERS {
            let share = time.as_secs_f64() / took.as_secs_f64().max(1e-9);
            let fitting = (transfers as f64 * share).min(MAX_TRANSFERS as f64) as usize;
            return Ok(fitting.next_multiple_of(depth).max(depth));
        }
        transfers *= 2;
    }
}

/// Maximum transfers of a round, for an engine that takes no time.
const MAX_TRANSFERS: usize = 1 << 24;

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: Duration = Duration::from_millis(100);

    /// Calibrates an engine whose transfers take `nanos` each.
    fn with_cost(nanos: u64, depth: usize) -> usize {
        let run = |transfers| Ok(Duration::from_nanos(nanos * transfers as u64));
        calibrate(run, ROUND, depth).unwrap()
    }

    #[test]
    fn a_round_consists_of_whole_waves() {
        assert_eq!(with_cost(1000, 1), 100_000);
        assert_eq!(with_cost(1000, 32), 100_000);
        assert_eq!(with_cost(1000, 128), 100_096);
    }

    #[test]
    fn a_slow_engine_runs_one_wave() {
        assert_eq!(with_cost(1_000_000_000, 8), 8);
    }

    #[test]
    fn an_engine_that_takes_no_time_is_limited() {
        assert_eq!(with_cost(0, 1), MAX_TRANSFERS);
    }

    #[test]
    fn an_error_is_returned() {
        let run = |_| Err("no disk".into());
        assert_eq!(calibrate(run, ROUND, 1).unwrap_err().to_string(), "no disk");
    }
}
