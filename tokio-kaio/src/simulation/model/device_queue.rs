//! [`DeviceQueue`]: when the disk finishes a request.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::disk_config::DiskConfig;
use crate::simulation::seeded_rng::{RandomUse, SeededRng};

/// When the disk finishes its requests.
///
/// The disk serves as many requests at a time as its queue is deep; others wait, first come, first served. Data
/// of reads passes one after another, at the read bandwidth, and that of writes at the write bandwidth.
#[derive(Debug)]
pub(super) struct DeviceQueue {
    /// When the requests that have a place in the queue are finished.
    places: BinaryHeap<Reverse<Duration>>,
    reads_until: Duration,
    writes_until: Duration,
    rng: SeededRng,
}

/// What the disk does for a request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DeviceWork {
    pub(super) read_bytes: Option<u64>,
    pub(super) written_bytes: Option<u64>,
    pub(super) flushes: bool,
    /// In addition to all other times.
    pub(super) delay: Duration,
}

impl DeviceQueue {
    pub(super) fn new(seed: u64) -> DeviceQueue {
        DeviceQueue {
            places: BinaryHeap::new(),
            reads_until: Duration::ZERO,
            writes_until: Duration::ZERO,
            rng: SeededRng::new(seed, RandomUse::ServiceTime),
        }
    }

    /// When a request that begins now is finished.
    pub(super) fn due(&mut self, config: &DiskConfig, now: Duration, work: DeviceWork) -> Duration {
        while self.places.peek().is_some_and(|place| place.0 <= now) {
            self.places.pop();
        }
        let mut start = now;
        if self.places.len() >= config.queue_depth.max(1) as usize {
            let Reverse(free) = self.places.pop().expect("there is at least one");
            start = free;
        }
        let rng = &mut self.rng;
        let mut latency = work.delay;
        let mut transferred = start;
        if let Some(bytes) = work.read_bytes {
            latency = latency.saturating_add(config.read_latency.sample(rng));
            if let Some(bandwidth) = &config.read_bandwidth {
                let from = self.reads_until.max(start);
                self.reads_until = from.saturating_add(bandwidth.sample(bytes, rng));
                transferred = self.reads_until;
            }
        }
        if let Some(bytes) = work.written_bytes {
            latency = latency.saturating_add(config.write_latency.sample(rng));
            if let Some(bandwidth) = &config.write_bandwidth {
                let from = self.writes_until.max(start);
                self.writes_until = from.saturating_add(bandwidth.sample(bytes, rng));
                transferred = self.writes_until;
            }
        }
        if work.flushes {
            latency = latency.saturating_add(config.flush_latency.sample(rng));
        }
        let due = transferred.saturating_add(latency);
        if due > now {
            self.places.push(Reverse(due));
        }
        due
    }
}
