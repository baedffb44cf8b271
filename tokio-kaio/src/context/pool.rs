//! [`Pool`]: the requests of a context that go to the kernel from tokio's blocking pool.

use std::collections::VecDeque;
use std::mem;
use std::os::fd::RawFd;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;

use super::counts::Submissions;
use super::effort::Watch;
use super::reaper::Bell;
use crate::request::{Batch, Parcel, submit};
use crate::sys::{self, Kernel, Process};
use crate::trace;

/// Submits what would have to wait on threads that may.
///
/// It has nothing of the context but the way into the kernel, so that a context that stays on its
/// thread can have one too. What is submitted completes as anything else; what could not be is
/// given back ([`Returned`]) with the same signal to the context that the kernel gives.
pub(super) struct Pool<K: Kernel> {
    port: K::Port,
    eventfd: Option<RawFd>,
    bell: Arc<Bell>,
    /// Most jobs at a time.
    most: usize,
    /// Most requests that one submits in one call.
    together: usize,
    /// See [`Threads::tell`].
    tell: bool,
    owner: Process,
    state: Mutex<State>,
    /// `state` has something in [`State::returned`].
    has_returned: AtomicBool,
    /// No submission is being made any more.
    quiet: Condvar,
}

/// A job that has been busy for so long lets others have its thread. Much longer than it takes to come
/// back to it.
const TURN: Duration = Duration::from_millis(1);

/// What a pool may use of tokio's blocking pool.
#[derive(Clone, Debug)]
pub(crate) struct Threads {
    /// `None`: submissions are made where they are asked for; for tests.
    pub(crate) runtime: Option<Handle>,
    /// Most at a time.
    pub(crate) most: usize,
    /// Most requests that one of them submits in one call.
    pub(crate) together: usize,
    /// What a submission does to its thread tells something of the file: not where it does all of
    /// the I/O.
    pub(crate) tell: bool,
}

#[cfg(test)]
impl Threads {
    /// Submits from where it is asked to.
    pub(super) fn none() -> Threads {
        Threads {
            runtime: None,
            most: 4,
            together: 32,
            tell: true,
        }
    }
}

#[derive(Default)]
struct State {
    /// Kept no longer than it is needed: it keeps descriptors of the runtime's.
    runtime: Option<Handle>,
    /// Not taken by a thread yet.
    waiting: VecDeque<Parcel>,
    /// Jobs that have been given to tokio and have not ended.
    jobs: usize,
    /// Of these, the ones that have not begun.
    starting: usize,
    /// Calls that are being made. The context is not destroyed meanwhile.
    submitting: usize,
    /// Nothing is submitted any more.
    closed: bool,
    returned: Returned,
    submissions: Submissions,
}

/// What a thread submits in one call.
struct Load {
    batch: Batch,
    /// Requests of it that have been counted.
    counted: usize,
}

impl State {
    /// A fair share for one of `threads`, since a submission may keep it for long; at most `most`
    /// requests, and of one descriptor, so that one that waits for ever, as on a pipe, keeps no others
    /// from going on another thread.
    fn next_load(&mut self, threads: usize, most: usize) -> Option<Load> {
        let share = self.waiting.len().div_ceil(threads).min(most);
        let first = self.waiting.front()?;
        let name = first.file.known_as(); // each of a bare descriptor has a duplicate of its own
        let at_first = self.waiting.iter().take(share);
        let share = at_first
            .take_while(|parcel| parcel.file.known_as() == name)
            .count();
        let mut load = Load {
            batch: Batch::new(),
            counted: 0,
        };
        for parcel in self.waiting.drain(..share) {
            load.counted += usize::from(parcel.counted);
            load.batch.push(parcel.iocb, parcel.file);
        }
        Some(load)
    }
}

/// Requests that did not get into the kernel.
#[derive(Default)]
pub(super) struct Returned {
    /// By their data, with the errno.
    pub(super) refused: Vec<(u64, i32)>,
    /// The kernel has no room for these now; last first.
    pub(super) unsent: Vec<Parcel>,
    /// By their data: the runtime has shut down.
    pub(super) stopped: Vec<u64>,
    /// How many of these have been counted as submitted: an attempt was, and is all of them.
    pub(super) counted: u64,
}

impl<K: Kernel> Pool<K> {
    pub(super) fn new(
        port: K::Port,
        eventfd: Option<RawFd>,
        bell: Arc<Bell>,
        threads: Threads,
    ) -> Arc<Pool<K>> {
        Arc::new(Pool {
            port,
            eventfd,
            bell,
            most: threads.most,
            together: threads.together,
            tell: threads.tell,
            owner: Process::current(),
            state: Mutex::new(State {
                runtime: threads.runtime,
                ..State::default()
            }),
            has_returned: AtomicBool::new(false),
            quiet: Condvar::new(),
        })
    }

    /// Whether this process has made it. A child has none of its threads, one of which may have had
    /// its lock when the child was made.
    fn is_ours(&self) -> bool {
        self.owner == Process::current()
    }

