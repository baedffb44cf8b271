//! `linux/aio_abi.h`, by hand: these few structures are frozen, and bindgen would cost every user a
//! libclang.

use std::mem::{align_of, offset_of, size_of};

/// `struct iocb`: one request, as `io_submit(2)` takes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Iocb {
    /// Comes back in the event.
    pub(super) data: u64,
    /// Written by the kernel.
    #[cfg(target_endian = "little")]
    pub(super) key: u32,
    /// `RWF_*`.
    pub(super) rw_flags: i32,
    #[cfg(target_endian = "big")]
    pub(super) key: u32,
    pub(super) lio_opcode: u16,
    /// An I/O priority, if [`IOCB_FLAG_IOPRIO`] is set.
    pub(super) reqprio: i16,
    pub(super) fildes: u32,
    pub(super) buf: u64,
    pub(super) nbytes: u64,
    pub(super) offset: i64,
    pub(super) reserved2: u64,
    /// `IOCB_FLAG_*`. The kernel ignores bits that it does not know: `RWF_*` put here is lost.
    pub(super) flags: u32,
    pub(super) resfd: u32,
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
pub(super) struct IoEvent {
    /// The request's [`Iocb::data`].
    pub(super) data: u64,
    /// Address of the iocb at its submission.
    pub(super) obj: u64,
    /// Bytes moved, or an errno, negated.
    pub(super) res: i64,
    pub(super) res2: i64,
}

const _: () = {
    assert!(size_of::<IoEvent>() == 32);
    assert!(align_of::<IoEvent>() == align_of::<u64>());
    assert!(offset_of!(IoEvent, data) == 0);
    assert!(offset_of!(IoEvent, obj) == 8);
    assert!(offset_of!(IoEvent, res) == 16);
    assert!(offset_of!(IoEvent, res2) == 24);
};

/// The first words of `struct aio_ring`, which the kernel maps at the address that `io_setup(2)`
/// returns. The events follow them. `head` and `tail` change under the reader.
#[repr(C)]
#[derive(Debug)]
pub(super) struct RingHeader {
    pub(super) id: u32,
    /// Number of events that the ring holds.
    pub(super) nr: u32,
    /// Next event to take; written by user space.
    pub(super) head: std::sync::atomic::AtomicU32,
    /// One past the newest event; written by the kernel.
    pub(super) tail: std::sync::atomic::AtomicU32,
    pub(super) magic: u32,
    pub(super) compat_features: u32,
    pub(super) incompat_features: u32,
    pub(super) header_length: u32,
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

pub(super) const RING_MAGIC: u32 = 0xa10a_10a1;
pub(super) const RING_INCOMPAT_FEATURES: u32 = 0;

pub(super) const IOCB_CMD_PREAD: u16 = 0;
pub(super) const IOCB_CMD_PWRITE: u16 = 1;
pub(super) const IOCB_CMD_FSYNC: u16 = 2;
pub(super) const IOCB_CMD_FDSYNC: u16 = 3;
/// Since Linux 4.18. [`Iocb::buf`] is the event mask of `poll(2)`.
pub(super) const IOCB_CMD_POLL: u16 = 5;
/// Refused with `EINVAL`: for what AIO does not have.
pub(super) const IOCB_CMD_NOOP: u16 = 6;
/// [`Iocb::buf`] is the address of [`Iocb::nbytes`] iovecs.
pub(super) const IOCB_CMD_PREADV: u16 = 7;
/// As [`IOCB_CMD_PREADV`].
pub(super) const IOCB_CMD_PWRITEV: u16 = 8;

/// The kernel signals the eventfd [`Iocb::resfd`] when the request completes.
pub(super) const IOCB_FLAG_RESFD: u32 = 1;
/// Since Linux 4.18; ignored before.
pub(super) const IOCB_FLAG_IOPRIO: u32 = 2;
