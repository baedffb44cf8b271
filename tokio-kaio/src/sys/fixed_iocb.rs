//! [`FixedIocb`]: an iocb that stays where it is, so that its request can be cancelled.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use super::abi::{self, Iocb};

/// The place from which a poll is submitted.
///
/// [`io_cancel(2)`](https://man7.org/linux/man-pages/man2/io_cancel.2.html) finds a request by the
/// address that its iocb had. Batches are copied about; what is in a batch for such a request is a
/// [stand-in](Iocb::stand_in), of which the submission makes the request that the kernel sees, here.
///
/// It may be moved while the kernel, or a thread that submits, uses what it points to.
#[derive(Debug)]
pub(crate) struct FixedIocb(NonNull<Iocb>);

// SAFETY: it owns plain memory, which is not bound to a thread.
unsafe impl Send for FixedIocb {}
// SAFETY: behind a shared reference there is only the address, and one word that is an atomic.
unsafe impl Sync for FixedIocb {}

impl FixedIocb {
    pub(crate) fn new() -> FixedIocb {
        FixedIocb(NonNull::from(Box::leak(Box::default())))
    }

    /// For [`Iocb::buf`] of a stand-in.
    pub(crate) fn address(&self) -> u64 {
        self.0.as_ptr().expose_provenance() as u64
    }

    pub(super) fn as_ptr(&self) -> NonNull<Iocb> {
        self.0
    }

    /// Makes a note of that the request is not wanted any more. For a kernel of our own: the real
    /// one has the word for itself.
    pub(super) fn revoke(&self) {
        // SAFETY: it lives as long as `self`.
        unsafe { key(self.0) }.store(REVOKED, Ordering::Relaxed);
    }
}

impl Drop for FixedIocb {
    fn drop(&mut self) {
        // SAFETY: `new` has leaked it, and whoever submitted it has kept it until its event.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// What [`Iocb::key`] is while the request is wanted: so a fixed one is made, and what the kernel
/// writes.
const WANTED: u32 = 0;
const REVOKED: u32 = 1;

impl Iocb {
    /// What stands in a batch for a poll that is submitted from `fixed`. It says all there is to
    /// say about the request, as a poll does, but that `buf` is the address of `fixed`, and what to
    /// wait for is in `nbytes`.
    #[cfg(test)]
    pub(crate) fn stand_in(fixed: &FixedIocb, events: u16) -> Iocb {
        Iocb {
            lio_opcode: abi::IOCB_CMD_STAND_IN,
            buf: fixed.address(),
            nbytes: events.into(),
            ..Iocb::default()
        }
    }

    pub(super) fn is_stand_in(&self) -> bool {
        self.lio_opcode == abi::IOCB_CMD_STAND_IN
    }

    /// The poll that it stands for, or is.
    pub(super) fn poll(&self) -> Option<Iocb> {
        match self.lio_opcode {
            abi::IOCB_CMD_STAND_IN => Some(Iocb {
                key: WANTED,
                lio_opcode: abi::IOCB_CMD_POLL,
                buf: self.nbytes,
                nbytes: 0,
                ..*self
            }),
            abi::IOCB_CMD_POLL => Some(*self),
            _ => None,
        }
    }

    /// Where a stand-in's request is submitted from; `None` for any other.
    pub(super) fn fixed(&self) -> Option<NonNull<Iocb>> {
        let address = self.is_stand_in().then_some(self.buf as usize)?;
        NonNull::new(std::ptr::with_exposed_provenance_mut(address))
    }
}

/// Puts the polls that stand-ins among `iocbs` stand for where they are to be submitted from, and
/// points there.
///
/// # Safety
///
/// `iocbs` are valid. What the stand-ins stand for lives, and is neither read nor written by others
/// but the kernel meanwhile.
#[cold]
pub(super) unsafe fn place(iocbs: &mut [*mut Iocb]) {
    for pointer in iocbs {
        // SAFETY: the caller's promise.
        let iocb = unsafe { pointer.read() };
        if let (Some(poll), Some(fixed)) = (iocb.poll(), iocb.fixed()) {
            // SAFETY: the caller's promise.
            unsafe { fixed.write(poll) };
            *pointer = fixed.as_ptr();
        }
    }
}

/// Whether the request was [revoked](FixedIocb::revoke).
///
/// # Safety
///
/// `fixed` lives.
pub(super) unsafe fn is_revoked(fixed: NonNull<Iocb>) -> bool {
    // SAFETY: the caller's promise.
    unsafe { key(fixed) }.load(Ordering::Relaxed) == REVOKED
}

/// # Safety
///
/// `fixed` lives as long as what is returned.
unsafe fn key<'a>(fixed: NonNull<Iocb>) -> &'a AtomicU32 {
    // SAFETY: it is within the iocb.
    let key = unsafe { &raw mut (*fixed.as_ptr()).key };
    // SAFETY: it is aligned, and by the caller's promise it lives. In a kernel of our own nobody
    // looks at it otherwise; with the real one, nobody but that does.
    unsafe { AtomicU32::from_ptr(key) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_sees_a_poll_where_it_was_promised_to_stay() {
        let fixed = FixedIocb::new();
        let mut stand_in = Iocb {
            data: 3,
            fildes: 5,
            ..Iocb::stand_in(&fixed, 7)
        };
        stand_in.notify(9);
        let mut seen = [&raw mut stand_in];
        // SAFETY: both live, and nobody else knows them.
        unsafe { place(&mut seen) };
        let moved = Box::new(fixed);
        assert_eq!(seen, [moved.as_ptr().as_ptr()]);
        // SAFETY: as above.
        let poll = unsafe { seen[0].read() };
        assert_eq!(
            (poll.lio_opcode, poll.data, poll.fildes, poll.buf),
            (abi::IOCB_CMD_POLL, 3, 5, 7)
        );
        assert_eq!((poll.flags, poll.resfd), (abi::IOCB_FLAG_RESFD, 9));
        assert_eq!((poll.key, poll.nbytes, poll.offset), (WANTED, 0, 0));
    }

    #[test]
    fn any_other_request_is_seen_where_it_is() {
        let mut iocb = Iocb::default();
        let here = &raw mut iocb;
        let mut seen = [here];
        // SAFETY: it lives, and is no stand-in.
        unsafe { place(&mut seen) };
        assert_eq!(seen, [here]);
        assert!(iocb.poll().is_none() && iocb.fixed().is_none());
    }

    #[test]
    fn what_was_revoked_stays_so_wherever_it_is_moved() {
        let fixed = FixedIocb::new();
        // SAFETY: it lives.
        assert!(!unsafe { is_revoked(fixed.as_ptr()) });
        fixed.revoke();
        let moved = Box::new(fixed);
        // SAFETY: it lives.
        assert!(unsafe { is_revoked(moved.as_ptr()) });
    }
}
