//! Constants of the kernel, from `linux/fs.h`, `linux/ioprio.h` and `linux/uio.h`.

/// Most iovecs of one request.
pub(crate) const UIO_MAXIOV: u64 = 1024;

/// Most bytes that one request moves. The kernel cuts longer requests short.
pub(crate) const MAX_RW_COUNT: u64 = 0x7fff_f000;

pub(crate) const RWF_HIPRI: i32 = 0x01;
pub(crate) const RWF_DSYNC: i32 = 0x02;
pub(crate) const RWF_SYNC: i32 = 0x04;
pub(crate) const RWF_NOWAIT: i32 = 0x08;
pub(crate) const RWF_APPEND: i32 = 0x10;
pub(crate) const RWF_NOAPPEND: i32 = 0x20;
/// Since Linux 6.11, for writes.
pub(crate) const RWF_ATOMIC: i32 = 0x40;
/// Since Linux 6.14.
pub(crate) const RWF_DONTCACHE: i32 = 0x80;

// `linux/ioprio.h`: the class is in the upper bits, a level of 0 (first) to 7 in the lower bits.
pub(crate) const IOPRIO_CLASS_SHIFT: u32 = 13;
/// No class: the thread's scheduling class determines the priority.
pub(crate) const IOPRIO_CLASS_NONE: u16 = 0;
/// Needs `CAP_SYS_ADMIN` or `CAP_SYS_NICE`.
pub(crate) const IOPRIO_CLASS_RT: u16 = 1;
pub(crate) const IOPRIO_CLASS_BE: u16 = 2;
pub(crate) const IOPRIO_CLASS_IDLE: u16 = 3;
