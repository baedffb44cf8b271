//! [`PollThread`]: the completions of a blocking backend, and the thread that waits for its polls.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::blocking_syscalls::{drain, poll};
use super::errno_of;
use crate::backend::{Completion, Completions, Sqe, SubmitError};
use crate::sys::{create_eventfd, duplicate, signal};

/// Completions that were not reaped, and polls that wait. The thread runs while a poll waits.
#[derive(Debug, Default)]
pub(in crate::backend) struct PollThread(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    completed: VecDeque<Completion>,
    /// By `user_data`. Empty where there is no `thread`.
    waiting: BTreeMap<u64, Waiting>,
    /// Of the next poll.
    serial: u64,
    /// Descriptors that the thread is to close: it may be polling them, and closing may block.
    retired: Vec<OwnedFd>,
    /// An eventfd that interrupts the thread's `poll(2)`. Made with the first thread.
    wakeup: Option<Arc<OwnedFd>>,
    thread: Option<JoinHandle<()>>,
    closed: bool,
}

/// A poll that waits.
#[derive(Debug)]
struct Waiting {
    /// A duplicate: the submitter may close its own.
    descriptor: OwnedFd,
    poll: Poll,
    /// Tells polls of the same `user_data` apart.
    serial: u64,
}

/// A poll without its descriptor.
#[derive(Clone, Copy, Debug)]
struct Poll {
    user_data: u64,
    /// Events that complete it.
    events: u16,
    /// Signalled when it completes. Open until then.
    eventfd: Option<RawFd>,
}

impl PollThread {
    /// Adds the completion of a request that is not a poll.
    pub(super) fn post(&self, completion: Completion) {
        self.lock().completed.push_back(completion);
    }

    /// Moves completions to `completions`, as many as fit.
    pub(super) fn take(&self, completions: &mut Completions) {
        let completed = &mut self.lock().completed;
        let fit = completed.len().min(completions.remaining_capacity());
        completions.extend(completed.drain(..fit));
    }

    /// Takes a poll. Does not wait for its events.
    ///
    /// # Errors
    ///
    /// `EINVAL` and `EBADF` as with AIO. `EEXIST`: a poll of this `user_data` waits. `EMFILE`: the
    /// poll needs a descriptor. [`SubmitError::NoRoom`]: the thread can't be started.
    pub(super) fn submit(
        self: &Arc<Self>,
        entry: &Sqe,
        eventfd: Option<RawFd>,
    ) -> Result<(), SubmitError> {
        let poll = Poll::new(entry, eventfd)?;
        let readiness = poll.check(entry.fd)?;
        let mut state = self.lock();
        if state.closed {
            return Err(SubmitError::Refused(libc::EINVAL));
        }
        if state.waiting.contains_key(&poll.user_data) {
            return Err(SubmitError::Refused(libc::EEXIST));
        }
        match readiness {
            Readiness::Ready(events) => state.complete(poll, events.into()),
            Readiness::NotReady(descriptor) => {
                state.ensure_thread(self)?;
                let serial = state.serial;
                state.serial += 1;
                let waiting = Waiting {
                    descriptor,
                    poll,
                    serial,
                };
                state.waiting.insert(poll.user_data, waiting);
            }
        }
        Ok(())
    }

    /// Ends the poll of this `user_data` if it waits. Returns whether it did.
    pub(super) fn cancel(&self, user_data: u64) -> bool {
        let mut state = self.lock();
        let Entry::Occupied(waiting) = state.waiting.entry(user_data) else {
            return false;
        };
        let waiting = waiting.remove();
        state.end(waiting, 0);
        state.wake_thread();
        true
    }

