//! [`Poller`]: the events of a kernel of our own, and the thread that waits for those of polls.
#![allow(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::abi::{IoEvent, Iocb};
use super::fixed_iocb::is_revoked;
use super::{Events, FixedIocb, syscalls};

/// What is done, and what is waited for. There is a thread as long as something is.
#[derive(Debug, Default)]
pub(super) struct Poller(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Not reaped yet.
    done: VecDeque<IoEvent>,
    /// By serial numbers. Only where there is a `thread`.
    waiting: BTreeMap<u64, Waiting>,
    next: u64,
    /// Descriptors for the thread to close: it may be waiting for them, and closing may wait.
    retired: Vec<OwnedFd>,
    /// Tells the thread that something has changed. Made with the first thread.
    bell: Option<Arc<OwnedFd>>,
    thread: Option<JoinHandle<()>>,
    closed: bool,
}

/// A poll that is not ready.
#[derive(Debug)]
struct Waiting {
    /// A duplicate: the submitter may close its own.
    descriptor: OwnedFd,
    request: Request,
}

/// What a poll is, but for the file.
#[derive(Clone, Copy, Debug)]
struct Request {
    data: u64,
    /// Address of what was submitted, if that is fixed.
    place: u64,
    /// What there may be in its result.
    events: u16,
    /// What is signalled when it is done; open until then.
    eventfd: Option<RawFd>,
}

impl Poller {
    /// A request is done.
    pub(super) fn post(&self, event: IoEvent) {
        self.lock().done.push_back(event);
    }

    /// Moves events to `events`, as many as fit.
    pub(super) fn take(&self, events: &mut Events) {
        let done = &mut self.lock().done;
        let fit = done.len().min(events.remaining_capacity());
        events.extend(done.drain(..fit));
    }

    /// Takes in `poll`, which was submitted from `fixed`. Does not wait for what it waits for.
    ///
    /// # Errors
    ///
    /// Those of the kernel's AIO: `EINVAL`, `EBADF`. `EMFILE`: it takes a descriptor. `EAGAIN`: there
    /// is no thread to be had.
    ///
    /// # Safety
    ///
    /// `fixed` lives.
    pub(super) unsafe fn submit(
        self: &Arc<Self>,
        poll: &Iocb,
        fixed: Option<NonNull<Iocb>>,
    ) -> io::Result<()> {
        let request = Request::of(poll, fixed)?;
        let ready = request.ready_now(poll.fildes as RawFd)?;
        let mut state = self.lock();
        if state.closed {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // SAFETY: the caller's promise. Looked at under the lock, under which it is revoked where
        // it is not found.
        let revoked = fixed.is_some_and(|fixed| unsafe { is_revoked(fixed) });
        match ready {
            _ if revoked => state.finish(request, 0),
            Ready::Now(events) => state.finish(request, events.into()),
            Ready::Later(descriptor) => {
                state.call_thread(self)?;
                let serial = state.next;
                state.next += 1;
                let waiting = Waiting {
                    descriptor,
                    request,
                };
                state.waiting.insert(serial, waiting);
            }
        }
        Ok(())
    }

    /// Ends the poll that was submitted from `fixed`, or, if there is none, the one that will be.
    /// Returns whether it was there.
    pub(super) fn cancel(&self, fixed: &FixedIocb) -> bool {
        let mut state = self.lock();
        let place = fixed.address();
        let mut waiting = state.waiting.iter();
        let found = waiting.find(|(_, waiting)| waiting.request.place == place);
        let Some(serial) = found.map(|(serial, _)| *serial) else {
            fixed.revoke();
            return false;
        };
        state.complete(serial, 0);
        state.ring();
        true
    }

    /// Ends what waits, without events, and the thread. Takes in nothing from now on.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let waiting = mem::take(&mut state.waiting).into_values();
        state.retired.extend(waiting.map(|poll| poll.descriptor));
        let thread = state.thread.take();
        state.ring();
        let bell = state.bell.take(); // handles of a closed context keep the rest
        drop(state);
        drop(bell);
        if let Some(thread) = thread {
            let _ = thread.join(); // nothing there panics
        }
    }

    #[cfg(all(test, not(kaio_loom), not(miri)))]
    pub(super) fn has_thread(&self) -> bool {
        self.lock().thread.is_some()
    }

