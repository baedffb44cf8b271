//! [`Fake`]: a kernel that does as a test tells it.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(kaio_loom)]
use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(kaio_loom))]
use std::sync::{Condvar, Mutex, MutexGuard};

#[cfg(kaio_loom)]
use crate::sys::abi::IOCB_FLAG_RESFD;
use crate::sys::abi::{IOCB_CMD_PREAD, IOCB_CMD_STAND_IN, IoEvent, Iocb};
use crate::sys::{Events, FixedIocb, Kernel, ModelRing};

/// What a context has of the kernel. A test steers it through its [`Port`].
///
/// Requests are told apart by their offset, which is called their label here. A request that the
/// kernel takes stays in flight until the test completes it, or the context is destroyed, which
/// completes what is left. Completing one moves its data, if its memory is there; the test fails if
/// it is not.
#[derive(Debug)]
pub(super) struct Fake(Port);

/// The way to a [`Fake`]: for its context to submit through, and for the test to steer it.
#[derive(Clone, Debug)]
pub(super) struct Port(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
    ring: Arc<ModelRing>,
    /// Events in the ring.
    unreaped: AtomicUsize,
}

#[derive(Debug)]
struct State {
    /// What was submitted, call by call.
    calls: Vec<Call>,
    in_flight: VecDeque<Iocb>,
    /// What the descriptor of each request that was taken stood for then.
    files: Vec<(i64, io::Result<PathBuf>)>,
    /// How many requests each of the next calls takes at most.
    limits: VecDeque<usize>,
    /// Labels that are refused, and the errnos.
    bad: Vec<(i64, i32)>,
    /// Most requests in flight, unreaped ones included, as the kernel counts.
    room: usize,
    /// Whether requests complete inside the call.
    inline: bool,
    /// Gives no events, but this errno.
    reap_errno: Option<i32>,
    submits_held: bool,
    returns_held: bool,
    destroy_held: bool,
    submitting: usize,
    destroying: bool,
    destroyed: bool,
}

/// One `io_submit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) labels: Vec<i64>,
    /// How many were taken, or the errno.
    pub(super) answer: Result<usize, i32>,
}

/// What completed reads find in the file.
pub(super) const FILE_BYTE: u8 = 0xa5;

/// Events that the ring has room for, and one more.
const RING_SIZE: u32 = 256;

/// Keeps the kernel from going on.
pub(super) struct Held<'a> {
    port: &'a Port,
    what: fn(&mut State) -> &mut bool,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        *(self.what)(&mut self.port.state()) = false;
        self.port.0.changed.notify_all();
    }
}

impl Fake {
    pub(super) fn new() -> Fake {
        Fake(Port(Arc::new(Inner {
            state: Mutex::new(State {
                calls: Vec::new(),
                in_flight: VecDeque::new(),
                files: Vec::new(),
                limits: VecDeque::new(),
                bad: Vec::new(),
                room: usize::MAX,
                inline: false,
                reap_errno: None,
                submits_held: false,
                returns_held: false,
                destroy_held: false,
                submitting: 0,
                destroying: false,
                destroyed: false,
            }),
            changed: Condvar::new(),
            ring: ModelRing::new(if cfg!(kaio_loom) { 4 } else { RING_SIZE }, 1),
            unreaped: AtomicUsize::new(0),
        })))
    }
}

impl Kernel for Fake {
    type Port = Port;

    fn port(&self) -> Port {
        self.0.clone()
    }

    unsafe fn submit(port: &Port, batch: &mut [Iocb]) -> io::Result<usize> {
        let mut state = port.state();
        state.submitting += 1;
        port.0.changed.notify_all();
        while state.submits_held {
            state = port.wait(state);
        }
        let unreaped = port.0.unreaped.load(Ordering::Relaxed);
        let answer = state.submit(batch, unreaped);
        state.calls.push(Call {
            labels: batch.iter().map(|iocb| iocb.offset).collect(),
            answer,
        });
        if state.inline {
            while port.complete_one(&mut state, 0, None) {}
        }
        port.0.changed.notify_all();
        while state.returns_held {
            state = port.wait(state);
        }
        state.submitting -= 1;
        answer.map_err(io::Error::from_raw_os_error)
    }