    /// Takes in a request, which is in flight by the table's account; [`Pool::dispatch`] is to
    /// follow. Or gives the errno with which it is refused.
    pub(super) fn push(&self, parcel: Parcel) -> Result<(), i32> {
        if !self.is_ours() {
            return Err(libc::EINVAL);
        }
        self.lock().waiting.push_back(parcel);
        Ok(())
    }

    /// Takes a request back, if no thread has it yet. Not a write: one that has left the queue lands.
    pub(super) fn recall(&self, tag: u64) -> Option<Parcel> {
        if !self.is_ours() {
            return None;
        }
        let mut state = self.lock();
        let is_it = |parcel: &Parcel| parcel.iocb.data == tag && !parcel.iocb.is_write();
        let position = state.waiting.iter().position(is_it)?;
        state.waiting.remove(position)
    }

    /// Has threads take what waits. Not to be called under the context's lock.
    pub(super) fn dispatch(self: &Arc<Self>) {
        if !self.is_ours() {
            return;
        }
        loop {
            let mut state = self.lock();
            let enough = state.starting >= state.waiting.len();
            if enough || state.jobs == self.most || state.closed {
                return;
            }
            state.jobs += 1;
            state.starting += 1;
            let runtime = state.runtime.clone();
            drop(state);
            let job = Job {
                pool: Arc::clone(self),
                stage: Stage::Starting,
            };
            let Some(runtime) = runtime else {
                job.run();
                continue;
            };
            if let Err(job) = job.start(&runtime) {
                return job.had_no_thread();
            }
        }
    }

    pub(super) fn has_returned(&self) -> bool {
        self.has_returned.load(Ordering::Acquire) && self.is_ours()
    }

    pub(super) fn take_returned(&self) -> Returned {
        let mut state = self.lock();
        self.has_returned.store(false, Ordering::Relaxed);
        mem::take(&mut state.returned)
    }

    /// Requests that wait for a thread, and what was submitted so far.
    pub(super) fn counts(&self) -> (usize, Submissions) {
        if !self.is_ours() {
            return Default::default();
        }
        let state = self.lock();
        (state.waiting.len(), state.submissions)
    }

