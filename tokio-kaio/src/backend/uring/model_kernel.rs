//! [`ModelKernel`]: a ring whose kernel is a thread of a loom model.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::{Condvar, Mutex, MutexGuard};
use loom::thread;

use super::in_flight_table::Key;
use super::kernel_ring::{CompletionQueue, KernelRing, NotTaken, SubmissionQueue};
use crate::backend::{OpCode, Sqe};

/// A ring, and the control of its kernel, which a model runs on threads of its own.
///
/// The memory of an entry is the byte that [`Sqe::addr`] numbers. The kernel writes to it when it
/// [performs](ModelKernel::perform_next) the entry. loom fails the model if someone else uses the byte, or the
/// submission queue, at the same time.
#[derive(Clone, Debug)]
pub(super) struct ModelKernel(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pushed: UnsafeCell<Vec<(Key, Sqe)>>,
    memory: [UnsafeCell<u8>; BYTES],
    state: Mutex<State>,
    changed: Condvar,
    /// Room of the completion queue.
    capacity: usize,
}

#[derive(Debug, Default)]
struct State {
    /// The entries that the kernel has taken.
    taken: VecDeque<(Key, Sqe)>,
    completions: VecDeque<(Key, i32)>,
    /// Completions that were taken from the queue, which still has no room for others.
    unpublished: usize,
    /// The answers to the next submissions.
    answers: VecDeque<Answer>,
    /// How many entries the kernel gives back.
    give_back: usize,
    /// How many completions the kernel posts twice.
    post_twice: usize,
    /// The eventfd was signalled, and nobody has seen it.
    is_signalled: bool,
    /// The memory of the ring was released.
    is_released: bool,
}

/// The answer of the kernel to a submission.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    /// It takes this many entries.
    Takes(usize),
    /// It takes none, with this errno.
    Refuses(i32),
}

// SAFETY: loom's cells check every access.
unsafe impl Send for ModelKernel {}
// SAFETY: as above.
unsafe impl Sync for ModelKernel {}

/// Bytes of memory.
const BYTES: usize = 5;

/// Room of the submission queue.
const SUBMISSIONS: usize = 2;

/// The byte that the kernel writes into memory.
pub(super) const WRITTEN: u8 = 0xa5;

/// The result of an entry that was performed.
pub(super) const PERFORMED: i32 = 1;

