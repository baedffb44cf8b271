//! `linux/aio_abi.h`, by hand: these few structures are frozen, and bindgen would cost every
//! user a libclang.

use std::mem::{align_of, offset_of, size_of};

/// `struct iocb`: one request as `io_submit(2)` takes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Iocb {
    /// Comes back in the event.
    pub(crate) data: u64,
    /// Written by the kernel.
    #[cfg(target_endian = "little")]
    pub(crate) key: u32,
    /// `RWF_*`.
    pub(crate) rw_flags: i32,
    #[cfg(target_endian = "big")]
    pub(crate) key: u32,
    pub(crate) lio_opcode: u16,
    /// An I/O priority, if [`IOCB_FLAG_IOPRIO`] is set.
    pub(crate) reqprio: i16,
    pub(crate) fildes: u32,
    pub(crate) buf: u64,
    pub(crate) nbytes: u64,
    pub(crate) offset: i64,
    pub(crate) reserved2: u64,
    /// `IOCB_FLAG_*`. The kernel ignores bits that it does not know: `RWF_*` put here is lost.
    pub(crate) flags: u32,
    pub(crate) resfd: u32,
}

const _: () = {
    assert!(size_of::<Iocb>() == 64);
    assert!(align_of::<Iocb>() == align_of::<u64>());
    assert!(offset_of!(Iocb, data) == 0);
    #[cfg(target_endian = "little")]
    assert!(offset_of!(Iocb, key) == 8 && offset_of!(Iocb, rw_flags) == 12);
    #[cfg(target_endian = "big")]
    assert!(offset_of!(Iocb, rw_flags) == 8 && offset_of!(Iocb, key) == 12);
    assert!(offset_of!(Iocb, lio_opcode) == 16);
    assert!(offset_of!(Iocb, reqprio) == 18);
    assert!(offset_of!(Iocb, fildes) == 20);
    assert!(offset_of!(Iocb, buf) == 24);
    assert!(offset_of!(Iocb, nbytes) == 32);
    assert!(offset_of!(Iocb, offset) == 40);
    assert!(offset_of!(Iocb, reserved2) == 48);
    assert!(offset_of!(Iocb, flags) == 56);
    assert!(offset_of!(Iocb, resfd) == 60);
};

/// `struct io_event`: one completion.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct IoEvent {
    /// The request's [`Iocb::data`].
    pub(crate) data: u64,
    /// Address of the iocb as it was submitted.
    pub(crate) obj: u64,
    /// Bytes moved, or an errno negated.
    pub(crate) res: i64,
    pub(crate) res2: i64,
}

const _: () = {
    assert!(size_of::<IoEvent>() == 32);
    assert!(align_of::<IoEvent>() == align_of::<u64>());
    assert!(offset_of!(IoEvent, data) == 0);
    assert!(offset_of!(IoEvent, obj) == 8);
    assert!(offset_of!(IoEvent, res) == 16);
    assert!(offset_of!(IoEvent, res2) == 24);
};

/// `struct aio_ring`, which the kernel maps at the address that `io_setup(2)` returns; the events
/// follow it. Only its first words are here: `head` and `tail` change under the reader.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct RingHeader {
    pub(crate) id: u32,
    /// Number of events that the ring holds.
    pub(crate) nr: u32,
    /// Next event to take; written by user space.
    pub(crate) head: std::sync::atomic::AtomicU32,
    /// One past the newest event; written by the kernel.
    pub(crate) tail: std::sync::atomic::AtomicU32,
    pub(crate) magic: u32,
    pub(crate) compat_features: u32,
    pub(crate) incompat_features: u32,
    pub(crate) header_length: u32,
}