    fn reap(&mut self, events: &mut Events) -> io::Result<()> {
        if cfg!(not(kaio_loom)) {
            if let Some(errno) = self.0.state().reap_errno {
                return Err(io::Error::from_raw_os_error(errno));
            }
        }
        self.0.0.ring.consume(events);
        let unreaped = &self.0.0.unreaped;
        unreaped.fetch_sub(events.len(), Ordering::Relaxed);
        Ok(())
    }

    fn cancel(port: &Port, poll: &FixedIocb) -> bool {
        let mut state = port.state();
        let is_it =
            |iocb: &Iocb| iocb.lio_opcode == IOCB_CMD_STAND_IN && iocb.buf == poll.address();
        let found = state.in_flight.iter().position(is_it);
        found.is_some_and(|position| port.complete_one(&mut state, position, Some(0)))
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let mut state = self.0.state();
        assert_eq!(state.submitting, 0, "destroyed under a submission");
        state.destroying = true;
        self.0.0.changed.notify_all();
        while state.destroy_held {
            state = self.0.wait(state);
        }
        for iocb in std::mem::take(&mut state.in_flight) {
            transfer(&iocb);
        }
        state.destroyed = true;
        self.0.0.changed.notify_all();
    }
}

impl State {
    /// As `io_submit(2)`: stops at the first request that it can't take, and says what is wrong
    /// with it if it is the first of all.
    fn submit(&mut self, batch: &[Iocb], unreaped: usize) -> Result<usize, i32> {
        assert!(!batch.is_empty());
        let limit = self.limits.pop_front().unwrap_or(usize::MAX);
        let mut taken = 0;
        for iocb in batch {
            let bad = self.bad.iter().find(|(label, _)| *label == iocb.offset);
            let errno = if let Some((_, errno)) = bad {
                Some(*errno)
            } else if taken >= limit || self.in_flight.len() + unreaped >= self.room {
                Some(libc::EAGAIN)
            } else {
                None
            };
            match errno {
                Some(errno) if taken == 0 => return Err(errno),
                Some(_) => break,
                None => {}
            }
            self.in_flight.push_back(*iocb);
            if cfg!(not(any(kaio_loom, miri))) {
                let link = format!("/proc/self/fd/{}", iocb.fildes as i32);
                self.files.push((iocb.offset, std::fs::read_link(link)));
            }
            taken += 1;
        }
        Ok(taken)
    }
}

impl Port {
    /// The next calls take that many at most, then as many as there are. 0: `EAGAIN`.
    pub(super) fn take_at_most(&self, limits: impl IntoIterator<Item = usize>) {
        self.state().limits.extend(limits);
    }

    /// Refuses the request of this label.
    pub(super) fn refuse(&self, label: i64, errno: i32) {
        self.state().bad.push((label, errno));
    }

    /// Has no room for more requests than so many, those that were not reaped included.
    pub(super) fn set_room(&self, room: usize) {
        self.state().room = room;
    }

    /// From now on there are no events to be had, but this errno.
    pub(super) fn fail_reaps(&self, errno: i32) {
        self.state().reap_errno = Some(errno);
    }

    /// From now on requests complete inside the call that submits them.
    pub(super) fn complete_inline(&self) {
        self.state().inline = true;
    }

