//! [`AioBackend`]: the kernel's AIO.
#![allow(unsafe_code)]

mod aio_abi;
mod aio_syscalls;
#[cfg(test)]
mod model_ring;
mod pinned_iocb;
mod ring;

use std::io;
use std::mem;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;

use super::{
    Capabilities, Completion, Completions, IoBackend, MAX_BATCH, Notify, OpCode, REAP_BATCH, Sqe,
    SubmitError, Submitter, refuse_in_child,
};
use crate::sys::{Process, page_size};
use aio_abi::{IoEvent, Iocb, RingHeader};
use aio_syscalls::ContextId;
#[cfg(test)]
pub(crate) use model_ring::ModelRing;
use pinned_iocb::PinnedIocb;
pub(super) use pinned_iocb::PollsInFlight;
use ring::RingMemory;

/// A kernel AIO context.
///
/// Dropping it calls `io_destroy(2)`, which waits for every request in flight, and sleeps some
/// 32 ms even when there is none.
#[derive(Debug)]
pub(crate) struct AioBackend {
    id: ContextId,
    owner: Process,
    /// `None`: events are fetched by system call.
    ring: Option<MappedRing>,
    polls: Arc<PollsInFlight>,
}

/// Submits to an [`AioBackend`].
#[derive(Clone, Debug)]
pub(crate) struct AioSubmitter {
    id: ContextId,
    owner: Process,
    eventfd: Option<RawFd>,
    polls: Arc<PollsInFlight>,
}

impl AioBackend {
    /// Creates a context for `nr` requests in flight.
    ///
    /// # Errors
    ///
    /// See [`aio_syscalls::io_setup`].
    pub(crate) fn setup(nr: u32) -> io::Result<AioBackend> {
        let owner = Process::current();
        let id = aio_syscalls::io_setup(nr)?;
        let ring = MappedRing::at(id);
        if let Some(ring) = &ring {
            // SAFETY: the length is the ring's own.
            // If this fails, the `owner` check still keeps a child from using the ring.
            let _ = unsafe { aio_syscalls::dont_fork_ring(id, ring.mapped_len()) };
        }
        Ok(AioBackend {
            id,
            owner,
            ring: ring.filter(|_| !cfg!(kaio_force_getevents)),
            polls: Arc::default(),
        })
    }

    /// Reaps by system call.
    #[cold]
    fn fetch(&mut self, completions: &mut Completions) -> io::Result<()> {
        let mut events = ArrayVec::<IoEvent, REAP_BATCH>::new();
        let room = completions.remaining_capacity();
        // SAFETY: the context lives as long as `self`. `events` has room for as many events as
        // `completions`. There is no ring to reap in this mode.
        let fetched = unsafe { aio_syscalls::io_getevents(self.id, events.as_mut_ptr(), room) }?;
        // SAFETY: the kernel has written that many events.
        unsafe { events.set_len(fetched.min(room)) };
        for event in &events {
            self.polls.completed(event.data, event.obj);
            completions.push(Completion {
                user_data: event.data,
                result: event.res,
            });
        }
        Ok(())
    }

    #[cfg(all(test, not(kaio_loom), not(miri)))]
    pub(super) fn polls(&self) -> &Arc<PollsInFlight> {
        &self.polls
    }
}

impl IoBackend for AioBackend {
    type Submitter = AioSubmitter;

    fn submitter(&self, eventfd: Option<RawFd>) -> AioSubmitter {
        AioSubmitter {
            id: self.id,
            owner: self.owner,
            eventfd,
            polls: Arc::clone(&self.polls),
        }
    }

    #[inline]
    fn reap(&mut self, completions: &mut Completions) -> io::Result<()> {
        let Some(ring) = &mut self.ring else {
            return self.fetch(completions);
        };
        let polls = &self.polls;
        ring::reap(ring, completions, |event| {
            polls.completed(event.data, event.obj);
        });
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            blocking_submit: false,
            nonblocking_submit: false,
            user_ring: self.ring.is_some(),
            cancels_transfers: false,
        }
    }
}

