//! [`Disk`]: a simulated disk, as its owners, its open files and the contexts on it share it.

use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::{self, Handle};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::{DiskImage, DiskState, Inode, Now, Request, RequestId, RequestKind};
use crate::sys::Process;

/// A simulated disk.
///
/// # Locks
///
/// The state is behind one lock. A context locks its queue of requests before it. Nothing of callers runs
/// under the lock.
#[derive(Debug)]
pub(crate) struct Disk {
    mount_point: PathBuf,
    core: Mutex<DiskCore>,
    /// Notified when the power is cut.
    power: Notify,
}

/// The part of a [`Disk`] behind its lock.
#[derive(Debug)]
pub(crate) struct DiskCore {
    pub(crate) state: DiskState,
    /// The open files, by the number of their descriptor.
    descriptors: Vec<Option<Descriptor>>,
    /// The instants at which the clock of the disk began, by runtime: each has a clock of its own.
    epochs: Vec<(runtime::Id, Instant)>,
    /// The time of the last call.
    last: Duration,
    /// Whether those who have requests in flight know that the power was cut.
    is_cut_known: bool,
    /// Those who have requests in flight.
    listeners: Vec<Weak<dyn PowerListener>>,
    /// The number of the last temporary name.
    last_name: u64,
}

/// Runtimes whose clocks a disk knows at a time.
const MAX_CLOCKS: usize = 16;

/// An open file of a disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub(crate) inode: Inode,
    pub(crate) access: Access,
}

/// How a file was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) read: bool,
    pub(crate) write: bool,
    /// `O_APPEND`.
    pub(crate) append: bool,
    /// `O_DSYNC`, or `O_SYNC`.
    pub(crate) dsync: bool,
    /// `O_SYNC`.
    pub(crate) sync: bool,
    /// `O_DIRECT`. If not, I/O goes through the page cache.
    pub(crate) direct: bool,
}

/// Has requests in flight on a disk.
pub(crate) trait PowerListener: std::fmt::Debug + Send + Sync {
    /// Fails the requests in flight: the power was cut. Called without a lock.
    fn on_power_cut(&self);
}

impl Disk {
    pub(super) fn new(mount_point: PathBuf, state: DiskState) -> Disk {
        Disk {
            mount_point,
            core: Mutex::new(DiskCore {
                state,
                descriptors: Vec::new(),
                epochs: Vec::new(),
                last: Duration::ZERO,
                is_cut_known: false,
                listeners: Vec::new(),
                last_name: 0,
            }),
            power: Notify::new(),
        }
    }

    pub(crate) fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, DiskCore> {
        self.core.lock()
    }

    /// Never frees the disk. For a forked child: a thread of the parent may have been changing the disk.
    pub(super) fn keep(self: &Arc<Self>) {
        mem::forget(Arc::clone(self));
    }

    /// Runs a call on the state, at the current time.
    pub(super) fn call<R>(
        &self,
        call: impl FnOnce(&mut DiskState, Now) -> Result<R, i32>,
    ) -> io::Result<R> {
        let (result, has_unknown_cut) = {
            let mut core = self.lock();
            let now = core.now();
            let result = call(&mut core.state, now);
            (result, core.has_unknown_cut())
        };
        if has_unknown_cut {
            self.announce_power_cut();
        }
        result.map_err(io::Error::from_raw_os_error)
    }

    /// Adds one who has requests in flight.
    pub(crate) fn add_listener(&self, listener: Weak<dyn PowerListener>) {
        let mut core = self.lock();
        core.listeners
            .retain(|listener| listener.strong_count() > 0);
        core.listeners.push(listener);
    }

    /// Returns a number for a temporary name.
    pub(crate) fn next_name(&self) -> u64 {
        let mut core = self.lock();
        core.last_name += 1;
        core.last_name
    }

    /// Cuts the power, if it is still on. Returns the image that the cut has left.
    pub(super) fn power_cut(&self) -> DiskImage {
        let image = {
            let mut core = self.lock();
            let now = core.now();
            core.state.power_cut(now)
        };
        self.announce_power_cut();
        image
    }

    /// Cuts the power after this event.
    pub(super) fn cut_power_after(&self, event: u64) {
        {
            let mut core = self.lock();
            let now = core.now();
            core.state.cut_power_after(now, event);
        }
        self.announce_power_cut();
    }

    /// Returns the image that a power cut has left. `None`: the power is on.
    pub(super) fn image(&self) -> Option<DiskImage> {
        self.lock().state.power_cut_image().cloned()
    }

    /// Waits until the power is cut.
    pub(super) async fn power_lost(&self) {
        let mut lost = pin!(self.power.notified());
        lost.as_mut().enable(); // before the check, so that no cut is missed
        if !self.lock().is_off() {
            lost.await;
        }
    }

    /// Fails the requests in flight, if the power was cut and they do not know it yet. The caller holds no lock.
    #[inline]
    pub(crate) fn announce_power_cut(&self) {
        let listeners = {
            let mut core = self.lock();
            if !core.has_unknown_cut() {
                return;
            }
            core.is_cut_known = true;
            mem::take(&mut core.listeners)
        };
        for listener in listeners.iter().filter_map(Weak::upgrade) {
            listener.on_power_cut();
        }
        self.power.notify_waiters();
    }

