//! [`Batch`]: requests on their way into the kernel.
#![allow(unsafe_code)]

use std::sync::Arc;

use arrayvec::ArrayVec;

use super::{OpenFile, Order, Stay};
use crate::sys::abi::{IOCB_CMD_STAND_IN, Iocb};
use crate::sys::{Kernel, MAX_BATCH};

/// One request on its way into the kernel, with what keeps its descriptor open.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) iocb: Iocb,
    pub(crate) file: Arc<OpenFile>,
    /// The kernel took an attempt of it before: it is not to be counted once more.
    pub(crate) counted: bool,
}

impl Parcel {
    /// For the first time.
    pub(crate) fn new(iocb: Iocb, file: Arc<OpenFile>) -> Parcel {
        Parcel {
            iocb,
            file,
            counted: false,
        }
    }
}

/// Requests that are in flight by the table's account and go to the kernel next, outside any lock.
///
/// Keeps their descriptors open until the kernel has the files; from then on it holds them itself.
#[derive(Debug)]
pub(crate) struct Batch {
    iocbs: ArrayVec<Iocb, MAX_BATCH>,
    files: ArrayVec<Arc<OpenFile>, MAX_BATCH>,
    /// There are polls among them.
    polls: bool,
}

impl Batch {
    pub(crate) fn new() -> Batch {
        Batch {
            iocbs: ArrayVec::new(),
            files: ArrayVec::new(),
            polls: false,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.iocbs.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.iocbs.len()
    }

    #[inline(always)] // what it takes is large to move
    pub(crate) fn push(&mut self, iocb: Iocb, file: Arc<OpenFile>) {
        self.polls |= iocb.lio_opcode == IOCB_CMD_STAND_IN;
        self.iocbs.push(iocb);
        self.files.push(file);
    }

    /// Whether any of them is a poll.
    pub(crate) fn has_polls(&self) -> bool {
        self.polls
    }

    /// The requests, in the order in which they were queued.
    pub(crate) fn iocbs(&mut self) -> &mut [Iocb] {
        &mut self.iocbs
    }

    /// Takes the last request off, down to `sent` requests.
    pub(crate) fn pop_unsent(&mut self, sent: usize) -> Option<Parcel> {
        if self.iocbs.len() <= sent {
            return None;
        }
        Some(Parcel::new(self.iocbs.pop()?, self.files.pop()?))
    }

    /// See [`OpenFile::submitted`].
    pub(crate) fn submitted(&self, stay: Stay) {
        for (iocb, file) in self.iocbs.iter().zip(&self.files) {
            file.submitted(&Order::of(iocb), stay);
        }
    }

    /// See [`OpenFile::submitted_from_pool`].
    pub(crate) fn submitted_from_pool(&self, stay: Stay) {
        for (iocb, file) in self.iocbs.iter().zip(&self.files) {
            file.submitted_from_pool(&Order::of(iocb), stay);
        }
    }

    /// Forgets the requests, which the kernel has or has refused.
    pub(crate) fn clear(&mut self) {
        self.iocbs.clear();
        self.files.clear();
        self.polls = false;
    }
}

/// Hands `iocbs` to the kernel, each with a signal to `eventfd` if there is one. A request that
/// the kernel refuses is reported to `refused` with its data and errno, and the rest goes on.
/// Returns how many were dealt with: all, or those before one that met `EAGAIN`, which may have
/// room later.
///
/// # Safety
///
/// `iocbs` are out of [`Table::launch`](super::Table::launch) or
/// [`Table::launch_queued`](super::Table::launch_queued) and have not been submitted, and the
/// kernel context of `port` is not dropped before this returns.
#[inline(always)]
pub(crate) unsafe fn submit<K: Kernel>(
    port: &K::Port,
    eventfd: Option<i32>,
    iocbs: &mut [Iocb],
    mut refused: impl FnMut(u64, i32),
) -> usize {
    if let Some(eventfd) = eventfd {
        iocbs.iter_mut().for_each(|iocb| iocb.notify(eventfd));
    }
    let mut sent = 0;
    while sent < iocbs.len() {
        let rest = &mut iocbs[sent..];
        let tag = rest[0].data;
        // SAFETY: the requests are in flight by the table's account, so that their memory stays
        // with them until their events; the kernel context lives, by the caller's promise.
        match unsafe { K::submit(port, rest) } {
            Ok(0) => break, // taken as "no room": it says nothing else
            Ok(taken) => sent += taken.min(rest.len()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => break,
                errno => {
                    refused(tag, errno.unwrap_or(libc::EIO));
                    sent += 1;
                }
            },
        }
    }
    sent
}
