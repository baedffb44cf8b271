//! [`Fault`]: what goes wrong on a simulated disk, and when.

use std::ops::Range;
use std::time::Duration;

use bitflags::bitflags;

bitflags! {
    /// The operations that a [`Fault`] affects.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Operations: u32 {
        /// Reads.
        const READ = 1 << 0;

        /// Writes.
        const WRITE = 1 << 1;

        /// `fsync` and `fdatasync` of files, and the flush of a write with `O_DSYNC` or `RWF_DSYNC`.
        const SYNC = 1 << 2;

        /// Syncs of directories.
        const SYNC_DIR = 1 << 3;

        /// Changes of the length of a file, by `set_len` or by opening it with `truncate`.
        const SET_LEN = 1 << 4;

        /// Allocations.
        const ALLOCATE = 1 << 5;

        /// Calls that create, link, rename or remove files or directories.
        const NAMES = 1 << 6;

        /// Calls that open an existing file or directory.
        const OPEN = 1 << 7;
    }
}

/// Something that goes wrong on a simulated disk.
///
/// A constructor says what goes wrong; the other methods say when. Without them, every operation that the fault
/// can affect is affected. All of their conditions have to hold.
///
/// Random faults follow from the seed of the disk. If several faults apply to one operation, their delays add
/// up, and of other effects the first one happens.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tokio_kaio::simulation::{Fault, Operations};
///
/// // One read in a thousand fails.
/// let bad_sectors = Fault::io_error(Operations::READ).rate(0.001);
///
/// // The third sync of the log fails, and what was written before it is lost. The fourth sync succeeds.
/// let failed_flush = Fault::failed_sync().file("wal").nth(3);
///
/// // For a minute, every write takes 200 ms longer.
/// let busy = Fault::slow(Operations::WRITE, Duration::from_millis(200))
///     .during(Duration::from_secs(60)..Duration::from_secs(120));
/// # let _ = (bad_sectors, failed_flush, busy);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a fault does nothing until it is added to a disk"]
pub struct Fault {
    pub(super) effect: FaultEffect,
    pub(super) operations: Operations,
    pub(super) file: Option<String>,
    pub(super) range: Option<Range<u64>>,
    pub(super) time: Option<Range<Duration>>,
    /// Of 2⁶⁴. `None`: always.
    pub(super) rate: Option<u64>,
    /// From 1.
    pub(super) nth: Option<u64>,
    pub(super) at_most: Option<u64>,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultEffect {
    Error(i32),
    Short,
    Slow(Duration),
    Stuck,
    BitFlip,
    TornWrite,
    LostWrite,
    MisdirectedWrite,
    IgnoredFlush,
    FailedSync,
}

impl Fault {
    fn new(effect: FaultEffect, operations: Operations) -> Fault {
        Fault {
            effect,
            operations,
            file: None,
            range: None,
            time: None,
            rate: None,
            nth: None,
            at_most: None,
        }
    }

    /// `operations` fail with the error number `errno`, and do nothing.
    ///
    /// # Panics
    ///
    /// If `errno` is not from 1 to 4095.
    pub fn error(operations: Operations, errno: i32) -> Fault {
        assert!(
            (1..=4095).contains(&errno),
            "{errno} is no error number: they are from 1 to 4095"
        );
        Fault::new(FaultEffect::Error(errno), operations)
    }

    /// `operations` fail with `EIO`, and do nothing.
    ///
    /// To lose data by a failed sync, use [`failed_sync`](Fault::failed_sync): after this fault the next sync
    /// makes the data durable.
    pub fn io_error(operations: Operations) -> Fault {
        Fault::error(operations, libc::EIO)
    }

    /// Writes, allocations and new names fail with `ENOSPC`.
    pub fn no_space() -> Fault {
        let operations = Operations::WRITE | Operations::ALLOCATE | Operations::NAMES;
        Fault::error(operations, libc::ENOSPC)
    }

    /// Reads or writes of more than one sector transfer only a part of their sectors, from the first one, and
    /// return its length.
    ///
    /// Other operations are not affected.
    pub fn short(operations: Operations) -> Fault {
        Fault::new(FaultEffect::Short, operations & Operations::TRANSFERS)
    }

    /// `operations` take longer by `delay`.
    ///
    /// Calls without a request are not affected: [`NAMES`](Operations::NAMES) and [`OPEN`](Operations::OPEN).
    pub fn slow(operations: Operations, delay: Duration) -> Fault {
        Fault::new(FaultEffect::Slow(delay), operations)
    }

    /// `operations` never complete, until the power is cut: then they fail with `EIO`.
    ///
    /// A read that is dropped is cancelled. A write or a sync is not, as on real disks: its slot stays taken, and
    /// [`close`](crate::AioContext::close) waits for it. A call that blocks its thread fails with
    /// [`TimedOut`](std::io::ErrorKind::TimedOut) instead.
    ///
    /// Calls without a request are not affected: [`NAMES`](Operations::NAMES) and [`OPEN`](Operations::OPEN).
    pub fn stuck(operations: Operations) -> Fault {
        Fault::new(FaultEffect::Stuck, operations)
    }

    /// Reads return data with one wrong bit. Writes store data with one wrong bit, which every later read
    /// returns. Both report success.
    pub fn bit_flip(operations: Operations) -> Fault {
        Fault::new(FaultEffect::BitFlip, operations & Operations::TRANSFERS)
    }

