//! [`ProcessResources`]: descriptors, threads and memory of this process.
#![allow(unsafe_code)]

use std::fmt;
use std::fs;
use std::thread;
use std::time::Duration;

use crate::live_bytes::LiveBytes;
use crate::soak_job::Result;

/// The resources of this process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessResources {
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    /// Mapped rings of kernel AIO and io_uring.
    pub(crate) rings: usize,
    /// Bytes in all mappings.
    pub(crate) mapped: u64,
    /// Bytes of mappings that are locked.
    pub(crate) locked: u64,
    /// Bytes of all mappings that are in memory.
    pub(crate) resident: u64,
    /// Bytes that are allocated on the heap.
    pub(crate) heap: u64,
}

impl ProcessResources {
    /// Reads them from `/proc`. The allocator returns free memory before.
    pub(crate) fn now() -> ProcessResources {
        // SAFETY: frees memory that nobody uses.
        unsafe { libc::malloc_trim(0) };
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            number
                .and_then(|number| number.parse::<u64>().ok())
                .unwrap_or(0)
        };
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let is_ring = |line: &&str| line.contains("/[aio]") || line.contains("[io_uring]");
        ProcessResources {
            descriptors: fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count()),
            threads: number("Threads:") as usize,
            rings: maps.lines().filter(is_ring).count(),
            mapped: number("VmSize:") << 10,
            locked: number("VmLck:") << 10,
            resident: number("VmRSS:") << 10,
            heap: LiveBytes::now() as u64,
        }
    }
}

impl fmt::Display for ProcessResources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} descriptors, {} threads, {} KiB resident, {} KiB on the heap",
            self.descriptors,
            self.threads,
            self.resident >> 10,
            self.heap >> 10
        )
    }
}

/// Waits until descriptors, threads, rings and locked memory are those of `start`: contexts are destroyed by
/// threads of their own.
///
/// # Errors
///
/// If they are not after a minute. Only time in which this process runs counts, so it may be stopped meanwhile.
pub(crate) fn wait_until_released(start: &ProcessResources) -> Result<()> {
    const WAIT: Duration = Duration::from_millis(5);
    const TRIES: u128 = Duration::from_secs(60).as_millis() / WAIT.as_millis();
    let mut now = ProcessResources::now();
    for _ in 0..TRIES {
        let is_released = now.descriptors <= start.descriptors
            && now.threads <= start.threads
            && now.rings <= start.rings
            && now.locked <= start.locked;
        if is_released {
            return Ok(());
        }
        thread::sleep(WAIT);
        now = ProcessResources::now();
    }
    Err(format!("not released: {start:?} at the start, {now:?} after it").into())
}

/// Lets the allocator have two arenas, so that the size of its mappings does not depend on the number of
/// threads.
pub(crate) fn limit_arenas() {
    // SAFETY: sets a parameter of the allocator.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
}

/// `fs.aio-nr` at one time.
pub(crate) struct MachineAio(Option<u64>);

impl MachineAio {
    pub(crate) fn now() -> MachineAio {
        let text = fs::read_to_string("/proc/sys/fs/aio-nr").ok();
        MachineAio(text.and_then(|text| text.trim().parse().ok()))
    }

    /// Its value then and now. `None`, with a line that says so, if other programs use AIO, or there is none.
    ///
    /// The kernel returns the share of a context a moment after the end of the context.
    pub(crate) fn change(&self) -> Option<(u64, u64)> {
        let before = self.0?;
        for _ in 0..300 {
            if MachineAio::now().0.is_some_and(|now| now <= before) {
                return Some((before, before));
            }
            thread::sleep(Duration::from_millis(100));
        }
        let processes = fs::read_dir("/proc").ok()?.flatten();
        let maps = processes.filter_map(|entry| fs::read(entry.path().join("maps")).ok());
        let has_ring = |maps: Vec<u8>| maps.windows(6).any(|part| part == b"/[aio]");
        if maps.into_iter().any(has_ring) {
            println!("skipped: comparing fs.aio-nr: other programs use AIO");
            return None;
        }
        Some((before, MachineAio::now().0?))
    }
}
