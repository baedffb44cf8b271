//! One kernel AIO context with its ring.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;

use super::abi::{self, IoEvent, Iocb, RingHeader};
use super::fixed_iocb::place;
use super::fork::Process;
use super::memory::page_size;
use super::ring::{self, RingMemory};
use super::syscalls::{self, ContextId};
use super::{Events, FixedIocb, Kernel};

/// A context of the kernel's.
///
/// Dropping it calls `io_destroy(2)`, which waits for every request in flight and sleeps some
/// 32 ms even when there is none: never drop one on a runtime thread.
#[derive(Debug)]
pub(crate) struct Aio {
    port: Port,
    /// `None`: events are fetched by system call.
    ring: Option<MappedRing>,
}

/// Submits to an [`Aio`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Port {
    id: ContextId,
    owner: Process,
}

impl Aio {
    /// A context for `nr` requests in flight.
    ///
    /// # Errors
    ///
    /// See [`syscalls::io_setup`].
    pub(crate) fn setup(nr: u32) -> io::Result<Aio> {
        let owner = Process::current();
        let id = syscalls::io_setup(nr)?;
        let ring = MappedRing::at(id);
        if let Some(ring) = &ring {
            // SAFETY: the ring's own idea of its size.
            // Where it fails, the `owner` check still keeps a child's hands off the ring.
            let _ = unsafe { syscalls::dont_fork_ring(id, ring.mapped_len()) };
        }
        Ok(Aio {
            port: Port { id, owner },
            ring: ring.filter(|_| !cfg!(kaio_force_getevents)),
        })
    }

    fn fetch(&mut self, events: &mut Events) -> io::Result<()> {
        let len = events.len();
        let room = events.remaining_capacity();
        // SAFETY: the spare capacity starts within the array.
        let spare = unsafe { events.as_mut_ptr().add(len) };
        // SAFETY: the context lives as long as `self`, `spare` has that much room, and there is
        // no ring to reap in this mode.
        let fetched = unsafe { syscalls::io_getevents(self.port.id, spare, room) }?;
        // SAFETY: the kernel has filled in that many.
        unsafe { events.set_len(len + fetched.min(room)) };
        Ok(())
    }
}

impl Kernel for Aio {
    type Port = Port;

    fn port(&self) -> Port {
        self.port
    }

    unsafe fn submit(port: &Port, batch: &mut [Iocb]) -> io::Result<usize> {
        if port.owner != Process::current() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut stand_ins = false;
        let point = batch.iter_mut().map(|iocb| {
            stand_ins |= iocb.is_stand_in();
            &raw mut *iocb
        });
        let (mut few, mut many);
        let pointers: &mut [*mut Iocb] = match point.len() {
            0..=MAX_BATCH => {
                few = ArrayVec::<*mut Iocb, MAX_BATCH>::new(); // `collect` would copy it
                few.extend(point);
                &mut few
            }
            _ => {
                many = point.collect::<Vec<_>>();
                &mut many
            }
        };
        if stand_ins {
            // SAFETY: the pointers are valid, and what stand-ins stand for is this call's, by the
            // caller's promise.
            unsafe { place(pointers) };
        }
        // SAFETY: the pointers are valid for the call, after which the kernel no longer needs
        // them; the rest is the caller's promise.
        unsafe { syscalls::io_submit(port.id, pointers) }
    }

    fn reap(&mut self, events: &mut Events) -> io::Result<()> {
        if self.port.owner != Process::current() {
            return Ok(());
        }
        match &mut self.ring {
            Some(ring) => {
                ring::consume(ring, events);
                Ok(())
            }
            None => self.fetch(events),
        }
    }

    fn cancel(port: &Port, poll: &FixedIocb) -> bool {
        // A kernel that can't leaves the poll as it is: it will have its event some time.
        port.owner == Process::current()
            && syscalls::io_cancel(port.id, poll.as_ptr()).unwrap_or(false)
    }

    fn has_ring(&self) -> bool {
        self.ring.is_some()
    }
}

/// Most requests that go to the kernel in one call, unless more of them come together.
pub(crate) const MAX_BATCH: usize = 64;

impl Drop for Aio {
    fn drop(&mut self) {
        if self.port.owner == Process::current() {
            // SAFETY: whoever drops the context is its only user. EINVAL would mean that it is
            // gone already, which leaves nothing to do.
            let _ = unsafe { syscalls::io_destroy(self.port.id) };
        }
    }
}

/// The ring where the kernel mapped it. Valid until `io_destroy(2)`.
#[derive(Debug)]
pub(crate) struct MappedRing {
    header: NonNull<RingHeader>,
    capacity: u32,
}

// SAFETY: the mapping is not bound to a thread; only `head` is written, by the one consumer.
unsafe impl Send for MappedRing {}

impl MappedRing {
    /// `None`: no ring of the layout that is known here, as under gVisor.
    fn at(id: ContextId) -> Option<MappedRing> {
        let header = NonNull::new(id as *mut RingHeader)?;
        // SAFETY: `io_setup` has mapped at least a page there; libaio reads the header likewise.
        let words = unsafe { header.as_ref() };
        let known = words.magic == abi::RING_MAGIC
            && words.incompat_features == abi::RING_INCOMPAT_FEATURES
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
        // SAFETY: mapped until `io_destroy`, which the owning `Aio` calls when it is dropped.
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
        // SAFETY: the caller has seen `tail` past it, so the kernel no longer writes it.
        unsafe { event.read() }
    }
}
