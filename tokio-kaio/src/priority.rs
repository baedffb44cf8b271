//! [`IoPriority`]: which requests a block device's scheduler puts first.

use crate::sys::abi;

/// I/O priority of operations: class and level, as
/// [`ioprio_set(2)`](https://man7.org/linux/man-pages/man2/ioprio_set.2.html) has them.
///
/// It is for the scheduler of the block device (`/sys/block/*/queue/scheduler`): `bfq` and `mq-deadline`
/// heed it, `none` and `kyber` do not. Given to operations with
/// [`with_priority`](crate::GenericAioContextHandle::with_priority).
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
    /// Before all others, whatever becomes of them. Wants `CAP_SYS_NICE` or `CAP_SYS_ADMIN`.
    RealTime = abi::IOPRIO_CLASS_RT,
    /// As threads are by default.
    BestEffort = abi::IOPRIO_CLASS_BE,
    /// When the disk has nothing else to do.
    Idle = abi::IOPRIO_CLASS_IDLE,
}

impl IoPriority {
    /// `level`: 0, the highest, to 7.
    ///
    /// # Panics
    ///
    /// If `level` is more than 7.
    pub const fn new(class: IoClass, level: u8) -> IoPriority {
        assert!(level <= 7, "a level of I/O priority is 0 to 7");
        IoPriority { class, level }
    }

    /// Of class [`RealTime`](IoClass::RealTime).
    ///
    /// # Panics
    ///
    /// If `level` is more than 7.
    pub const fn real_time(level: u8) -> IoPriority {
        IoPriority::new(IoClass::RealTime, level)
    }

    /// Of class [`BestEffort`](IoClass::BestEffort).
    ///
    /// # Panics
    ///
    /// If `level` is more than 7.
    pub const fn best_effort(level: u8) -> IoPriority {
        IoPriority::new(IoClass::BestEffort, level)
    }

    /// Of class [`Idle`](IoClass::Idle), which has one level.
    pub const fn idle() -> IoPriority {
        IoPriority::new(IoClass::Idle, 0)
    }

    /// Its class.
    pub const fn class(self) -> IoClass {
        self.class
    }

    /// Its level, 0, the highest, to 7.
    pub const fn level(self) -> u8 {
        self.level
    }

    /// As `reqprio` of a request. Not 0.
    pub(crate) const fn to_kernel(self) -> u16 {
        (self.class as u16) << abi::IOPRIO_CLASS_SHIFT | self.level as u16
    }
}