impl ModelKernel {
    /// `capacity`: room of the completion queue.
    pub(super) fn new(capacity: u32) -> ModelKernel {
        ModelKernel(Arc::new(Inner {
            pushed: UnsafeCell::new(Vec::new()),
            memory: std::array::from_fn(|_| UnsafeCell::new(0)),
            state: Mutex::default(),
            changed: Condvar::new(),
            capacity: capacity as usize,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    /// Waits until `look` finds something in the state.
    fn wait_for<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut state = self.state();
        loop {
            if let Some(found) = look(&mut state) {
                return found;
            }
            state = self.0.changed.wait(state).unwrap();
        }
    }

    /// Sets the answers to the next submissions. The kernel takes those that follow.
    pub(super) fn answer<const N: usize>(&self, answers: [Answer; N]) {
        self.state().answers.extend(answers);
    }

    /// Gives back the next `count` entries, as when the submitting thread has ended.
    pub(super) fn give_back(&self, count: usize) {
        self.state().give_back = count;
    }

    /// Has the kernel post the next `count` completions twice, the second time with the result 0.
    pub(super) fn post_twice(&self, count: usize) {
        self.state().post_twice = count;
    }

    /// Performs the first entry that the kernel has and that does not wait for ever, or gives it back. Waits
    /// until there is one. Returns `false` if the ring was released.
    pub(super) fn perform_next(&self) -> bool {
        let is_ready = |(_, entry): &(Key, Sqe)| entry.opcode != OpCode::Poll || entry.len > 0;
        let next = self.wait_for(|state| {
            let Some(ready) = state.taken.iter().position(is_ready) else {
                return state.is_released.then_some(None);
            };
            let is_given_back = state.give_back > 0;
            state.give_back -= usize::from(is_given_back);
            Some(state.taken.remove(ready).zip(Some(is_given_back)))
        });
        let Some(((key, entry), is_given_back)) = next else {
            return false;
        };
        if is_given_back {
            self.post(&mut self.state(), key, -libc::ECANCELED);
            return true;
        }
        if entry.opcode.is_transfer() {
            // SAFETY: nobody uses the memory of an entry that the kernel has. loom checks that.
            self.memory_of(&entry)
                .with_mut(|byte| unsafe { *byte = WRITTEN });
        }
        let mut state = self.state();
        self.post(&mut state, key, PERFORMED);
        if state.post_twice > 0 {
            state.post_twice -= 1;
            drop(state);
            self.post(&mut self.state(), key, 0);
        }
        true
    }

    fn memory_of(&self, entry: &Sqe) -> &UnsafeCell<u8> {
        &self.0.memory[entry.addr as usize]
    }

    fn post(&self, state: &mut State, key: Key, result: i32) {
        let used = state.completions.len() + state.unpublished;
        assert!(used < self.0.capacity, "the completion queue overflows");
        assert!(!state.is_released, "the ring is closed");
        state.completions.push_back((key, result));
        state.is_signalled = true;
        self.0.changed.notify_all();
    }

    /// Takes the byte number `addr`, which no entry uses, and sets it to 0.
    pub(super) fn take_memory(&self, addr: u64) -> u8 {
        // SAFETY: loom checks that nobody else uses it.
        self.0.memory[addr as usize].with_mut(|byte| mem::take(unsafe { &mut *byte }))
    }

    /// Waits for a signal of the eventfd.
    pub(super) fn wait_for_signal(&self) {
        self.wait_for(|state| mem::take(&mut state.is_signalled).then_some(()));
    }

    pub(super) fn is_released(&self) -> bool {
        self.state().is_released
    }
}

impl KernelRing for ModelKernel {
    type Submissions<'r> = ModelSubmissions<'r>;
    type Completions<'r> = ModelCompletions<'r>;

    unsafe fn submissions(&self) -> ModelSubmissions<'_> {
        ModelSubmissions(self)
    }

    unsafe fn completions(&self) -> ModelCompletions<'_> {
        ModelCompletions(self)
    }

    unsafe fn push(&self, queue: &mut ModelSubmissions<'_>, entry: &Sqe, key: Key) {
        assert!(!queue.is_full());
        // SAFETY: the caller's promise. loom checks it.
        self.0
            .pushed
            .with_mut(|pushed| unsafe { &mut *pushed }.push((key, *entry)));
    }

    unsafe fn enter(&self, len: usize) -> Result<(), NotTaken> {
        if len == 0 {
            return Ok(());
        }
        // SAFETY: the caller's promise. loom checks it.
        let mut pushed = self
            .0
            .pushed
            .with_mut(|pushed| mem::take(unsafe { &mut *pushed }));
        assert_eq!(pushed.len(), len);
        let mut state = self.state();
        let (takes, refused) = match state.answers.pop_front() {
            None => (len, None),
            Some(Answer::Takes(count)) => (count.min(len), None),
            Some(Answer::Refuses(errno)) => (0, Some(errno)),
        };
        state.taken.extend(pushed.drain(..takes));
        self.0.changed.notify_all();
        match pushed.len() {
            0 => Ok(()),
            left => Err(NotTaken { left, refused }),
        }
    }

    fn cancel(&self, key: Key) -> io::Result<bool> {
        let mut state = self.state();
        let position = state.taken.iter().position(|(taken, _)| *taken == key);
        let Some(position) = position else {
            return Ok(false);
        };
        state.taken.remove(position);
        self.post(&mut state, key, -libc::ECANCELED);
        Ok(true)
    }

    fn signal(&self) {
        self.state().is_signalled = true;
        self.0.changed.notify_all();
    }

    fn flush_overflow(&self) {}

    fn wait(&self) {
        self.wait_for(|state| (!state.completions.is_empty()).then_some(()));
    }

    fn pause(&self) {
        thread::yield_now();
    }

    fn release_memory(&self) {
        let mut state = self.state();
        assert!(state.taken.is_empty(), "the kernel has entries");
        state.is_released = true;
        self.0.changed.notify_all();
    }
}

pub(super) struct ModelSubmissions<'r>(&'r ModelKernel);

impl SubmissionQueue for ModelSubmissions<'_> {
    fn len(&self) -> usize {
        // SAFETY: the promise of who made the queue. loom checks it.
        self.0.0.pushed.with(|pushed| unsafe { &*pushed }.len())
    }

    fn is_full(&self) -> bool {
        self.len() == SUBMISSIONS
    }
}

pub(super) struct ModelCompletions<'r>(&'r ModelKernel);

impl CompletionQueue for ModelCompletions<'_> {
    fn is_empty(&self) -> bool {
        self.0.state().completions.is_empty()
    }

    fn is_full(&self) -> bool {
        self.0.state().completions.len() == self.0.0.capacity
    }

    fn take_next(&mut self) -> Option<(Key, i32)> {
        let mut state = self.0.state();
        let next = state.completions.pop_front()?;
        state.unpublished += 1;
        Some(next)
    }
}

impl Drop for ModelCompletions<'_> {
    fn drop(&mut self) {
        self.0.state().unpublished = 0;
    }
}