    /// Drops the polls that wait, without completions, and ends the thread. Takes no more polls.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let waiting = mem::take(&mut state.waiting).into_values();
        state
            .retired
            .extend(waiting.map(|waiting| waiting.descriptor));
        let thread = state.thread.take();
        state.wake_thread();
        let wakeup = state.wakeup.take(); // submitters of a closed backend keep the rest
        drop(state);
        drop(wakeup);
        if let Some(thread) = thread {
            let _ = thread.join(); // nothing there panics
        }
    }

    #[cfg(all(test, not(kaio_loom), not(miri)))]
    pub(in crate::backend) fn is_running(&self) -> bool {
        self.lock().thread.is_some()
    }

    /// Keeps others from taking the lock.
    #[cfg(all(test, not(kaio_loom), not(miri)))]
    pub(in crate::backend) fn hold(&self) -> impl Sized + '_ {
        self.lock()
    }

    /// Runs on the thread, until no poll waits.
    fn run(&self, wakeup: &OwnedFd) {
        let mut fds = Vec::new();
        let mut polled = Vec::new();
        loop {
            let mut state = self.lock();
            let retired = mem::take(&mut state.retired);
            if !retired.is_empty() {
                drop(state);
                drop(retired);
                continue;
            }
            if state.waiting.is_empty() {
                // From here on, `submit` starts another thread, and nobody has to join this one.
                state.thread = None;
                return;
            }
            polled.clear();
            fds.clear();
            fds.push(pollfd(wakeup.as_raw_fd(), libc::POLLIN as u16));
            for (user_data, waiting) in &state.waiting {
                polled.push((*user_data, waiting.serial));
                fds.push(pollfd(waiting.descriptor.as_raw_fd(), waiting.poll.events));
            }
            drop(state);
            let result = poll(&mut fds, true);
            drain(wakeup); // before the state is read, of which this was the signal
            self.lock().collect(result, &polled, &fds[1..]);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Has the thread look at the polls again; starts it if it does not run.
    fn ensure_thread(&mut self, polls: &Arc<PollThread>) -> Result<(), SubmitError> {
        let wakeup = match &self.wakeup {
            Some(wakeup) => Arc::clone(wakeup),
            None => {
                let wakeup = Arc::new(create_eventfd(0, false).map_err(refusal)?);
                Arc::clone(self.wakeup.insert(wakeup))
            }
        };
        if self.thread.is_some() {
            self.wake_thread();
            return Ok(());
        }
        let polls = Arc::clone(polls);
        let thread = thread::Builder::new()
            .name("kaio-poll".into())
            .spawn(move || polls.run(&wakeup))
            .map_err(|_| SubmitError::NoRoom)?;
        self.thread = Some(thread);
        Ok(())
    }

    fn wake_thread(&self) {
        if let Some(wakeup) = &self.wakeup {
            signal(wakeup.as_raw_fd());
        }
    }

    /// Completes the polls that `poll(2)` found ready. Some of `polled` may be gone.
    fn collect(&mut self, result: io::Result<usize>, polled: &[(u64, u64)], fds: &[libc::pollfd]) {
        for ((user_data, serial), fd) in polled.iter().zip(fds) {
            let Entry::Occupied(waiting) = self.waiting.entry(*user_data) else {
                continue;
            };
            if waiting.get().serial != *serial {
                continue;
            }
            let result = match &result {
                Ok(_) => match waiting.get().poll.found(fd) {
                    Ok(0) => continue,
                    Ok(events) => events.into(),
                    Err(errno) => -i64::from(errno),
                },
                Err(error) => -i64::from(errno_of(error)),
            };
            let waiting = waiting.remove();
            self.end(waiting, result);
        }
    }

    /// Completes a poll that has left `waiting`.
    fn end(&mut self, waiting: Waiting, result: i64) {
        self.retired.push(waiting.descriptor);
        self.complete(waiting.poll, result);
    }

    /// Signals under the lock: once the backend is closed, nobody may use the eventfd.
    fn complete(&mut self, poll: Poll, result: i64) {
        self.completed.push_back(Completion {
            user_data: poll.user_data,
            result,
        });
        if let Some(eventfd) = poll.eventfd {
            signal(eventfd);
        }
    }
}

/// Whether a poll has to wait.
enum Readiness {
    Ready(u16),
    /// With a duplicate of the descriptor.
    NotReady(OwnedFd),
}

/// Events that complete every poll.
const ALWAYS: u16 = (libc::POLLERR | libc::POLLHUP) as u16;

impl Poll {
    fn new(entry: &Sqe, eventfd: Option<RawFd>) -> Result<Poll, SubmitError> {
        let invalid = SubmitError::Refused(libc::EINVAL);
        let events = u16::try_from(entry.len).map_err(|_| invalid)?;
        if (entry.addr, entry.offset, entry.rw_flags) != (0, 0, 0) {
            return Err(invalid);
        }
        Ok(Poll {
            user_data: entry.user_data,
            events: events | ALWAYS,
            eventfd,
        })
    }

    fn check(&self, fd: RawFd) -> Result<Readiness, SubmitError> {
        let mut fds = [pollfd(fd, self.events)];
        poll(&mut fds, false).map_err(refusal)?;
        match self.found(&fds[0]) {
            Ok(0) => duplicate(fd).map(Readiness::NotReady).map_err(refusal),
            Ok(events) => Ok(Readiness::Ready(events)),
            Err(errno) => Err(SubmitError::Refused(errno)),
        }
    }

    /// The events of this poll among those that `poll(2)` found.
    fn found(&self, fd: &libc::pollfd) -> Result<u16, i32> {
        if fd.revents & libc::POLLNVAL != 0 {
            return Err(libc::EBADF);
        }
        Ok(fd.revents as u16 & self.events)
    }
}

fn refusal(error: io::Error) -> SubmitError {
    SubmitError::Refused(errno_of(&error))
}

fn pollfd(fd: RawFd, events: u16) -> libc::pollfd {
    libc::pollfd {
        fd,
        events: events as i16,
        revents: 0,
    }
}

#[cfg(all(test, not(kaio_loom), not(miri)))]
mod tests {
    use super::*;

    /// State in which a poll waits that was submitted as the second of its `user_data`, 7.
    fn second_poll_waits() -> State {
        let mut state = State::default();
        let waiting = Waiting {
            descriptor: create_eventfd(0, false).unwrap(),
            poll: Poll {
                user_data: 7,
                events: libc::POLLIN as u16 | ALWAYS,
                eventfd: None,
            },
            serial: 1,
        };
        state.waiting.insert(7, waiting);
        state
    }

    fn ready() -> [libc::pollfd; 1] {
        [libc::pollfd {
            revents: libc::POLLIN,
            ..pollfd(-1, libc::POLLIN as u16)
        }]
    }

    fn results(state: &State) -> Vec<(u64, i64)> {
        let completed = state.completed.iter();
        completed.map(|c| (c.user_data, c.result)).collect()
    }

    #[test]
    fn events_of_a_cancelled_poll_do_not_complete_its_successor() {
        let mut state = second_poll_waits();
        state.collect(Ok(1), &[(7, 0)], &ready());
        assert_eq!(results(&state), []);
        state.collect(Ok(1), &[(7, 1)], &ready());
        assert_eq!(results(&state), [(7, libc::POLLIN.into())]);
        assert!(state.waiting.is_empty());
        state.collect(Ok(1), &[(7, 1)], &ready());
        assert_eq!(state.completed.len(), 1);
    }

    #[test]
    fn polls_complete_with_the_errno_when_waiting_fails() {
        let mut state = second_poll_waits();
        let failed = || Err(io::Error::from_raw_os_error(libc::ENOMEM));
        state.collect(failed(), &[(7, 0)], &ready());
        assert_eq!(results(&state), []);
        state.collect(failed(), &[(7, 1)], &ready());
        assert_eq!(results(&state), [(7, -i64::from(libc::ENOMEM))]);
    }
}
