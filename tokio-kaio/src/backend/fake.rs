//! [`FakeBackend`]: a backend that a test controls.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(kaio_loom)]
use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(kaio_loom))]
use std::sync::{Condvar, Mutex, MutexGuard};

use super::aio::ModelRing;
use super::{
    Capabilities, Completion, Completions, IoBackend, Notify, OpCode, Sqe, SubmitError, Submitter,
};

/// A backend that does what a test tells its [`FakeControl`].
///
/// The test tells requests apart by their offset, which is called the label here. A request that the
/// backend takes stays in flight until the test completes it, or until the backend is dropped, which
/// completes the rest. Completing a request moves its data. The test fails if the memory of the
/// request is not there any more.
///
/// The eventfd is not signalled. The fake counts the signals instead, and the test passes them on.
#[derive(Debug)]
pub(crate) struct FakeBackend {
    control: FakeControl,
    capabilities: Capabilities,
}

/// Submits to a [`FakeBackend`].
#[derive(Clone, Debug)]
pub(crate) struct FakeSubmitter {
    control: FakeControl,
    eventfd: Option<RawFd>,
}

/// Controls a [`FakeBackend`], from any thread.
#[derive(Clone, Debug)]
pub(crate) struct FakeControl(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
    ring: Arc<ModelRing>,
    /// Completions in the ring.
    unreaped: AtomicUsize,
    cancels_transfers: bool,
}

#[derive(Debug)]
struct State {
    calls: Vec<Call>,
    in_flight: VecDeque<InFlight>,
    /// The label of each request that was taken, and the file behind its descriptor at that time.
    files: Vec<(i64, io::Result<PathBuf>)>,
    /// How many requests each of the next calls takes at most.
    limits: VecDeque<usize>,
    /// Labels that are refused, with the errno.
    refused: Vec<(i64, i32)>,
    /// Most requests in flight. As in the kernel, those that were not reaped count.
    room: usize,
    completes_inline: bool,
    /// `reap` fails with this errno.
    reap_errno: Option<i32>,
    /// Labels that complete after the next `reap`, which does not find them.
    complete_after_reap: Vec<i64>,
    submits_held: bool,
    returns_held: bool,
    drop_held: bool,
    /// Calls that have not returned.
    submitting: usize,
    /// Completions that signalled since the test asked.
    signals: usize,
    dropping: bool,
    /// Labels in flight at the drop; `None` before it.
    dropped_with: Option<Vec<i64>>,
}

/// A request in flight.
#[derive(Clone, Debug)]
pub(crate) struct InFlight {
    pub(crate) entry: Sqe,
    /// Whether its completion signals an eventfd.
    pub(crate) signals: bool,
    /// Address and length of each piece of its memory.
    pub(crate) memory: Vec<(u64, u64)>,
}

/// One call of [`Submitter::submit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) labels: Vec<i64>,
    pub(crate) notify: Notify,
    pub(crate) answer: Result<usize, SubmitError>,
}

/// The content of the file that completed reads read.
pub(crate) const FILE_BYTE: u8 = 0xa5;

/// Slots of the ring, of which one stays free.
const RING_SIZE: u32 = if cfg!(kaio_loom) { 4 } else { 256 };

/// Keeps the backend from going on, until it is dropped.
pub(crate) struct Held<'a> {
    control: &'a FakeControl,
    flag: fn(&mut State) -> &mut bool,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        *(self.flag)(&mut self.control.state()) = false;
        self.control.0.changed.notify_all();
    }
}

impl FakeBackend {
    /// A backend with the capabilities of kernel AIO without a ring.
    pub(crate) fn new() -> FakeBackend {
        FakeBackend::with_capabilities(Capabilities {
            blocking_submit: false,
            nonblocking_submit: false,
            user_ring: false,
            cancels_transfers: false,
        })
    }

    /// A backend that claims these capabilities. Only [`Capabilities::cancels_transfers`] changes what
    /// it does.
    pub(crate) fn with_capabilities(capabilities: Capabilities) -> FakeBackend {
        let state = State {
            calls: Vec::new(),
            in_flight: VecDeque::new(),
            files: Vec::new(),
            limits: VecDeque::new(),
            refused: Vec::new(),
            room: usize::MAX,
            completes_inline: false,
            reap_errno: None,
            complete_after_reap: Vec::new(),
            submits_held: false,
            returns_held: false,
            drop_held: false,
            submitting: 0,
            signals: 0,
            dropping: false,
            dropped_with: None,
        };
        let control = FakeControl(Arc::new(Inner {
            state: Mutex::new(state),
            changed: Condvar::new(),
            ring: ModelRing::new(RING_SIZE, 1),
            unreaped: AtomicUsize::new(0),
            cancels_transfers: capabilities.cancels_transfers,
        }));
        FakeBackend {
            control,
            capabilities,
        }
    }

