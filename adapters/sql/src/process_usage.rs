//! [`ProcessUsage`]: CPU time and I/O of this process so far.

use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What this process has used so far, as the kernel counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProcessUsage {
    /// CPU time of all threads.
    pub(crate) cpu: Duration,
    /// The counters of I/O. `None` if `/proc/self/io` can't be read.
    pub(crate) io: Option<ProcessIo>,
}

/// The counters of `/proc/self/io`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProcessIo {
    /// Bytes that `read(2)` and its relatives returned, from the page cache, the device, pipes and others.
    /// Kernel AIO is not counted.
    pub(crate) read_calls: u64,
    /// Bytes that the device delivered.
    pub(crate) device_reads: u64,
    /// Bytes that will be written to the device.
    pub(crate) device_writes: u64,
}

impl ProcessUsage {
    /// Reads the counters.
    pub(crate) fn now() -> ProcessUsage {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
        let text = fs::read_to_string("/proc/self/io");
        ProcessUsage {
            cpu: Duration::new(seconds, nanoseconds),
            io: text.ok().and_then(|text| ProcessIo::parse(&text)),
        }
    }

    /// What was used since `earlier`.
    pub(crate) fn since(&self, earlier: &ProcessUsage) -> ProcessUsage {
        let io = self.io.zip(earlier.io).map(|(now, then)| ProcessIo {
            read_calls: now.read_calls.saturating_sub(then.read_calls),
            device_reads: now.device_reads.saturating_sub(then.device_reads),
            device_writes: now.device_writes.saturating_sub(then.device_writes),
        });
        ProcessUsage {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            io,
        }
    }
}

impl ProcessIo {
    fn parse(text: &str) -> Option<ProcessIo> {
        let field = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(key, _)| *key == name)?.1.trim().parse().ok()
        };
        Some(ProcessIo {
            read_calls: field("rchar")?,
            device_reads: field("read_bytes")?,
            device_writes: field("write_bytes")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_of_proc_are_found_by_name() {
        let text = "rchar: 7\nwchar: 6\nsyscr: 5\nsyscw: 4\nread_bytes: 3\nwrite_bytes: 2\n";
        let io = ProcessIo::parse(text).unwrap();
        assert_eq!(
            (io.read_calls, io.device_reads, io.device_writes),
            (7, 3, 2)
        );
        assert_eq!(ProcessIo::parse("rchar: 7\n"), None);
    }
}