impl Drop for AioBackend {
    fn drop(&mut self) {
        if self.owner != Process::current() {
            // A thread of the parent may have been changing the map at the fork.
            mem::forget(Arc::clone(&self.polls));
            return;
        }
        // SAFETY: the callers of `submit` have promised to be done. `cancel` may still use the id,
        // which the kernel checks. EINVAL would mean that the context is gone already, which leaves
        // nothing to do.
        let _ = unsafe { aio_syscalls::io_destroy(self.id) };
        self.polls.clear();
    }
}

impl Submitter for AioSubmitter {
    #[inline]
    unsafe fn submit(&self, entries: &[Sqe], notify: Notify) -> Result<usize, SubmitError> {
        let eventfd = self.eventfd.filter(|_| notify == Notify::Signal);
        // In a forked child, the kernel refuses with EINVAL: the child does not have the context.
        match entries {
            [entry] if entry.opcode != OpCode::Poll => {
                let mut iocb = encode(entry, eventfd);
                // SAFETY: the iocb lives through the call; the rest is the caller's promise.
                unsafe { self.io_submit(&mut [&raw mut iocb]) }
            }
            // SAFETY: the caller's promise, passed on.
            _ => unsafe { self.submit_many(entries, eventfd) },
        }
    }

    fn cancel(&self, user_data: u64) -> bool {
        if self.owner != Process::current() {
            return false;
        }
        let Some(iocb) = self.polls.get(user_data) else {
            return false;
        };
        // A kernel that can't cancel leaves the poll as it is: its event will come some time.
        aio_syscalls::io_cancel(self.id, iocb.as_ptr()).unwrap_or(false)
    }
}

impl AioSubmitter {
    /// # Safety
    ///
    /// As [`Submitter::submit`].
    #[inline(never)]
    unsafe fn submit_many(
        &self,
        entries: &[Sqe],
        eventfd: Option<RawFd>,
    ) -> Result<usize, SubmitError> {
        if entries.is_empty() {
            return Ok(0);
        }
        let polls = entries.iter().any(|entry| entry.opcode == OpCode::Poll);
        // `collect` into an `ArrayVec` would copy it.
        let (mut few_iocbs, mut many_iocbs);
        let iocbs: &mut [Iocb] = if entries.len() <= MAX_BATCH {
            few_iocbs = ArrayVec::<Iocb, MAX_BATCH>::new();
            for entry in entries {
                few_iocbs.push(encode(entry, eventfd));
            }
            &mut few_iocbs
        } else {
            let encoded = entries.iter().map(|entry| encode(entry, eventfd));
            many_iocbs = encoded.collect::<Vec<_>>();
            &mut many_iocbs
        };
        let addresses = iocbs.iter_mut().map(|iocb| &raw mut *iocb);
        let (mut few, mut many);
        let pointers: &mut [*mut Iocb] = if entries.len() <= MAX_BATCH {
            few = ArrayVec::<*mut Iocb, MAX_BATCH>::new();
            for address in addresses {
                few.push(address);
            }
            &mut few
        } else {
            many = addresses.collect::<Vec<_>>();
            &mut many
        };
        if polls {
            // SAFETY: the pointers are valid and of `entries`; the rest is the caller's promise.
            return unsafe { self.submit_with_polls(entries, eventfd, pointers) };
        }
        // SAFETY: the iocbs live through the call; the rest is the caller's promise.
        unsafe { self.io_submit(pointers) }
    }

    /// Submits the polls among `entries` from pinned iocbs, and the rest from `pointers`.
    ///
    /// # Safety
    ///
    /// As [`Submitter::submit`]. `pointers` are the iocbs of `entries`, one each.
    #[cold]
    unsafe fn submit_with_polls(
        &self,
        entries: &[Sqe],
        eventfd: Option<RawFd>,
        pointers: &mut [*mut Iocb],
    ) -> Result<usize, SubmitError> {
        refuse_in_child(self.owner)?; // before the lock of the polls
        // Kept here too until the kernel has read the iocbs: an event that names one may be reaped
        // meanwhile.
        let mut pinned = Vec::new();
        let mut ready = entries.len();
        for (index, entry) in entries.iter().enumerate() {
            if entry.opcode != OpCode::Poll {
                continue;
            }
            let iocb = Arc::new(PinnedIocb::new(encode_poll(entry, eventfd)));
            if !self.polls.insert(entry.user_data, Arc::clone(&iocb)) {
                ready = index;
                break;
            }
            pointers[index] = iocb.as_ptr().as_ptr();
            pinned.push((index, entry.user_data, iocb));
        }
        if ready == 0 {
            return Err(SubmitError::Refused(libc::EEXIST));
        }
        // SAFETY: the iocbs live through the call, the pinned ones by `pinned`; the rest is the
        // caller's promise.
        let answer = unsafe { self.io_submit(&mut pointers[..ready]) };
        let taken = answer.unwrap_or(0);
        for (index, user_data, iocb) in &pinned {
            if *index >= taken {
                self.polls.refused(*user_data, iocb);
            }
        }
        answer
    }