    /// Writes fail with `EIO` after some of their atomic units are written: any of them.
    pub fn torn_write() -> Fault {
        Fault::new(FaultEffect::TornWrite, Operations::WRITE)
    }

    /// Writes report success and write nothing. The file grows, and has zeroes there.
    pub fn lost_write() -> Fault {
        Fault::new(FaultEffect::LostWrite, Operations::WRITE)
    }

    /// Writes report success and write their data somewhere else: to other blocks of a random file.
    pub fn misdirected_write() -> Fault {
        Fault::new(FaultEffect::MisdirectedWrite, Operations::WRITE)
    }

    /// Syncs of files and directories, and writes with `O_DSYNC` or `RWF_DSYNC`, report success and make nothing
    /// durable.
    ///
    /// A later sync that is not affected makes the data durable.
    pub fn ignored_flush() -> Fault {
        let operations = Operations::SYNC | Operations::SYNC_DIR;
        Fault::new(FaultEffect::IgnoredFlush, operations)
    }

    /// Syncs of files fail with `EIO`, and lose the data: later syncs succeed, reads return the data until the
    /// power is cut, and then it is gone.
    ///
    /// So ext4 and XFS do it after a failed write-back: they mark the pages clean. The source is "Can Applications
    /// Recover from fsync Failures?" (Rebello et al., USENIX ATC 2020).
    pub fn failed_sync() -> Fault {
        Fault::new(FaultEffect::FailedSync, Operations::SYNC)
    }

    /// Only some operations are affected, with this probability each.
    ///
    /// # Panics
    ///
    /// If `probability` is not from 0 to 1.
    pub fn rate(mut self, probability: f64) -> Fault {
        assert!(
            (0.0..=1.0).contains(&probability),
            "the rate of a fault is {probability}, not from 0 to 1"
        );
        // Saturates: a rate of 1 misses one operation of 2⁶⁴.
        self.rate = Some((probability * 2f64.powi(64)) as u64);
        self
    }

    /// Only the `n`th operation is affected, of those for which the other conditions hold. The first is 1.
    ///
    /// With a [rate](Fault::rate), that operation is affected with this probability.
    ///
    /// # Panics
    ///
    /// If `n` is 0.
    pub fn nth(mut self, n: u64) -> Fault {
        assert_ne!(n, 0, "operations count from 1");
        self.nth = Some(n);
        self
    }

    /// Only operations on this file are affected, or on files below this directory.
    ///
    /// `path` is relative to the root of the disk. A file that was renamed has its new path.
    pub fn file(mut self, path: impl Into<String>) -> Fault {
        let path = path.into();
        self.file = Some(path.trim_matches('/').to_owned());
        self
    }

    /// Only transfers and allocations that touch this range of bytes of a file are affected.
    pub fn range(mut self, range: Range<u64>) -> Fault {
        self.range = Some(range);
        self
    }

    /// Only operations that begin in this span are affected. It counts from when the disk was made.
    pub fn during(mut self, time: Range<Duration>) -> Fault {
        self.time = Some(time);
        self
    }

    /// The fault happens this many times at most.
    pub fn at_most(mut self, times: u64) -> Fault {
        self.at_most = Some(times);
        self
    }
}

impl Operations {
    const TRANSFERS: Operations = Operations::READ.union(Operations::WRITE);
}

/// The faults of a simulated disk.
///
/// # Examples
///
/// ```
/// use tokio_kaio::simulation::{Fault, FaultPlan, Operations};
///
/// let plan = FaultPlan::new()
///     .with(Fault::io_error(Operations::READ).rate(0.01))
///     .with(Fault::no_space().nth(100));
/// # let _ = plan;
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FaultPlan {
    pub(super) faults: Vec<Fault>,
}

impl FaultPlan {
    /// Makes a plan without faults.
    pub fn new() -> FaultPlan {
        FaultPlan::default()
    }

    /// Makes a plan of faults that the program can notice and survive: errors of reads, writes and syncs,
    /// short transfers, and requests that take 100 ms longer. Each affects an operation with this probability.
    ///
    /// # Panics
    ///
    /// If `probability` is not from 0 to 1.
    pub fn errors_and_delays(probability: f64) -> FaultPlan {
        let synced = Operations::SYNC | Operations::SYNC_DIR;
        let all = Operations::TRANSFERS | synced;
        let faults = [
            Fault::io_error(all),
            Fault::short(Operations::TRANSFERS),
            Fault::slow(all, Duration::from_millis(100)),
        ];
        faults
            .into_iter()
            .map(|fault| fault.rate(probability))
            .collect()
    }

    /// Adds a fault.
    #[must_use]
    pub fn with(mut self, fault: Fault) -> FaultPlan {
        self.faults.push(fault);
        self
    }

    /// Whether there is no fault.
    pub fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }
}

impl FromIterator<Fault> for FaultPlan {
    fn from_iter<I: IntoIterator<Item = Fault>>(faults: I) -> FaultPlan {
        let faults = faults.into_iter().collect();
        FaultPlan { faults }
    }
}

impl Extend<Fault> for FaultPlan {
    fn extend<I: IntoIterator<Item = Fault>>(&mut self, faults: I) {
        self.faults.extend(faults);
    }
}

impl From<Fault> for FaultPlan {
    fn from(fault: Fault) -> FaultPlan {
        FaultPlan {
            faults: vec![fault],
        }
    }
}