    /// From now on nothing goes to the kernel from here; what was going has gone. Waits.
    pub(super) fn close(&self) {
        if !self.is_ours() {
            return;
        }
        let mut state = self.lock();
        state.closed = true;
        let runtime = state.runtime.take();
        let waiting = mem::take(&mut state.waiting);
        while state.submitting > 0 {
            state = self
                .quiet
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        drop(waiting); // closes files
        drop(runtime);
    }

    /// The next requests for a thread. `None`: there are none for it, and it has ended.
    fn take(&self, stage: &mut Stage) -> Option<Load> {
        let mut state = self.lock();
        if *stage == Stage::Starting {
            state.starting -= 1;
            *stage = Stage::Running;
        }
        let Some(load) = state.next_load(self.most, self.together) else {
            state.jobs -= 1;
            *stage = Stage::Ended;
            return None;
        };
        state.submitting += 1;
        Some(load)
    }

    /// Returns how long the call took.
    #[allow(unsafe_code)]
    fn submit(&self, load: Load) -> Duration {
        let Load { mut batch, counted } = load;
        let mut returned = Returned::default();
        let watch = Watch::closely();
        let refused = |tag, errno| returned.refused.push((tag, errno));
        // SAFETY: requests reach a pool right from the table's launch, once, and leave it through
        // `take` or `recall`. The kernel context outlives the call: it is counted in `submitting`,
        // and `Remains::bury`, which destroys the context, waits for that in `Pool::close`, after
        // which `take` finds nothing.
        let sent = unsafe { submit::<K>(&self.port, self.eventfd, batch.iocbs(), refused) };
        let effort = watch.stop();
        if self.tell {
            batch.submitted_from_pool(effort.stay());
        }
        returned
            .unsent
            .extend(std::iter::from_fn(|| batch.pop_unsent(sent)));
        let taken = sent - returned.refused.len();
        returned.counted = counted.saturating_sub(taken) as u64;
        if !returned.is_empty() {
            self.give_back(returned);
        }
        drop(batch); // closes files, maybe
        let mut state = self.lock();
        state.submissions.made(taken, Some(&effort));
        state.submissions.requests -= counted.min(taken) as u64;
        self.has_submitted(state);
        // Subscribers may wait for the context's end, which has waited for this.
        if effort.is_slow() {
            trace::slow_submit(taken, effort.time, true);
        }
        effort.time
    }

    fn has_submitted(&self, mut state: MutexGuard<'_, State>) {
        state.submitting -= 1;
        if state.submitting == 0 {
            self.quiet.notify_all();
        }
    }

    /// To be called while the context is there: from under its lock, or counted in
    /// [`State::submitting`]. Its eventfd's number may be another file's afterwards.
    fn give_back(&self, returned: Returned) {
        {
            let mut state = self.lock();
            state.returned.refused.extend(returned.refused);
            state.returned.unsent.extend(returned.unsent);
            state.returned.stopped.extend(returned.stopped);
            state.returned.counted += returned.counted;
            self.has_returned.store(true, Ordering::Release);
        }
        match self.eventfd {
            Some(eventfd) => sys::signal(eventfd),
            None => self.bell.wake_driver(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Nothing panics while holding one of these.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Returned {
    fn is_empty(&self) -> bool {
        self.refused.is_empty() && self.unsent.is_empty() && self.stopped.is_empty()
    }
}

/// A thread's work, while there is some. Others that wait for the thread have their turns between.
struct Job<K: Kernel> {
    pool: Arc<Pool<K>>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Starting,
    Running,
    Ended,
}

impl<K: Kernel> Job<K> {
    /// Has a thread of the runtime's run it. Gives it back where there is none to be had.
    fn start(self, runtime: &Handle) -> Result<(), Job<K>> {
        // tokio panics where it needs a thread and can have none, and keeps what it was given
        // for a thread that may never come.
        let offer = Arc::new(Mutex::new(Some(self)));
        let taken = Arc::clone(&offer);
        let run = move || {
            let job = lock(&taken).take();
            if let Some(job) = job {
                job.run();
            }
        };
        let spawn = AssertUnwindSafe(|| drop(runtime.spawn_blocking(run)));
        match panic::catch_unwind(spawn) {
            Ok(()) => Ok(()),
            Err(_) => lock(&offer).take().map_or(Ok(()), Err),
        }
    }

    fn run(mut self) {
        loop {
            let mut busy = Duration::ZERO;
            while busy < TURN {
                let Some(load) = self.pool.take(&mut self.stage) else {
                    return;
                };
                busy += self.pool.submit(load);
            }
            if let Some(runtime) = self.line_up() {
                match self.start(&runtime) {
                    Ok(()) => return,
                    Err(job) => self = job,
                }
            }
        }
    }

    /// It is to go on behind all else that waits for a thread of this runtime. `None`: there is nothing
    /// to go on with, or no runtime.
    fn line_up(&mut self) -> Option<Handle> {
        let mut state = self.pool.lock();
        if state.waiting.is_empty() {
            return None;
        }
        let runtime = state.runtime.clone()?;
        state.starting += 1;
        self.stage = Stage::Starting;
        Some(runtime)
    }

    /// What waits for this one fails, unless others are there to take it.
    fn had_no_thread(mut self) {
        self.end(|tags| Returned {
            refused: tags.map(|tag| (tag, libc::EAGAIN)).collect(),
            ..Returned::default()
        });
    }

    fn end(&mut self, as_returned: impl FnOnce(&mut dyn Iterator<Item = u64>) -> Returned) {
        if self.stage == Stage::Ended || !self.pool.is_ours() {
            return;
        }
        let mut state = self.pool.lock();
        state.jobs -= 1;
        state.starting -= usize::from(self.stage == Stage::Starting);
        self.stage = Stage::Ended;
        if state.jobs > 0 || state.waiting.is_empty() {
            return;
        }
        let waiting = mem::take(&mut state.waiting);
        state.submitting += 1; // the context is to stay until they are given back
        drop(state);
        let mut tags = waiting.iter().map(|parcel| parcel.iocb.data);
        let mut returned = as_returned(&mut tags);
        returned.counted = waiting.iter().filter(|parcel| parcel.counted).count() as u64;
        self.pool.give_back(returned);
        drop(waiting); // closes files, maybe
        self.pool.has_submitted(self.pool.lock());
    }
}

impl<K: Kernel> Drop for Job<K> {
    /// A job that did not end by itself was dropped by its runtime, which shuts down.
    fn drop(&mut self) {
        self.end(|tags| Returned {
            stopped: tags.collect(),
            ..Returned::default()
        });
    }
}

#[cfg(all(test, not(kaio_loom), not(miri)))]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::request::{Memory, OpenFile, Order};
    use crate::sys::Threads as Performers;
    use crate::sys::abi::IOCB_CMD_FSYNC;

    fn parcel() -> Parcel {
        let file = std::fs::File::open("/dev/null").unwrap();
        let iocb = Order::bare(IOCB_CMD_FSYNC).iocb(file.as_raw_fd(), &Memory::None, 0);
        Parcel::new(iocb, Arc::new(OpenFile::new(file)))
    }

    #[test]
    #[allow(unsafe_code)]
    fn a_child_made_while_a_thread_has_the_lock_does_not_wait_for_it() {
        let port = Performers::new().port();
        let pool = Pool::<Performers>::new(port, None, Arc::new(Bell::new()), Threads::none());
        let (first, second) = (parcel(), parcel());
        pool.push(first).unwrap();
        let locked = pool.lock();
        // SAFETY: the child uses what it has of its own, then ends without further ado.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: takes a number. It ends a child that waits.
            unsafe { libc::alarm(20) };
            let refused = pool.push(second) == Err(libc::EINVAL);
            let nothing = pool.recall(0).is_none() && pool.counts().0 == 0 && !pool.has_returned();
            pool.dispatch();
            pool.close();
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!(refused && nothing))) };
        }
        drop(locked);
        let mut status = 0;
        // SAFETY: waits for the child that was just made.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "the child waited, or did not see that it is one");
        assert!(pool.recall(0).is_some());
    }
}
