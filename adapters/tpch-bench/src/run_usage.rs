//! [`Usage`]: time, CPU time and bytes of a run.

use std::fs;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::Result;

/// The resources of the process at a point in time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UsageAt {
    time: Instant,
    cpu: Duration,
    read_bytes: u64,
}

/// The resources between two points in time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) wall_ms: f64,
    /// Of all threads of the process.
    pub(crate) cpu_ms: f64,
    /// From the device.
    pub(crate) read_bytes: u64,
}

impl UsageAt {
    pub(crate) fn now() -> Result<UsageAt> {
        Ok(UsageAt {
            read_bytes: read_bytes()?,
            cpu: cpu_time(),
            time: Instant::now(),
        })
    }

    /// The resources since then.
    pub(crate) fn elapsed(self) -> Result<Usage> {
        let (wall, cpu) = (self.time.elapsed(), cpu_time() - self.cpu);
        Ok(Usage {
            wall_ms: wall.as_secs_f64() * 1e3,
            cpu_ms: cpu.as_secs_f64() * 1e3,
            read_bytes: read_bytes()? - self.read_bytes,
        })
    }
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}

/// `read_bytes` of `/proc/self/io`: all threads, through the page cache or not.
fn read_bytes() -> Result<u64> {
    const PATH: &str = "/proc/self/io";
    let text = fs::read_to_string(PATH).map_err(|error| format!("{PATH}: {error}"))?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("read_bytes: "))
        .ok_or("/proc/self/io has no read_bytes: the kernel lacks CONFIG_TASK_IO_ACCOUNTING")?;
    Ok(value.trim().parse()?)
}
