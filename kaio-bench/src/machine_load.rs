//! [`LoadTimer`]: measures how long the machine's CPUs were busy, with any process.
#![allow(unsafe_code)]

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// Measures the CPU time of the whole machine since its start.
///
/// Process CPU time leaves out the interrupts that arrive while the process sleeps: the kernel
/// serves them in its idle task and charges no process. This timer instead takes the time in which
/// CPUs were *not* idle, which includes interrupts and all other processes.
#[derive(Debug)]
pub(crate) struct LoadTimer {
    start: Instant,
    idle_ns: f64,
}

impl LoadTimer {
    /// Starts measuring. `None` if `/proc/stat` can't be read.
    pub(crate) fn start() -> Option<LoadTimer> {
        let (idle_ns, _) = total_idle_ns()?;
        Some(LoadTimer {
            start: Instant::now(),
            idle_ns,
        })
    }

    /// Nanoseconds that CPUs were busy since the start, summed over all CPUs.
    ///
    /// The kernel counts in ticks, mostly of 10 ms, so a single value is off by up to a tick for each
    /// CPU and may be negative. Over many intervals the errors cancel out.
    pub(crate) fn busy_ns(&self) -> Option<f64> {
        Some(self.busy_and_total_ns()?.0)
    }

    /// The busy share of all CPUs' time, 0 to 1.
    fn utilization(&self) -> Option<f64> {
        let (busy, all) = self.busy_and_total_ns()?;
        Some((busy / all).clamp(0.0, 1.0))
    }

    /// Busy nanoseconds, and total nanoseconds of all CPUs.
    fn busy_and_total_ns(&self) -> Option<(f64, f64)> {
        let (idle_ns, cpus) = total_idle_ns()?;
        let all = self.start.elapsed().as_nanos() as f64 * cpus as f64;
        Some((all - (idle_ns - self.idle_ns), all))
    }
}

/// Measures the busy share of the machine, 0 to 1, while this process sleeps for 300 ms.
pub(crate) fn background_load() -> Option<f64> {
    let timer = LoadTimer::start()?;
    thread::sleep(Duration::from_millis(300));
    timer.utilization()
}

/// Total idle nanoseconds of all CPUs since boot, and the number of CPUs.
fn total_idle_ns() -> Option<(f64, usize)> {
    let (ticks, cpus) = parse_proc_stat(&fs::read_to_string("/proc/stat").ok()?)?;
    Some((ticks as f64 * tick_ns()?, cpus))
}

/// Nanoseconds of one clock tick, the unit of times in `/proc`.
fn tick_ns() -> Option<f64> {
    // SAFETY: `sysconf` takes and returns plain numbers.
    let ticks_a_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    (ticks_a_second > 0).then(|| 1e9 / ticks_a_second as f64)
}

/// Idle ticks in [`/proc/stat`](https://man7.org/linux/man-pages/man5/proc_stat.5.html), including
/// `iowait`, and the number of online CPUs.
fn parse_proc_stat(stat: &str) -> Option<(u64, usize)> {
    let all = stat.lines().next()?.strip_prefix("cpu ")?;
    // The fields are user, nice, system, idle, iowait.
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
    use crate::rusage::ResourceUsage;

    const STAT: &str = "\
cpu  728194 148877 500170 1557014 12230 0 14564 288 0 0
cpu0 356163 70065 234669 819642 3221 0 450 132 0 0
cpu1 372030 78811 265500 737371 9008 0 14114 156 0 0
intr 1 2 3
";

    #[test]
    fn iowait_counts_as_idle_and_each_cpu_has_a_line() {
        assert_eq!(parse_proc_stat(STAT), Some((1_557_014 + 12_230, 2)));
    }

    #[test]
    fn malformed_text_is_rejected() {
        for text in [
            "",
            "cpu  1 2 3 4",
            "cpu  1 2 3 4 5 6",
            "cpu  a b c d e\ncpu0",
        ] {
            assert_eq!(parse_proc_stat(text), None, "{text}");
        }
    }

    #[test]
    fn the_machine_is_at_least_as_busy_as_this_process() {
        let own = || {
            let usage = ResourceUsage::now();
            (usage.user + usage.system).as_nanos() as f64
        };
        // One tick at each end, for idle and for iowait.
        let tolerance = 4.0 * tick_ns().unwrap();
        let (timer, before) = (LoadTimer::start().unwrap(), own());
        while own() - before < 10.0 * tolerance {
            std::hint::spin_loop();
        }
        let (own, (busy, all)) = (own() - before, timer.busy_and_total_ns().unwrap());
        assert!(
            busy >= own - tolerance,
            "machine {busy}, this process {own}"
        );
        assert!(busy <= all + tolerance, "{busy} of {all}");
    }

    #[test]
    fn background_load_is_between_0_and_1() {
        let share = background_load().unwrap();
        assert!((0.0..=1.0).contains(&share), "{share}");
    }
}
