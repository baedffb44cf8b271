//! [`Latency`] and [`Bandwidth`]: how long a simulated disk takes for a request.

use std::time::Duration;

/// The distribution of the time that the disk takes for a request, without the transfer of its data.
#[derive(Clone, Debug, Default)]
pub struct Latency {
    constant: Duration,
}

impl Latency {
    /// Every request takes this time.
    pub fn constant(time: Duration) -> Latency {
        Latency { constant: time }
    }
}

/// The distribution of the rate at which the disk transfers data.
#[derive(Clone, Debug)]
pub struct Bandwidth {
    constant: u64,
}

impl Bandwidth {
    /// Every request transfers this number of bytes a second.
    pub fn constant(bytes_per_second: u64) -> Bandwidth {
        Bandwidth {
            constant: bytes_per_second,
        }
    }
}