    /// Submits at least one iocb.
    ///
    /// # Safety
    ///
    /// As [`aio_syscalls::io_submit`], except that `self` has the id.
    #[inline]
    unsafe fn io_submit(&self, iocbs: &mut [*mut Iocb]) -> Result<usize, SubmitError> {
        // SAFETY: the caller's promise.
        match unsafe { aio_syscalls::io_submit(self.id, iocbs) } {
            Ok(0) => Err(SubmitError::NoRoom), // no errno says why
            Ok(taken) => Ok(taken.min(iocbs.len())),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => Err(SubmitError::NoRoom),
                errno => Err(SubmitError::Refused(errno.unwrap_or(libc::EIO))),
            },
        }
    }
}

/// The iocb of a poll.
fn encode_poll(entry: &Sqe, eventfd: Option<RawFd>) -> Iocb {
    Iocb {
        buf: entry.len,     // the event mask
        nbytes: entry.addr, // the kernel refuses what should be 0
        ..encode(entry, eventfd)
    }
}

/// The iocb of an entry that is no poll, which signals `eventfd` if there is one.
#[inline(always)]
fn encode(entry: &Sqe, eventfd: Option<RawFd>) -> Iocb {
    // Without branches: this is done for every request.
    let has_priority = u32::from(entry.priority != 0);
    let signals = u32::from(eventfd.is_some());
    let flags = has_priority * aio_abi::IOCB_FLAG_IOPRIO + signals * aio_abi::IOCB_FLAG_RESFD;
    Iocb {
        data: entry.user_data,
        key: 0,
        rw_flags: entry.rw_flags,
        lio_opcode: match entry.opcode {
            OpCode::Read => aio_abi::IOCB_CMD_PREAD,
            OpCode::Write => aio_abi::IOCB_CMD_PWRITE,
            OpCode::ReadVectored => aio_abi::IOCB_CMD_PREADV,
            OpCode::WriteVectored => aio_abi::IOCB_CMD_PWRITEV,
            OpCode::Fsync => aio_abi::IOCB_CMD_FSYNC,
            OpCode::Fdatasync => aio_abi::IOCB_CMD_FDSYNC,
            OpCode::Poll => aio_abi::IOCB_CMD_POLL,
            OpCode::Allocate | OpCode::Truncate | OpCode::SyncRange | OpCode::Open => {
                aio_abi::IOCB_CMD_NOOP
            }
        },
        reqprio: entry.priority as i16,
        fildes: entry.fd as u32,
        buf: entry.addr,
        nbytes: entry.len,
        offset: entry.offset,
        reserved2: 0,
        flags,
        resfd: eventfd.unwrap_or(0) as u32,
    }
}

/// The ring where the kernel mapped it. Valid until `io_destroy(2)`.
#[derive(Debug)]
struct MappedRing {
    header: NonNull<RingHeader>,
    capacity: u32,
}

// SAFETY: the mapping is not bound to a thread; only `head` is written, by the one consumer.
unsafe impl Send for MappedRing {}

impl MappedRing {
    /// `None`: the ring is not of the layout that is known here. gVisor has none, for example.
    fn at(id: ContextId) -> Option<MappedRing> {
        let header = NonNull::new(id as *mut RingHeader)?;
        // SAFETY: `io_setup` has mapped at least a page there; libaio reads the header likewise.
        let words = unsafe { header.as_ref() };
        let known = words.magic == aio_abi::RING_MAGIC
            && words.incompat_features == aio_abi::RING_INCOMPAT_FEATURES
            && words.header_length as usize == size_of::<RingHeader>()
            && words.nr > 0;
        known.then_some(MappedRing {
            header,
            capacity: words.nr,
        })
    }