    pub(crate) fn control(&self) -> FakeControl {
        self.control.clone()
    }
}

impl IoBackend for FakeBackend {
    type Submitter = FakeSubmitter;

    fn submitter(&self, eventfd: Option<RawFd>) -> FakeSubmitter {
        FakeSubmitter {
            control: self.control(),
            eventfd,
        }
    }

    fn reap(&mut self, completions: &mut Completions) -> io::Result<()> {
        // The models need no such errors, and a lock less to search.
        if cfg!(not(kaio_loom)) {
            if let Some(errno) = self.control.state().reap_errno {
                return Err(io::Error::from_raw_os_error(errno));
            }
        }
        let before = completions.len();
        self.control.0.ring.reap(completions);
        let reaped = completions.len() - before;
        self.control.0.unreaped.fetch_sub(reaped, Ordering::Relaxed);
        if cfg!(not(kaio_loom)) {
            let due = mem::take(&mut self.control.state().complete_after_reap);
            due.into_iter()
                .for_each(|label| self.control.complete(label));
        }
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }
}

impl Drop for FakeBackend {
    fn drop(&mut self) {
        let control = &self.control;
        let mut state = control.state();
        assert_eq!(state.submitting, 0, "dropped during a submission");
        state.dropping = true;
        control.0.changed.notify_all();
        while state.drop_held {
            state = control.wait(state);
        }
        let in_flight = mem::take(&mut state.in_flight);
        in_flight.iter().for_each(InFlight::transfer);
        let labels = in_flight.iter().map(|request| request.entry.offset);
        state.dropped_with = Some(labels.collect());
        control.0.changed.notify_all();
    }
}

impl Submitter for FakeSubmitter {
    unsafe fn submit(&self, entries: &[Sqe], notify: Notify) -> Result<usize, SubmitError> {
        let control = &self.control;
        let mut state = control.state();
        assert!(state.dropped_with.is_none(), "submitted after the drop");
        state.submitting += 1;
        control.0.changed.notify_all();
        while state.submits_held {
            state = control.wait(state);
        }
        let signals = self.eventfd.is_some() && notify == Notify::Signal;
        let unreaped = control.0.unreaped.load(Ordering::Relaxed);
        // SAFETY: the caller's promise, passed on.
        let answer = unsafe { state.take(entries, signals, unreaped) };
        state.calls.push(Call {
            labels: entries.iter().map(|entry| entry.offset).collect(),
            notify,
            answer,
        });
        if state.completes_inline {
            while control.complete_at(&mut state, 0, None).is_some() {}
        }
        control.0.changed.notify_all();
        while state.returns_held {
            state = control.wait(state);
        }
        state.submitting -= 1;
        answer
    }

    fn cancel(&self, user_data: u64) -> bool {
        let mut state = self.control.state();
        let in_flight = &state.in_flight;
        let is_it = |request: &InFlight| request.entry.user_data == user_data;
        let Some(position) = in_flight.iter().position(is_it) else {
            return false;
        };
        let result = match in_flight[position].entry.opcode {
            OpCode::Poll => 0,
            OpCode::Open => -i64::from(libc::ECANCELED),
            _ if self.control.0.cancels_transfers => -i64::from(libc::ECANCELED),
            _ => return false,
        };
        let completed = self.control.complete_at(&mut state, position, Some(result));
        completed.is_some()
    }
}

impl State {
    /// Takes entries up to the first that it can't take, as `io_submit(2)` does.
    ///
    /// # Safety
    ///
    /// The iovecs of vectored transfers are valid.
    unsafe fn take(
        &mut self,
        entries: &[Sqe],
        signals: bool,
        unreaped: usize,
    ) -> Result<usize, SubmitError> {
        assert!(!entries.is_empty());
        let limit = self.limits.pop_front().unwrap_or(usize::MAX);
        let mut taken = 0;
        for entry in entries {
            let refused = self
                .refused
                .iter()
                .find(|(label, _)| *label == entry.offset);
            let error = if let Some((_, errno)) = refused {
                Some(SubmitError::Refused(*errno))
            } else if taken >= limit || self.in_flight.len() + unreaped >= self.room {
                Some(SubmitError::NoRoom)
            } else {
                None
            };
            match error {
                Some(error) if taken == 0 => return Err(error),
                Some(_) => break,
                None => {}
            }
            self.in_flight.push_back(InFlight {
                entry: *entry,
                signals,
                // SAFETY: the caller's promise.
                memory: unsafe { memory_of(entry) },
            });
            if cfg!(not(any(kaio_loom, miri))) {
                let link = format!("/proc/self/fd/{}", entry.fd);
                self.files.push((entry.offset, std::fs::read_link(link)));
            }
            taken += 1;
        }
        Ok(taken)
    }
}