    /// Calls that are made from now on do nothing until this is dropped.
    pub(super) fn hold_submits(&self) -> Held<'_> {
        self.hold(|state| &mut state.submits_held)
    }

    /// Calls that have done their work do not return until this is dropped.
    pub(super) fn hold_returns(&self) -> Held<'_> {
        self.hold(|state| &mut state.returns_held)
    }

    /// The end of the context does nothing until this is dropped.
    pub(super) fn hold_destroy(&self) -> Held<'_> {
        self.hold(|state| &mut state.destroy_held)
    }

    fn hold(&self, what: fn(&mut State) -> &mut bool) -> Held<'_> {
        *what(&mut self.state()) = true;
        Held { port: self, what }
    }

    /// Waits until so many calls have done their work.
    pub(super) fn wait_for_calls(&self, calls: usize) {
        let mut state = self.state();
        while state.calls.len() < calls {
            state = self.wait(state);
        }
    }

    /// Waits until a call is being made, and held.
    pub(super) fn wait_for_submit(&self) {
        let mut state = self.state();
        while state.submitting == 0 {
            state = self.wait(state);
        }
    }

    /// Waits until the end of the context is being made, and held.
    pub(super) fn wait_for_destroy(&self) {
        let mut state = self.state();
        while !state.destroying {
            state = self.wait(state);
        }
    }

    pub(super) fn is_destroyed(&self) -> bool {
        self.state().destroyed
    }

    /// Calls made since this was last asked.
    pub(super) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.state().calls)
    }

    /// Labels in flight, in the order in which they were taken.
    pub(super) fn in_flight(&self) -> Vec<i64> {
        self.state().in_flight.iter().map(|i| i.offset).collect()
    }

    /// The request in flight of this label, as it was submitted.
    pub(super) fn iocb(&self, label: i64) -> Iocb {
        let state = self.state();
        let found = state.in_flight.iter().find(|iocb| iocb.offset == label);
        *found.unwrap_or_else(|| panic!("{label} is not in flight"))
    }

    /// The file that the request of this label is for.
    pub(super) fn file(&self, label: i64) -> PathBuf {
        let state = self.state();
        let found = state.files.iter().find(|(of, _)| *of == label);
        let (_, file) = found.unwrap_or_else(|| panic!("{label} was not taken"));
        let file = file.as_ref().ok().cloned();
        file.unwrap_or_else(|| panic!("{label} has a closed descriptor"))
    }

    /// The request of this label is done: all of its bytes are moved.
    pub(super) fn complete(&self, label: i64) {
        self.finish(label, None);
    }

    /// The request of this label is done, with this result.
    pub(super) fn complete_with(&self, label: i64, res: i64) {
        self.finish(label, Some(res));
    }

    fn finish(&self, label: i64, res: Option<i64>) {
        let mut state = self.state();
        let position = state.in_flight.iter().position(|i| i.offset == label);
        let position = position.unwrap_or_else(|| panic!("{label} is not in flight"));
        assert!(self.complete_one(&mut state, position, res));
    }

    /// Posts an event that belongs to no request in flight.
    pub(super) fn post(&self, data: u64) {
        let _one_at_a_time = self.state();
        self.post_event(data, 0);
    }

    /// Completes the oldest request, waiting for one, and says whether the kernel signals that.
    /// `None`: the context is gone.
    #[cfg(kaio_loom)]
    pub(super) fn complete_next(&self) -> Option<bool> {
        let mut state = self.state();
        while state.in_flight.is_empty() && !state.destroyed {
            state = self.wait(state);
        }
        let signals = state.in_flight.front()?.flags & IOCB_FLAG_RESFD != 0;
        self.complete_one(&mut state, 0, None).then_some(signals)
    }

    fn complete_one(&self, state: &mut State, position: usize, res: Option<i64>) -> bool {
        let Some(iocb) = state.in_flight.remove(position) else {
            return false;
        };
        transfer(&iocb);
        self.post_event(iocb.data, res.unwrap_or(iocb.nbytes as i64));
        true
    }

    fn post_event(&self, data: u64, res: i64) {
        self.0.unreaped.fetch_add(1, Ordering::Relaxed);
        let posted = self.0.ring.post(IoEvent {
            data,
            obj: 0,
            res,
            res2: 0,
        });
        assert!(posted, "the ring overflows");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What panicked under it has failed the test.
        let state = self.0.state.lock();
        state.unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let state = self.0.changed.wait(state);
        state.unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Moves the data of a request: a read's memory is filled.
fn transfer(iocb: &Iocb) {
    if iocb.buf == 0 || iocb.lio_opcode == IOCB_CMD_STAND_IN {
        return;
    }
    assert!(is_mapped(iocb), "{iocb:?} has lost its memory");
    if iocb.lio_opcode == IOCB_CMD_PREAD {
        let start = iocb.buf as usize as *mut u8;
        // SAFETY: mapped, and the request's own until it is done; where that is not so, the code
        // under test is at fault, and the test finds these bytes where they don't belong.
        unsafe { start.write_bytes(FILE_BYTE, iocb.nbytes as usize) };
    }
}

fn is_mapped(iocb: &Iocb) -> bool {
    if cfg!(miri) {
        return true; // Miri sees for itself
    }
    let (start, len) = (iocb.buf as usize as *mut _, iocb.nbytes as usize);
    // SAFETY: asks about a range of addresses, whatever is there: private memory has nothing to
    // be written back.
    unsafe { libc::msync(start, len, libc::MS_ASYNC) == 0 }
}