    /// Keeps everybody from it until this is dropped.
    #[cfg(all(test, not(kaio_loom), not(miri)))]
    pub(super) fn hold(&self) -> impl Sized + '_ {
        self.lock()
    }

    /// What the thread does, until nothing waits.
    fn work(&self, bell: &OwnedFd) {
        let mut fds = Vec::new();
        let mut serials = Vec::new();
        loop {
            let mut state = self.lock();
            let retired = mem::take(&mut state.retired);
            if !retired.is_empty() {
                drop(state);
                drop(retired);
                continue;
            }
            if state.waiting.is_empty() {
                // From here on others start another one, and nobody has to wait for this one.
                state.thread = None;
                return;
            }
            serials.clear();
            serials.extend(state.waiting.keys());
            fds.clear();
            fds.push(pollfd(bell.as_raw_fd(), libc::POLLIN as u16));
            fds.extend(state.waiting.values().map(Waiting::pollfd));
            drop(state);
            let polled = syscalls::poll(&mut fds, true);
            syscalls::drain(bell); // before it is looked at what has changed
            self.lock().polled(polled, &serials, &fds[1..]);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Has the thread look at what there is; starts one if there is none.
    fn call_thread(&mut self, poller: &Arc<Poller>) -> io::Result<()> {
        let bell = match &self.bell {
            Some(bell) => Arc::clone(bell),
            None => {
                let bell = Arc::new(syscalls::create_eventfd(0, false)?);
                Arc::clone(self.bell.insert(bell))
            }
        };
        if self.thread.is_some() {
            self.ring();
            return Ok(());
        }
        let poller = Arc::clone(poller);
        let thread = thread::Builder::new()
            .name("kaio-poll".into())
            .spawn(move || poller.work(&bell))
            .map_err(|_| io::Error::from_raw_os_error(libc::EAGAIN))?;
        self.thread = Some(thread);
        Ok(())
    }

    fn ring(&self) {
        if let Some(bell) = &self.bell {
            syscalls::signal(bell.as_raw_fd());
        }
    }

    /// What came out of a poll for `serials`, of which some may be gone.
    fn polled(&mut self, polled: io::Result<usize>, serials: &[u64], fds: &[libc::pollfd]) {
        if let Err(error) = polled {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            for serial in serials {
                self.complete(*serial, -i64::from(errno));
            }
            return;
        }
        for (serial, fd) in serials.iter().zip(fds) {
            let Some(waiting) = self.waiting.get(serial) else {
                continue;
            };
            match waiting.request.result(fd) {
                Ok(0) => {}
                Ok(events) => self.complete(*serial, events.into()),
                Err(errno) => self.complete(*serial, -i64::from(errno)),
            }
        }
    }

    /// A poll that waits is done.
    fn complete(&mut self, serial: u64, res: i64) {
        if let Some(waiting) = self.waiting.remove(&serial) {
            self.retired.push(waiting.descriptor);
            self.finish(waiting.request, res);
        }
    }

    /// The signal is under the lock: once the kernel is closed, nobody may use the eventfd.
    fn finish(&mut self, request: Request, res: i64) {
        self.done.push_back(IoEvent {
            data: request.data,
            obj: request.place,
            res,
            res2: 0,
        });
        if let Some(eventfd) = request.eventfd {
            syscalls::signal(eventfd);
        }
    }
}

impl Waiting {
    fn pollfd(&self) -> libc::pollfd {
        pollfd(self.descriptor.as_raw_fd(), self.request.events)
    }
}

/// Whether a poll has something to wait for.
enum Ready {
    Now(u16),
    Later(OwnedFd),
}

/// What a poll tells even where it was not asked to.
const ALWAYS: u16 = (libc::POLLERR | libc::POLLHUP) as u16;

impl Request {
    /// `EINVAL`: `poll` has what a poll has not.
    fn of(poll: &Iocb, fixed: Option<NonNull<Iocb>>) -> io::Result<Request> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let events = u16::try_from(poll.buf).map_err(|_| invalid())?;
        if poll.nbytes != 0 || poll.offset != 0 || poll.rw_flags != 0 {
            return Err(invalid());
        }
        Ok(Request {
            data: poll.data,
            place: fixed.map_or(0, |fixed| fixed.addr().get() as u64),
            events: events | ALWAYS,
            eventfd: poll.notifies(),
        })
    }

    fn ready_now(&self, fd: RawFd) -> io::Result<Ready> {
        let mut now = [pollfd(fd, self.events)];
        syscalls::poll(&mut now, false)?;
        match self.result(&now[0]) {
            Ok(0) => syscalls::duplicate(fd).map(Ready::Later),
            Ok(events) => Ok(Ready::Now(events)),
            Err(errno) => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// What `poll(2)` found of it.
    fn result(&self, found: &libc::pollfd) -> Result<u16, i32> {
        if found.revents & libc::POLLNVAL != 0 {
            return Err(libc::EBADF);
        }
        Ok(found.revents as u16 & self.events)
    }
}

fn pollfd(fd: RawFd, events: u16) -> libc::pollfd {
    libc::pollfd {
        fd,
        events: events as i16,
        revents: 0,
    }
}