const _: () = {
    assert!(size_of::<RingHeader>() == 32);
    assert!(align_of::<RingHeader>() == 4);
    assert!(offset_of!(RingHeader, id) == 0);
    assert!(offset_of!(RingHeader, nr) == 4);
    assert!(offset_of!(RingHeader, head) == 8);
    assert!(offset_of!(RingHeader, tail) == 12);
    assert!(offset_of!(RingHeader, magic) == 16);
    assert!(offset_of!(RingHeader, compat_features) == 20);
    assert!(offset_of!(RingHeader, incompat_features) == 24);
    assert!(offset_of!(RingHeader, header_length) == 28);
};

pub(crate) const RING_MAGIC: u32 = 0xa10a_10a1;
pub(crate) const RING_INCOMPAT_FEATURES: u32 = 0;

pub(crate) const IOCB_CMD_PREAD: u16 = 0;
pub(crate) const IOCB_CMD_PWRITE: u16 = 1;
pub(crate) const IOCB_CMD_FSYNC: u16 = 2;
pub(crate) const IOCB_CMD_FDSYNC: u16 = 3;
/// Since Linux 4.18. [`Iocb::buf`] is what to wait for, as `poll(2)` has it.
pub(crate) const IOCB_CMD_POLL: u16 = 5;
/// [`Iocb::buf`] is the address of [`Iocb::nbytes`] iovecs; likewise of the next.
pub(crate) const IOCB_CMD_PREADV: u16 = 7;
pub(crate) const IOCB_CMD_PWRITEV: u16 = 8;
/// Not the kernel's: see [`Iocb::stand_in`].
pub(crate) const IOCB_CMD_STAND_IN: u16 = u16::MAX;

/// Most iovecs of one request.
pub(crate) const UIO_MAXIOV: u64 = 1024;

pub(crate) const IOCB_FLAG_RESFD: u32 = 1;
/// Since Linux 4.18; ignored before.
pub(crate) const IOCB_FLAG_IOPRIO: u32 = 2;

/// Most bytes that one request moves: it is cut short there.
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

// `linux/ioprio.h`: a class, shifted, and in the lower bits a level of 0 (first) to 7.
pub(crate) const IOPRIO_CLASS_SHIFT: u32 = 13;
/// None of its own: it follows from how the thread is scheduled.
pub(crate) const IOPRIO_CLASS_NONE: u16 = 0;
/// Wants `CAP_SYS_ADMIN` or `CAP_SYS_NICE`.
pub(crate) const IOPRIO_CLASS_RT: u16 = 1;
pub(crate) const IOPRIO_CLASS_BE: u16 = 2;
pub(crate) const IOPRIO_CLASS_IDLE: u16 = 3;

impl Iocb {
    /// Of a blank one. `priority`: 0 for that of the thread that submits it.
    #[inline(always)]
    pub(crate) fn set_priority(&mut self, priority: u16) {
        if priority != 0 {
            self.reqprio = priority as i16;
            self.flags = IOCB_FLAG_IOPRIO;
        }
    }

    /// Has the kernel signal `eventfd` when the request is done.
    pub(crate) fn notify(&mut self, eventfd: i32) {
        self.flags |= IOCB_FLAG_RESFD;
        self.resfd = eventfd as u32;
    }

    /// What the kernel is to signal.
    pub(crate) fn notifies(&self) -> Option<i32> {
        (self.flags & IOCB_FLAG_RESFD != 0).then_some(self.resfd as i32)
    }

    /// Whether it moves data.
    pub(crate) fn is_transfer(&self) -> bool {
        matches!(
            self.lio_opcode,
            IOCB_CMD_PREAD | IOCB_CMD_PWRITE | IOCB_CMD_PREADV | IOCB_CMD_PWRITEV
        )
    }

    pub(crate) fn is_write(&self) -> bool {
        matches!(self.lio_opcode, IOCB_CMD_PWRITE | IOCB_CMD_PWRITEV)
    }

    /// Whether its memory is that of iovecs.
    pub(crate) fn is_vectored(&self) -> bool {
        matches!(self.lio_opcode, IOCB_CMD_PREADV | IOCB_CMD_PWRITEV)
    }
}
