//! [`DiskConfig`]: the properties of a disk.

use crate::simulation::fault::FaultPlan;
use crate::simulation::mount_name::MountName;
use crate::simulation::service_time::{Bandwidth, Latency};

/// The properties of a simulated disk. Plain data: the builder checks it.
#[derive(Clone, Debug)]
pub(crate) struct DiskConfig {
    /// All random choices follow from it.
    pub(crate) seed: u64,
    /// In the path of the disk. `None`: a number is.
    pub(crate) name: Option<MountName>,
    /// Bytes that files may allocate. More fail with `ENOSPC`.
    pub(crate) size: u64,
    /// Bytes of a sector: the alignment of direct I/O. A power of two from 512 to 4096.
    pub(crate) sector: u32,
    /// Bytes that the disk writes whole or not at all. A power of two, `sector` to 64 KiB.
    pub(crate) atomic_unit: u32,
    /// Whether completed writes may be lost until a flush.
    pub(crate) volatile_cache: bool,
    /// Whether a power cut may keep a write and lose an earlier one that was not flushed either. If not, a
    /// cut keeps the earlier ones.
    pub(crate) reorder: bool,
    /// Which calls make names durable.
    pub(crate) names: NameDurability,
    pub(crate) read_latency: Latency,
    pub(crate) write_latency: Latency,
    /// Of syncs, and of writes with `dsync` or `sync` in addition to theirs.
    pub(crate) flush_latency: Latency,
    /// `None`: unlimited.
    pub(crate) read_bandwidth: Option<Bandwidth>,
    /// `None`: unlimited.
    pub(crate) write_bandwidth: Option<Bandwidth>,
    /// Requests that the disk serves at the same time. At least 1.
    pub(crate) queue_depth: u32,
    pub(crate) faults: FaultPlan,
    /// Events that the trace keeps. Its hash covers all.
    pub(crate) trace_events: usize,
}

/// Which calls make the names of files durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum NameDurability {
    /// Only a sync of the directory, as POSIX has it. Names of a directory survive in any order.
    #[default]
    DirectorySync,
    /// Also `fsync` of the file, and names survive in the order of the calls, as in the journals of ext4 and
    /// XFS.
    Journal,
}

impl Default for DiskConfig {
    /// A disk of 1 TiB without latency or faults, with a volatile cache and sectors of 4 KiB.
    fn default() -> DiskConfig {
        DiskConfig {
            seed: 0,
            name: None,
            size: 1 << 40,
            sector: 4096,
            atomic_unit: 4096,
            volatile_cache: true,
            reorder: true,
            names: NameDurability::default(),
            read_latency: Latency::default(),
            write_latency: Latency::default(),
            flush_latency: Latency::default(),
            read_bandwidth: None,
            write_bandwidth: None,
            queue_depth: 32,
            faults: FaultPlan::new(),
            trace_events: 1 << 16,
        }
    }
}