    /// Performs a request on a file at once, however long the disk takes for it: for the calls that block.
    ///
    /// # Errors
    ///
    /// Those of the request. [`io::ErrorKind::TimedOut`]: the disk would never complete it.
    pub(super) fn perform_blocking(&self, inode: Inode, kind: RequestKind<'_>) -> io::Result<()> {
        let result = {
            let mut core = self.lock();
            let now = core.now();
            let begun = core.state.begin(now, request(inode, kind));
            match begun.due {
                Some(_) => core.finish(now, begun.id).map_err(Some),
                None => {
                    core.state.cancel(now, begun.id);
                    Err(None)
                }
            }
        };
        self.announce_power_cut();
        result.map_err(|errno| match errno {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => {
                let text = "the simulated disk never completes this request; a call that blocks its thread \
                            can't wait for it";
                io::Error::new(io::ErrorKind::TimedOut, text)
            }
        })
    }

    /// Performs a request on a file, and waits until the disk has completed it.
    ///
    /// Dropping the future cancels the request.
    pub(super) async fn perform(&self, inode: Inode, kind: RequestKind<'static>) -> io::Result<()> {
        let begun = {
            let mut core = self.lock();
            let now = core.now();
            core.state.begin(now, request(inode, kind))
        };
        self.announce_power_cut();
        let mut in_flight = InFlight {
            disk: self,
            id: Some(begun.id),
            owner: Process::current(),
        };
        self.wait_until(begun.due).await;
        in_flight.finish()
    }

    /// Waits until a time of the disk's clock, or until the power is cut. `None`: for ever.
    async fn wait_until(&self, due: Option<Duration>) {
        let mut lost = pin!(self.power_lost());
        let instant = match due {
            None => None,
            Some(due) => {
                let mut core = self.lock();
                if core.now().0 >= due {
                    return;
                }
                core.instant(due)
            }
        };
        match instant {
            None => lost.await,
            Some(instant) => {
                let mut sleep = pin!(sleep_until(instant));
                poll_fn(|cx| match lost.as_mut().poll(cx) {
                    Poll::Ready(()) => Poll::Ready(()),
                    Poll::Pending => sleep.as_mut().poll(cx),
                })
                .await;
            }
        }
    }
}

/// A request in flight of [`Disk::perform`]. Dropping it cancels the request.
struct InFlight<'d> {
    disk: &'d Disk,
    id: Option<RequestId>,
    owner: Process,
}

impl InFlight<'_> {
    fn finish(&mut self) -> io::Result<()> {
        let Some(id) = self.id.take() else {
            return Ok(());
        };
        let finished = {
            let mut core = self.disk.lock();
            let now = core.now();
            core.finish(now, id)
        };
        self.disk.announce_power_cut();
        finished.map_err(io::Error::from_raw_os_error)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if self.owner != Process::current() {
            return; // a thread of the parent may have held the lock at the fork
        }
        if let Some(id) = self.id.take() {
            {
                let mut core = self.disk.lock();
                let now = core.now();
                core.state.cancel(now, id);
            }
            self.disk.announce_power_cut();
        }
    }
}

impl DiskCore {
    /// Returns the time since the clock of the disk began. It stands still outside a tokio runtime. In another
    /// runtime it goes on from where it was.
    #[inline]
    pub(crate) fn now(&mut self) -> Now {
        if let Ok(runtime) = Handle::try_current() {
            let instant = Instant::now();
            let epoch = self.epoch(runtime.id(), instant);
            let since = instant.saturating_duration_since(epoch);
            self.last = self.last.max(since); // two runtimes may have two clocks
        }
        Now(self.last)
    }

    /// Returns the instant of a time of the disk's clock, on the clock of the current runtime. `None`: it is
    /// beyond what an [`Instant`] can hold.
    pub(crate) fn instant(&mut self, time: Duration) -> Option<Instant> {
        let instant = Instant::now();
        let epoch = match Handle::try_current() {
            Ok(runtime) => self.epoch(runtime.id(), instant),
            Err(_) => instant,
        };
        epoch.checked_add(time)
    }

    /// Returns the instant at which the clock of the disk would have begun in this runtime.
    #[inline]
    fn epoch(&mut self, runtime: runtime::Id, now: Instant) -> Instant {
        let mut epochs = self.epochs.iter();
        if let Some((_, epoch)) = epochs.rfind(|(id, _)| *id == runtime) {
            return *epoch;
        }
        let epoch = now.checked_sub(self.last).unwrap_or(now);
        if self.epochs.len() == MAX_CLOCKS {
            self.epochs.remove(0); // most likely of a runtime that is gone
        }
        self.epochs.push((runtime, epoch));
        epoch
    }

    /// Whether the power was cut.
    #[inline]
    pub(crate) fn is_off(&self) -> bool {
        self.state.power_cut_image().is_some()
    }

    /// Whether the power was cut, and those who have requests in flight do not know it. Whoever calls the state
    /// asks this, and [announces](Disk::announce_power_cut) the cut when it has released its locks.
    #[inline]
    pub(crate) fn has_unknown_cut(&self) -> bool {
        self.is_off() && !self.is_cut_known
    }

    /// Finishes a request that transfers no data.
    fn finish(&mut self, now: Now, id: RequestId) -> Result<(), i32> {
        self.state.finish(now, id, &mut |_, _| {}).map(drop)
    }

    /// Returns the open file that has this descriptor.
    #[inline]
    pub(crate) fn descriptor(&self, fd: i32) -> Option<Descriptor> {
        let index = usize::try_from(fd).ok()?;
        *self.descriptors.get(index)?
    }

    pub(super) fn set_descriptor(&mut self, fd: i32, descriptor: Option<Descriptor>) {
        let Ok(index) = usize::try_from(fd) else {
            return;
        };
        if index >= self.descriptors.len() {
            self.descriptors.resize(index + 1, None);
        }
        self.descriptors[index] = descriptor;
    }
}

/// A request that transfers no data, as the model takes it.
fn request(inode: Inode, kind: RequestKind<'_>) -> Request<'_> {
    Request {
        inode,
        direct: true,
        kind,
    }
}