    fn mapped_len(&self) -> usize {
        let events = self.capacity as usize * size_of::<IoEvent>();
        (size_of::<RingHeader>() + events).next_multiple_of(page_size())
    }

    fn words(&self) -> &RingHeader {
        // SAFETY: mapped until `io_destroy`, which the drop of the owning `AioBackend` calls.
        unsafe { self.header.as_ref() }
    }
}

impl RingMemory for MappedRing {
    fn capacity(&self) -> u32 {
        self.capacity
    }

    fn head(&self) -> u32 {
        self.words().head.load(Ordering::Relaxed)
    }

    fn tail(&self) -> u32 {
        self.words().tail.load(Ordering::Acquire)
    }

    fn set_head(&self, head: u32) {
        self.words().head.store(head, Ordering::Release);
    }

    fn event(&self, index: u32) -> IoEvent {
        debug_assert!(index < self.capacity);
        // SAFETY: the events follow the header, within the mapping.
        let events = unsafe { self.header.add(1) }.cast::<IoEvent>();
        // SAFETY: `index` is below the number of events that the kernel mapped.
        let event = unsafe { events.add(index as usize) };
        // SAFETY: the caller has read a `tail` past `index`, so the kernel no longer writes it.
        unsafe { event.read() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: Sqe = Sqe {
        opcode: OpCode::Read,
        priority: 0,
        fd: 5,
        rw_flags: 8,
        addr: 0x1000,
        len: 512,
        offset: 1 << 40,
        user_data: u64::MAX,
    };

    #[test]
    fn an_iocb_has_every_field_of_its_entry() {
        let iocb = encode(&ENTRY, None);
        assert_eq!(iocb.lio_opcode, aio_abi::IOCB_CMD_PREAD);
        assert_eq!((iocb.fildes, iocb.rw_flags), (5, 8));
        assert_eq!((iocb.buf, iocb.nbytes, iocb.offset), (0x1000, 512, 1 << 40));
        assert_eq!((iocb.data, iocb.key, iocb.reserved2), (u64::MAX, 0, 0));
        assert_eq!((iocb.flags, iocb.resfd, iocb.reqprio), (0, 0, 0));
    }

    #[test]
    fn opcodes_are_those_of_the_kernel() {
        let encoded = [
            OpCode::Read,
            OpCode::Write,
            OpCode::Fsync,
            OpCode::Fdatasync,
            OpCode::Poll,
            OpCode::ReadVectored,
            OpCode::WriteVectored,
        ]
        .map(|opcode| encode(&Sqe { opcode, ..ENTRY }, None).lio_opcode);
        assert_eq!(encoded, [0, 1, 2, 3, 5, 7, 8]);
    }

    #[test]
    fn an_iocb_names_the_eventfd_and_the_priority_that_there_are() {
        let idle = Sqe {
            priority: 3 << 13,
            ..ENTRY
        };
        for (entry, eventfd, flags) in [
            (&ENTRY, Some(0), aio_abi::IOCB_FLAG_RESFD),
            (&idle, None, aio_abi::IOCB_FLAG_IOPRIO),
            (
                &idle,
                Some(9),
                aio_abi::IOCB_FLAG_RESFD | aio_abi::IOCB_FLAG_IOPRIO,
            ),
        ] {
            let iocb = encode(entry, eventfd);
            assert_eq!(iocb.flags, flags);
            assert_eq!(iocb.resfd, eventfd.unwrap_or(0) as u32);
            assert_eq!(iocb.reqprio as u16, entry.priority);
        }
    }

    #[test]
    fn the_events_of_a_poll_are_where_the_kernel_looks() {
        let poll = Sqe {
            opcode: OpCode::Poll,
            addr: 0,
            len: 7,
            ..ENTRY
        };
        let iocb = encode_poll(&poll, None);
        assert_eq!((iocb.buf, iocb.nbytes), (7, 0));
    }
}