impl FakeControl {
    /// The next calls take that many entries at most, then as many as there are. 0: no room.
    pub(crate) fn take_at_most(&self, limits: impl IntoIterator<Item = usize>) {
        self.state().limits.extend(limits);
    }

    /// Refuses requests of this label.
    pub(crate) fn refuse(&self, label: i64, errno: i32) {
        self.state().refused.push((label, errno));
    }

    /// Has room for that many requests. Those that were not reaped count.
    pub(crate) fn set_room(&self, room: usize) {
        self.state().room = room;
    }

    /// From now on, `reap` fails with this errno.
    pub(crate) fn fail_reaps(&self, errno: i32) {
        self.state().reap_errno = Some(errno);
    }

    /// From now on, requests complete before the `submit` returns that submits them.
    pub(crate) fn complete_inline(&self) {
        self.state().completes_inline = true;
    }

    /// Calls of `submit` take nothing until this is dropped.
    pub(crate) fn hold_submits(&self) -> Held<'_> {
        self.hold(|state| &mut state.submits_held)
    }

    /// Calls of `submit` take entries, but do not return until this is dropped.
    pub(crate) fn hold_returns(&self) -> Held<'_> {
        self.hold(|state| &mut state.returns_held)
    }

    /// The drop of the backend waits until this is dropped.
    pub(crate) fn hold_drop(&self) -> Held<'_> {
        self.hold(|state| &mut state.drop_held)
    }

    fn hold(&self, flag: fn(&mut State) -> &mut bool) -> Held<'_> {
        *flag(&mut self.state()) = true;
        Held {
            control: self,
            flag,
        }
    }

    /// Wakes all waiting threads; each waits again.
    pub(crate) fn wake_waiting(&self) {
        self.0.changed.notify_all();
    }

    /// Waits until there were that many calls, which may not have returned. [`FakeControl::calls`]
    /// resets the number.
    pub(crate) fn wait_for_calls(&self, calls: usize) {
        let mut state = self.state();
        while state.calls.len() < calls {
            state = self.wait(state);
        }
    }

    /// Waits until a call has begun and not returned.
    pub(crate) fn wait_for_submit(&self) {
        let mut state = self.state();
        while state.submitting == 0 {
            state = self.wait(state);
        }
    }

    /// Waits until the drop of the backend has begun.
    pub(crate) fn wait_for_drop(&self) {
        let mut state = self.state();
        while !state.dropping {
            state = self.wait(state);
        }
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.state().dropped_with.is_some()
    }

    /// Labels of the requests that were in flight when the backend was dropped; `None` before.
    pub(crate) fn in_flight_at_drop(&self) -> Option<Vec<i64>> {
        self.state().dropped_with.clone()
    }

    /// The calls of `submit` since this was last asked.
    pub(crate) fn calls(&self) -> Vec<Call> {
        mem::take(&mut self.state().calls)
    }

    /// Number of completions that signalled an eventfd since this was last asked.
    pub(crate) fn signals(&self) -> usize {
        mem::take(&mut self.state().signals)
    }

    /// Labels in flight, in the order in which they were taken.
    pub(crate) fn in_flight(&self) -> Vec<i64> {
        let state = self.state();
        let labels = state.in_flight.iter().map(|request| request.entry.offset);
        labels.collect()
    }

    /// The request in flight of this label.
    pub(crate) fn request(&self, label: i64) -> InFlight {
        let state = self.state();
        state.in_flight[position_of(&state, label)].clone()
    }

    /// The entry of the request in flight of this label.
    pub(crate) fn entry(&self, label: i64) -> Sqe {
        self.request(label).entry
    }

    /// The file that the request of this label was submitted for.
    pub(crate) fn file(&self, label: i64) -> PathBuf {
        let state = self.state();
        let found = state.files.iter().find(|(of, _)| *of == label);
        let (_, file) = found.unwrap_or_else(|| panic!("{label} was not taken"));
        let file = file.as_ref().ok().cloned();
        file.unwrap_or_else(|| panic!("{label} has a closed descriptor"))
    }

    /// Completes the request of this label in full.
    pub(crate) fn complete(&self, label: i64) {
        self.complete_label(label, None);
    }

    /// Completes the request of this label with this result.
    pub(crate) fn complete_with(&self, label: i64, result: i64) {
        self.complete_label(label, Some(result));
    }

    fn complete_label(&self, label: i64, result: Option<i64>) {
        let mut state = self.state();
        let position = position_of(&state, label);
        self.complete_at(&mut state, position, result);
    }

    /// Completes the request of this label right after the next `reap`, which does not find it.
    pub(crate) fn complete_after_reap(&self, label: i64) {
        self.state().complete_after_reap.push(label);
    }

    /// Posts a completion that belongs to no request: a made-up one, or a duplicate. Signals nothing.
    pub(crate) fn post(&self, user_data: u64, result: i64) {
        let _one_at_a_time = self.state();
        self.post_completion(user_data, result);
    }

    /// Completes the oldest request, after waiting for one. Returns whether that signals. `None`: the
    /// backend was dropped.
    pub(crate) fn complete_next(&self) -> Option<bool> {
        let mut state = self.state();
        while state.in_flight.is_empty() && state.dropped_with.is_none() {
            state = self.wait(state);
        }
        self.complete_at(&mut state, 0, None)
    }

    /// Completes the request at this position, if there is one. Returns whether that signals.
    fn complete_at(&self, state: &mut State, position: usize, result: Option<i64>) -> Option<bool> {
        let request = state.in_flight.remove(position)?;
        request.transfer();
        let result = result.unwrap_or_else(|| request.full_result());
        self.post_completion(request.entry.user_data, result);
        state.signals += usize::from(request.signals);
        Some(request.signals)
    }

    fn post_completion(&self, user_data: u64, result: i64) {
        self.0.unreaped.fetch_add(1, Ordering::Relaxed);
        let posted = self
            .0
            .ring
            .post_completion(Completion { user_data, result });
        assert!(posted, "the ring overflows");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock has failed the test already.
        let state = self.0.state.lock();
        state.unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let state = self.0.changed.wait(state);
        state.unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn position_of(state: &State, label: i64) -> usize {
    let is_it = |request: &InFlight| request.entry.offset == label;
    let position = state.in_flight.iter().position(is_it);
    position.unwrap_or_else(|| panic!("{label} is not in flight"))
}

impl InFlight {
    /// The result if nothing goes wrong: all bytes, or all events that a poll asked for.
    fn full_result(&self) -> i64 {
        if self.entry.opcode.is_transfer() {
            self.memory.iter().map(|(_, len)| *len as i64).sum()
        } else {
            self.entry.len as i64
        }
    }

    /// Moves the data: fills the memory of a read, and checks that the memory is still there.
    fn transfer(&self) {
        for (addr, len) in &self.memory {
            if *addr == 0 {
                continue;
            }
            assert!(is_mapped(*addr, *len), "{self:?} has lost its memory");
            if !self.entry.opcode.is_write() {
                let start = *addr as usize as *mut u8;
                // SAFETY: mapped, and the request's own until it completes. If it is not, the code
                // under test is at fault, and the test finds these bytes where they don't belong.
                unsafe { start.write_bytes(FILE_BYTE, *len as usize) };
            }
        }
    }
}

/// The memory of an entry.
///
/// # Safety
///
/// The iovecs of a vectored transfer are valid.
unsafe fn memory_of(entry: &Sqe) -> Vec<(u64, u64)> {
    if !entry.opcode.is_transfer() {
        return Vec::new();
    }
    if !entry.opcode.is_vectored() {
        return vec![(entry.addr, entry.len)];
    }
    let iovecs = entry.addr as usize as *const libc::iovec;
    let pieces = (0..entry.len as usize).map(|index| {
        // SAFETY: there are that many iovecs, by the caller's promise.
        let iovec = unsafe { iovecs.add(index) };
        // SAFETY: as above.
        let iovec = unsafe { iovec.read() };
        (iovec.iov_base as u64, iovec.iov_len as u64)
    });
    pieces.collect()
}

fn is_mapped(addr: u64, len: u64) -> bool {
    if cfg!(miri) {
        return true; // Miri checks the access itself
    }
    let page = crate::sys::page_size() as u64;
    let start = addr - addr % page;
    let len = (addr + len - start) as usize;
    // SAFETY: checks a range of addresses, whatever is there. Private memory has nothing to write
    // back.
    unsafe { libc::msync(start as usize as *mut _, len, libc::MS_ASYNC) == 0 }
}

#[cfg(all(test, not(kaio_loom)))]
mod tests {
    use super::*;

    fn sync(label: i64) -> Sqe {
        Sqe {
            opcode: OpCode::Fsync,
            priority: 0,
            fd: -1,
            rw_flags: 0,
            addr: 0,
            len: 0,
            offset: label,
            user_data: 1000 + label as u64,
        }
    }

    fn poll(label: i64) -> Sqe {
        Sqe {
            opcode: OpCode::Poll,
            len: 5,
            ..sync(label)
        }
    }

    fn submit(submitter: &FakeSubmitter, entries: &[Sqe]) -> Result<usize, SubmitError> {
        // SAFETY: the entries have no memory, or the test keeps it until it has reaped.
        unsafe { submitter.submit(entries, Notify::Signal) }
    }

    fn reap(fake: &mut FakeBackend) -> Vec<(u64, i64)> {
        let mut completions = Completions::new();
        fake.reap(&mut completions).unwrap();
        completions
            .iter()
            .map(|c| (c.user_data, c.result))
            .collect()
    }

    fn fake() -> (FakeBackend, FakeControl, FakeSubmitter) {
        let fake = FakeBackend::new();
        let (control, submitter) = (fake.control(), fake.submitter(Some(-1)));
        (fake, control, submitter)
    }

    #[test]
    fn requests_complete_when_the_test_says_so_in_its_order() {
        let (mut fake, control, submitter) = fake();
        assert_eq!(submit(&submitter, &[sync(1), sync(2), poll(3)]), Ok(3));
        assert_eq!(control.in_flight(), [1, 2, 3]);
        assert_eq!(reap(&mut fake), []);
        control.complete_with(2, -5);
        control.complete(3);
        control.complete(1);
        assert_eq!(reap(&mut fake), [(1002, -5), (1003, 5), (1001, 0)]);
        assert_eq!(control.in_flight(), []);
    }

    #[test]
    fn duplicate_and_made_up_completions_are_posted_as_they_are() {
        let (mut fake, control, submitter) = fake();
        submit(&submitter, &[sync(1)]).unwrap();
        control.complete(1);
        control.post(1001, 0);
        control.post(7, -1);
        assert_eq!(reap(&mut fake), [(1001, 0), (1001, 0), (7, -1)]);
    }

    #[test]
    fn refusals_and_lack_of_room_stop_a_submission() {
        let (mut fake, control, submitter) = fake();
        control.refuse(2, libc::EBADF);
        assert_eq!(submit(&submitter, &[sync(1), sync(2), sync(3)]), Ok(1));
        let refused = Err(SubmitError::Refused(libc::EBADF));
        assert_eq!(submit(&submitter, &[sync(2), sync(3)]), refused);
        control.set_room(2);
        assert_eq!(submit(&submitter, &[sync(3), sync(4)]), Ok(1));
        control.complete(1); // counts until it is reaped
        assert_eq!(submit(&submitter, &[sync(4)]), Err(SubmitError::NoRoom));
        assert_eq!(reap(&mut fake), [(1001, 0)]);
        control.take_at_most([0, 1]);
        assert_eq!(submit(&submitter, &[sync(4)]), Err(SubmitError::NoRoom));
        assert_eq!(submit(&submitter, &[sync(4), sync(5)]), Ok(1));
        let calls = control.calls();
        let answers: Vec<_> = calls.iter().map(|call| call.answer).collect();
        let no_room = Err(SubmitError::NoRoom);
        assert_eq!(answers, [Ok(1), refused, Ok(1), no_room, no_room, Ok(1)]);
        assert_eq!(calls[0].labels, [1, 2, 3]);
        assert_eq!(control.calls(), []);
    }

    #[test]
    fn inline_requests_have_completed_when_submit_returns() {
        let (mut fake, control, submitter) = fake();
        control.complete_inline();
        assert_eq!(submit(&submitter, &[sync(1), sync(2)]), Ok(2));
        assert_eq!(reap(&mut fake), [(1001, 0), (1002, 0)]);
    }

    #[test]
    fn signals_are_counted_where_there_is_an_eventfd_and_the_caller_asks() {
        let (fake, control, submitter) = fake();
        let mute = fake.submitter(None);
        submit(&submitter, &[sync(1), sync(2)]).unwrap();
        submit(&mute, &[sync(3)]).unwrap();
        // SAFETY: it has no memory.
        unsafe { submitter.submit(&[sync(4)], Notify::Suppress) }.unwrap();
        assert!(control.request(1).signals && !control.request(4).signals);
        assert_eq!(control.signals(), 0);
        (1..=4).for_each(|label| control.complete(label));
        assert_eq!(control.signals(), 2);
        assert_eq!(control.signals(), 0);
    }

    #[test]
    fn only_polls_in_flight_are_cancelled() {
        let (mut fake, _control, submitter) = fake();
        assert!(!submitter.cancel(1002));
        submit(&submitter, &[sync(1), poll(2)]).unwrap();
        assert!(!submitter.cancel(1001));
        assert!(submitter.cancel(1002) && !submitter.cancel(1002));
        assert_eq!(reap(&mut fake), [(1002, 0)]);
    }

    #[test]
    fn a_fake_that_cancels_everything_cancels_transfers() {
        let mut fake = FakeBackend::with_capabilities(Capabilities {
            cancels_transfers: true,
            ..FakeBackend::new().capabilities()
        });
        let submitter = fake.submitter(None);
        submit(&submitter, &[sync(1), sync(2)]).unwrap();
        assert!(submitter.cancel(1002) && !submitter.cancel(1002));
        assert_eq!(reap(&mut fake), [(1002, -i64::from(libc::ECANCELED))]);
    }

    #[test]
    fn completed_reads_have_filled_their_memory() {
        let (mut fake, control, submitter) = fake();
        let (mut plain, mut first, mut second) = ([0; 4], [0; 2], [0; 3]);
        let iovec = |piece: &mut [u8]| libc::iovec {
            iov_base: piece.as_mut_ptr().expose_provenance() as *mut _,
            iov_len: piece.len(),
        };
        let iovecs = [iovec(&mut first), iovec(&mut second)];
        let read = Sqe {
            opcode: OpCode::Read,
            addr: plain.as_mut_ptr().expose_provenance() as u64,
            len: 4,
            ..sync(1)
        };
        let vectored = Sqe {
            opcode: OpCode::ReadVectored,
            addr: iovecs.as_ptr().expose_provenance() as u64,
            len: 2,
            ..sync(2)
        };
        assert_eq!(submit(&submitter, &[read, vectored]), Ok(2));
        assert_eq!(control.entry(2).len, 2);
        control.complete(2);
        control.complete(1);
        assert_eq!(reap(&mut fake), [(1002, 5), (1001, 4)]);
        assert_eq!(plain, [FILE_BYTE; 4]);
        assert_eq!((first, second), ([FILE_BYTE; 2], [FILE_BYTE; 3]));
    }

    #[test]
    fn the_drop_says_what_was_in_flight() {
        let (fake, control, submitter) = fake();
        submit(&submitter, &[sync(1), sync(2)]).unwrap();
        control.complete(1);
        assert_eq!(control.in_flight_at_drop(), None);
        drop(fake);
        assert!(control.is_dropped());
        assert_eq!(control.in_flight_at_drop(), Some(vec![2]));
        assert_eq!(control.complete_next(), None);
    }

    #[test]
    fn submissions_and_the_drop_can_be_held() {
        let (mut fake, control, submitter) = fake();
        std::thread::scope(|scope| {
            let submits = control.hold_submits();
            scope.spawn(|| submit(&submitter, &[sync(1)]));
            control.wait_for_submit();
            assert_eq!(control.in_flight(), []);
            let returns = control.hold_returns();
            drop(submits);
            control.wait_for_calls(1);
            assert_eq!(control.complete_next(), Some(true));
            drop(returns);
        });
        assert_eq!(reap(&mut fake), [(1001, 0)]);
        std::thread::scope(|scope| {
            let held = control.hold_drop();
            scope.spawn(move || drop(fake));
            control.wait_for_drop();
            assert!(!control.is_dropped());
            drop(held);
        });
        assert!(control.is_dropped());
    }

    #[test]
    fn reaps_fail_on_demand() {
        let (mut fake, control, _submitter) = fake();
        control.fail_reaps(libc::EFAULT);
        let error = fake.reap(&mut Completions::new()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
    }
}
