//! [`IoPriority`]: the priority of requests in the scheduler of a block device.

use crate::sys::abi;

/// I/O priority of operations: class and level, as in
/// [`ioprio_set(2)`](https://man7.org/linux/man-pages/man2/ioprio_set.2.html). Set it with
/// [`with_priority`](crate::GenericAioContextHandle::with_priority).
///
/// The scheduler of the block device (`/sys/block/*/queue/scheduler`) uses it or not: `bfq` and
/// `mq-deadline` do, `none` and `kyber` do not.
///
/// # Examples
///
/// ```
/// use tokio_kaio::{IoClass, IoPriority};
///
/// let compaction = IoPriority::idle();
/// let queries = IoPriority::best_effort(2);
/// assert_eq!(queries, IoPriority::new(IoClass::BestEffort, 2));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IoPriority {
    class: IoClass,
    level: u8,
}

/// Class of an [`IoPriority`]: `IOPRIO_CLASS_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u16)]
pub enum IoClass {
    /// Before all others, even if these starve. Needs `CAP_SYS_NICE` or `CAP_SYS_ADMIN`.
    RealTime = abi::IOPRIO_CLASS_RT,
    /// The class of threads by default.
    BestEffort = abi::IOPRIO_CLASS_BE,
    /// Only when the disk has nothing else to do.
    Idle = abi::IOPRIO_CLASS_IDLE,
}

impl IoPriority {
    /// A priority of any class, with a level from 0, the highest, to 7.
    ///
    /// # Panics
    ///
    /// If `level` is more than 7.
    pub const fn new(class: IoClass, level: u8) -> IoPriority {
        assert!(level <= 7, "a level of I/O priority is 0 to 7");
        IoPriority { class, level }
    }

    /// A priority of class [`RealTime`](IoClass::RealTime).
    ///
    /// # Panics
    ///
    /// If `level` is more than 7.
    pub const fn real_time(level: u8) -> IoPriority {
        IoPriority::new(IoClass::RealTime, level)
    }

    /// A priority of class [`BestEffort`](IoClass::BestEffort).
    ///
    /// # Panics
    ///
    /// If `level` is more than 7.
    pub const fn best_effort(level: u8) -> IoPriority {
        IoPriority::new(IoClass::BestEffort, level)
    }

    /// The priority of class [`Idle`](IoClass::Idle), which has one level.
    pub const fn idle() -> IoPriority {
        IoPriority::new(IoClass::Idle, 0)
    }

    /// The class.
    pub const fn class(self) -> IoClass {
        self.class
    }

    /// The level, from 0, the highest, to 7.
    pub const fn level(self) -> u8 {
        self.level
    }

    /// The `IOPRIO_*` value of a request. Never 0.
    pub(crate) const fn to_kernel(self) -> u16 {
        (self.class as u16) << abi::IOPRIO_CLASS_SHIFT | self.level as u16
    }
}
