//! [`calibrate`]: how many transfers fill a round.

use std::time::Duration;

use crate::Result;

/// A number of transfers that takes about `time`, in whole waves of `depth`. `run` makes so many
/// and says how long they took; it also warms up what it runs.
///
/// # Errors
///
/// What `run` fails with.
pub(crate) fn calibrate(
    mut run: impl FnMut(usize) -> Result<Duration>,
    time: Duration,
    depth: usize,
) -> Result<usize> {
    let mut transfers = depth;
    loop {
        let took = run(transfers)?;
        // Long enough for the rest to be a rule of three.
        if took >= time / 4 || transfers >= MOST {
            let share = time.as_secs_f64() / took.as_secs_f64().max(1e-9);
            let fitting = (transfers as f64 * share).min(MOST as f64) as usize;
            return Ok(fitting.next_multiple_of(depth).max(depth));
        }
        transfers *= 2;
    }
}

/// Transfers of a round, at most: for an engine that takes no time.
const MOST: usize = 1 << 24;

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: Duration = Duration::from_millis(100);

    /// Each transfer takes so long.
    fn with_cost(nanos: u64, depth: usize) -> usize {
        let run = |transfers| Ok(Duration::from_nanos(nanos * transfers as u64));
        calibrate(run, ROUND, depth).unwrap()
    }

    #[test]
    fn a_round_is_filled_with_whole_waves() {
        assert_eq!(with_cost(1000, 1), 100_000);
        assert_eq!(with_cost(1000, 32), 100_000);
        assert_eq!(with_cost(1000, 128), 100_096);
    }

    #[test]
    fn a_slow_engine_makes_a_wave_all_the_same() {
        assert_eq!(with_cost(1_000_000_000, 8), 8);
    }

    #[test]
    fn an_engine_that_takes_no_time_does_not_run_for_ever() {
        assert_eq!(with_cost(0, 1), MOST);
    }

    #[test]
    fn an_error_ends_it() {
        let run = |_| Err("no disk".into());
        assert_eq!(calibrate(run, ROUND, 1).unwrap_err().to_string(), "no disk");
    }
}
