//! [`Habit`]: what the kernel does with the requests of one class on one file.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::open_file::Way;

/// Learns where requests are best submitted from, by what became of those before them.
///
/// ```text
///  Try (NOWAIT) ── refused, 4 in a row ──► Pool ── 8 in a row did not wait ──► Plain (no flag)
///   ▲  │                                   ▲  │                                  │  │
///   │  └────────── one waited ─────────────┘  │              one waited ─────────┼─►Pool
///   └──── an attempt now and then is taken ───┴──────────────────────────────────┘
/// ```
///
/// Races between threads lose an observation at most.
#[derive(Debug)]
pub(crate) struct Habit {
    stage: AtomicU8,
    /// Observations in a row that speak for another stage.
    run: AtomicU8,
    /// The kernel does not know the flag for this file: no attempt can tell anything.
    flag_unknown: AtomicBool,
}

const TRY: u8 = 0;
const POOL: u8 = 1;
const PLAIN: u8 = 2;

/// So many refusals in a row end the attempts.
const REFUSALS: u8 = 4;
/// So many submissions in a row that did not wait show that they need no pool.
const DID_NOT_WAIT: u8 = 8;

impl Habit {
    pub(super) const fn new() -> Habit {
        Habit {
            stage: AtomicU8::new(TRY),
            run: AtomicU8::new(0),
            flag_unknown: AtomicBool::new(false),
        }
    }

    /// Not to be tried, and fit to go from where it is made.
    pub(super) const fn plain() -> Habit {
        Habit::without_attempts(PLAIN)
    }

    /// Not to be tried, and in need of the pool, as long as nothing else is seen.
    pub(super) const fn in_pool() -> Habit {
        Habit::without_attempts(POOL)
    }

    const fn without_attempts(stage: u8) -> Habit {
        Habit {
            stage: AtomicU8::new(stage),
            run: AtomicU8::new(0),
            flag_unknown: AtomicBool::new(true),
        }
    }

    /// The way of the next request; `probe`: it is to find out whether attempts are still refused.
    #[inline]
    pub(super) fn way(&self, probe: bool) -> Way {
        match self.stage() {
            TRY => Way::NoWait,
            _ if probe && !self.flag_unknown.load(Ordering::Relaxed) => Way::Probe,
            POOL => Way::Pool,
            _ => Way::Inline,
        }
    }

    /// An attempt was refused: with `EOPNOTSUPP` (`unknown`), or because it would have waited.
    pub(crate) fn refused(&self, unknown: bool) {
        if unknown {
            self.flag_unknown.store(true, Ordering::Relaxed);
        }
        if self.stage() == TRY && self.one_more(if unknown { 1 } else { REFUSALS }) {
            self.enter(POOL);
        }
    }

    /// An attempt was not refused. Attempts that were under way when one of them waited do not
    /// speak against that; a probe that comes after it does.
    #[inline]
    pub(crate) fn taken(&self, probe: bool) {
        if probe || self.run.load(Ordering::Relaxed) != 0 && self.stage() == TRY {
            self.enter(TRY);
        }
    }

    /// A submission made its thread wait, or did not.
    pub(crate) fn submitted(&self, waited: bool) {
        match (self.stage(), waited) {
            (POOL, true) => self.run.store(0, Ordering::Relaxed),
            (_, true) => self.enter(POOL),
            (POOL, false) if self.one_more(DID_NOT_WAIT) => self.enter(PLAIN),
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

    /// Counts; whether that makes `enough`.
    fn one_more(&self, enough: u8) -> bool {
        let run = self.run.load(Ordering::Relaxed).saturating_add(1);
        self.run.store(run, Ordering::Relaxed);
        run >= enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(habit: &Habit) -> Way {
        habit.way(false)
    }

    fn probe(habit: &Habit) -> Way {
        habit.way(true)
    }

    fn refuse_for_good(habit: &Habit) {
        for _ in 0..REFUSALS {
            assert_eq!(way(habit), Way::NoWait);
            habit.refused(false);
        }
        assert_eq!(way(habit), Way::Pool);
    }

    #[test]
    fn refusals_in_a_row_end_the_attempts() {
        let habit = Habit::new();
        for _ in 0..10 {
            (1..REFUSALS).for_each(|_| habit.refused(false));
            habit.taken(false);
        }
        refuse_for_good(&habit);
    }

    #[test]
    fn an_attempt_that_is_taken_brings_them_back() {
        let habit = Habit::new();
        refuse_for_good(&habit);
        assert_eq!(probe(&habit), Way::Probe);
        habit.refused(false);
        assert_eq!(way(&habit), Way::Pool);
        habit.taken(true);
        assert_eq!(way(&habit), Way::NoWait);
    }

    #[test]
    fn what_is_refused_but_never_waits_is_submitted_inline() {
        let habit = Habit::new();
        refuse_for_good(&habit);
        for _ in 1..DID_NOT_WAIT {
            habit.submitted(false);
        }
        habit.submitted(true);
        for _ in 0..DID_NOT_WAIT {
            assert_eq!(way(&habit), Way::Pool);
            habit.submitted(false);
        }
        assert_eq!(way(&habit), Way::Inline);
        assert_eq!(probe(&habit), Way::Probe);
        habit.submitted(true);
        assert_eq!(way(&habit), Way::Pool);
    }

    #[test]
    fn a_flag_that_is_not_known_is_tried_once() {
        let habit = Habit::new();
        habit.refused(true);
        assert_eq!(probe(&habit), Way::Pool);
        (0..DID_NOT_WAIT).for_each(|_| habit.submitted(false));
        assert_eq!(probe(&habit), Way::Inline);
    }

    #[test]
    fn an_attempt_that_waited_all_the_same_sends_the_next_ones_to_the_pool() {
        let habit = Habit::new();
        habit.submitted(false);
        assert_eq!(way(&habit), Way::NoWait);
        habit.submitted(true);
        assert_eq!(way(&habit), Way::Pool);
        habit.taken(false); // made before that
        assert_eq!(way(&habit), Way::Pool);
    }
}
