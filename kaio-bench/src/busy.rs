//! [`Watch`]: how long the machine's CPUs were busy, whoever kept them so.
#![allow(unsafe_code)]

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// Looks at the machine from its start on.
///
/// What a process has used leaves out the interrupts that come while it sleeps: the kernel serves
/// them in its idle task, and charges them to nobody. So this takes the time that CPUs were *not*
/// idle. It is that of everybody on the machine, and of interrupts.
#[derive(Debug)]
pub(crate) struct Watch {
    start: Instant,
    idle_ns: f64,
}

impl Watch {
    /// Starts. `None` where the machine does not tell.
    pub(crate) fn start() -> Option<Watch> {
        let (idle_ns, _) = now()?;
        Some(Watch {
            start: Instant::now(),
            idle_ns,
        })
    }

    /// Nanoseconds that CPUs were busy since the start, those of all CPUs together. In steps of a
    /// tick, mostly 10 ms; within so many it is wrong, and may be below zero. Over many spans that
    /// evens out.
    pub(crate) fn busy_ns(&self) -> Option<f64> {
        Some(self.busy()?.0)
    }

    /// The share of all CPUs' time that they were busy, 0 to 1.
    fn share(&self) -> Option<f64> {
        let (busy, all) = self.busy()?;
        Some((busy / all).clamp(0.0, 1.0))
    }

    /// Busy nanoseconds, and all there were.
    fn busy(&self) -> Option<(f64, f64)> {
        let (idle_ns, cpus) = now()?;
        let all = self.start.elapsed().as_nanos() as f64 * cpus as f64;
        Some((all - (idle_ns - self.idle_ns), all))
    }
}

/// The share of the machine, 0 to 1, that is busy while this process sleeps, for a moment.
pub(crate) fn others() -> Option<f64> {
    let watch = Watch::start()?;
    thread::sleep(Duration::from_millis(300));
    watch.share()
}

/// Nanoseconds that all CPUs have been idle so far, together, and how many CPUs there are.
fn now() -> Option<(f64, usize)> {
    let (ticks, cpus) = parse(&fs::read_to_string("/proc/stat").ok()?)?;
    Some((ticks as f64 * tick_ns()?, cpus))
}

/// Nanoseconds of a tick, as times in `/proc` have them.
fn tick_ns() -> Option<f64> {
    // SAFETY: asks for a number.
    let ticks_a_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    (ticks_a_second > 0).then(|| 1e9 / ticks_a_second as f64)
}

/// Idle ticks of [`/proc/stat`](https://man7.org/linux/man-pages/man5/proc_stat.5.html), with those
/// in which a disk was waited for, and the number of CPUs that are online.
fn parse(stat: &str) -> Option<(u64, usize)> {
    let all = stat.lines().next()?.strip_prefix("cpu ")?;
    // user, nice and system come before.
    let mut fields = all.split_ascii_whitespace().skip(3);
    let mut field = || fields.next()?.parse::<u64>().ok();
    let ticks = field()? + field()?;
    let cpus = stat.lines().skip(1);
    let cpus = cpus.take_while(|line| line.starts_with("cpu")).count();
    (cpus > 0).then_some((ticks, cpus))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Usage;

    const STAT: &str = "\
cpu  728194 148877 500170 1557014 12230 0 14564 288 0 0
cpu0 356163 70065 234669 819642 3221 0 450 132 0 0
cpu1 372030 78811 265500 737371 9008 0 14114 156 0 0
intr 1 2 3
";

    #[test]
    fn waiting_for_a_disk_is_idle_and_there_are_as_many_cpus_as_lines() {
        assert_eq!(parse(STAT), Some((1_557_014 + 12_230, 2)));
    }

    #[test]
    fn what_is_no_such_text_tells_nothing() {
        for text in [
            "",
            "cpu  1 2 3 4",
            "cpu  1 2 3 4 5 6",
            "cpu  a b c d e\ncpu0",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_machine_is_as_busy_as_this_process_at_least() {
        let own = || {
            let usage = Usage::now();
            (usage.user + usage.system).as_nanos() as f64
        };
        // A tick at both ends, of both kinds of idleness.
        let tolerance = 4.0 * tick_ns().unwrap();
        let (watch, before) = (Watch::start().unwrap(), own());
        while own() - before < 10.0 * tolerance {
            std::hint::spin_loop();
        }
        let (own, (busy, all)) = (own() - before, watch.busy().unwrap());
        assert!(busy >= own - tolerance, "{busy} by all, {own} by us");
        assert!(busy <= all + tolerance, "{busy} of {all}");
    }

    #[test]
    fn a_share_is_one_of_all_cpus() {
        let share = others().unwrap();
        assert!((0.0..=1.0).contains(&share), "{share}");
    }
}
