//! [`RequestQueue`]: the requests of one context that are in flight on a simulated disk.
#![allow(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::ptr;
use std::slice;
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::backend::{Completion, Completions, OpCode, Sqe, SubmitError};
use crate::simulation::{
    Access, Descriptor, Disk, DiskCore, Inode, Now, PowerListener, Request, RequestId, RequestKind,
};
use crate::sync::AtomicWaker;
use crate::sys::abi;

/// The requests of one context that are in flight, and its completions.
///
/// # Locks
///
/// The lock of the queue is taken before that of the disk. Tasks of others are woken without a lock.
#[derive(Debug)]
pub(super) struct RequestQueue {
    disk: Arc<Disk>,
    inner: Mutex<Inner>,
    timer: AtomicWaker,
}

#[derive(Debug)]
struct Inner {
    /// By the time at which they are due, and the order in which they were submitted.
    in_flight: BTreeMap<(Duration, u64), InFlight>,
    /// The number of the last request.
    last: u64,
    completions: VecDeque<Completion>,
    /// The timer wakes at this time, or sooner.
    armed: Duration,
    /// There are completions that the driver task was not woken for.
    has_unreported: bool,
    closed: bool,
}

/// A request in flight.
#[derive(Debug)]
struct InFlight {
    id: RequestId,
    user_data: u64,
    inode: Inode,
    /// The memory of a read. Empty for others.
    memory: Memory,
}

/// The memory of a transfer.
#[derive(Debug)]
enum Memory {
    None,
    One(Piece),
    Several(Box<[Piece]>),
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    addr: usize,
    len: usize,
}

/// When the timer has to finish requests again.
#[derive(Clone, Copy, Debug)]
pub(super) enum NextDue {
    At(Instant),
    /// When it is woken.
    Never,
    /// The backend was dropped.
    Closed,
}

/// The time at which a stuck request is due.
const NEVER: Duration = Duration::MAX;

/// The flags of transfers that have a meaning here, or none that matters.
const KNOWN_FLAGS: i32 = abi::RWF_HIPRI
    | abi::RWF_DSYNC
    | abi::RWF_SYNC
    | abi::RWF_NOWAIT
    | abi::RWF_APPEND
    | abi::RWF_NOAPPEND
    | abi::RWF_ATOMIC
    | abi::RWF_DONTCACHE;

impl RequestQueue {
    pub(super) fn new(disk: Arc<Disk>) -> Arc<RequestQueue> {
        let queue = Arc::new(RequestQueue {
            disk,
            inner: Mutex::new(Inner {
                in_flight: BTreeMap::new(),
                last: 0,
                completions: VecDeque::new(),
                armed: NEVER,
                has_unreported: false,
                closed: false,
            }),
            timer: AtomicWaker::new(),
        });
        let listener: Weak<RequestQueue> = Arc::downgrade(&queue);
        queue.disk.add_listener(listener);
        queue
    }

    /// Submits entries, as [`Submitter::submit`](crate::backend::Submitter::submit) does.
    ///
    /// # Safety
    ///
    /// As there.
    #[inline]
    pub(super) unsafe fn submit(&self, entries: &[Sqe]) -> Result<usize, SubmitError> {
        let (mut taken, mut refused) = (0, None);
        let (wake_timer, has_unknown_cut) = {
            let mut inner = self.inner.lock();
            let mut core = self.disk.lock();
            let now = core.now();
            for entry in entries {
                // SAFETY: the caller's promise.
                if let Err(errno) = unsafe { inner.begin(&mut core, now, entry) } {
                    refused = Some(errno);
                    break;
                }
                taken += 1;
            }
            // The caller reaps after the submission, so the driver task need not be woken for these.
            inner.finish_due(&mut core, now);
            (inner.arm(), core.has_unknown_cut())
        };
        if wake_timer {
            self.timer.wake();
        }
        if has_unknown_cut {
            self.disk.announce_power_cut();
        }
        match refused {
            Some(errno) if taken == 0 => Err(SubmitError::Refused(errno)),
            _ => Ok(taken),
        }
    }

    #[inline]
    pub(super) fn reap(&self, completions: &mut Completions) {
        let mut inner = self.inner.lock();
        let count = inner
            .completions
            .len()
            .min(completions.remaining_capacity());
        completions.extend(inner.completions.drain(..count));
    }

    /// Ends the read in flight that has this `user_data`. Returns whether there is one.
    pub(super) fn cancel(&self, user_data: u64) -> bool {
        {
            let mut inner = self.inner.lock();
            let mut in_flight = inner.in_flight.iter();
            let found = in_flight.find(|(_, request)| request.user_data == user_data);
            let Some((&key, request)) = found else {
                return false;
            };
            if matches!(request.memory, Memory::None) {
                return false; // a write or a sync
            }
            let Some(request) = inner.in_flight.remove(&key) else {
                return false;
            };
            let mut core = self.disk.lock();
            let now = core.now();
            core.state.cancel(now, request.id);
            core.state.close(now, request.inode);
            inner.complete(user_data, 0);
            inner.has_unreported = true;
        }
        self.timer.wake(); // wakes the driver task, which the caller may not do under its lock
        true
    }

    pub(super) fn register_timer(&self, waker: &Waker) {
        self.timer.register(waker);
    }

    /// Finishes the requests that are due. Returns when the next one is, and whether the driver task has to be
    /// woken.
    pub(super) fn finish_due(&self) -> (NextDue, bool) {
        let (next, report, has_unknown_cut) = self.finish_due_locked();
        if has_unknown_cut {
            self.disk.announce_power_cut(); // wakes the timer again, which reports these requests
        }
        (next, report)
    }

    fn finish_due_locked(&self) -> (NextDue, bool, bool) {
        let mut inner = self.inner.lock();
        let mut core = self.disk.lock();
        if inner.closed {
            return (NextDue::Closed, false, core.has_unknown_cut());
        }
        let now = core.now();
        let any_due = inner.finish_due(&mut core, now);
        let report = mem::take(&mut inner.has_unreported) || any_due;
        inner.armed = NEVER;
        let next = match inner.arm() {
            true => core
                .instant(inner.armed)
                .map_or(NextDue::Never, NextDue::At),
            false => NextDue::Never,
        };
        (next, report, core.has_unknown_cut())
    }

    /// Ends all requests in flight, and the timer. Afterwards nobody uses their memory.
    pub(super) fn close(&self) {
        let in_flight = {
            let mut inner = self.inner.lock();
            inner.closed = true;
            let in_flight = mem::take(&mut inner.in_flight);
            let mut core = self.disk.lock();
            let now = core.now();
            for request in in_flight.values() {
                core.state.cancel(now, request.id);
                core.state.close(now, request.inode);
            }
            in_flight
        };
        drop(in_flight);
        self.timer.wake();
    }
}

impl PowerListener for RequestQueue {
    fn on_power_cut(&self) {
        {
            let mut inner = self.inner.lock();
            for request in mem::take(&mut inner.in_flight).into_values() {
                inner.complete(request.user_data, -i64::from(libc::EIO));
            }
            inner.has_unreported = true;
        }
        self.timer.wake();
    }
}

impl Inner {
    /// Begins a request.
    ///
    /// # Errors
    ///
    /// The errno with which the entry is refused.
    ///
    /// # Safety
    ///
    /// As [`Submitter::submit`](crate::backend::Submitter::submit).
    #[inline]
    unsafe fn begin(&mut self, core: &mut DiskCore, now: Now, entry: &Sqe) -> Result<(), i32> {
        let Descriptor { inode, access } = core.descriptor(entry.fd).ok_or(libc::EBADF)?;
        let memory = match entry.opcode {
            OpCode::Read | OpCode::Write | OpCode::ReadVectored | OpCode::WriteVectored => {
                check_transfer(entry, access)?;
                // SAFETY: the caller's promise.
                let memory = unsafe { Memory::of(entry) };
                check_end(entry, &memory)?;
                memory
            }
            OpCode::Fsync | OpCode::Fdatasync => {
                check_sync(entry)?;
                Memory::None
            }
            OpCode::Poll
            | OpCode::Allocate
            | OpCode::Truncate
            | OpCode::SyncRange
            | OpCode::Open => return Err(libc::EINVAL),
        };
        if core.is_off() {
            self.complete(entry.user_data, -i64::from(libc::EIO));
            return Ok(());
        }
        if let Some(result) = result_at_once(core, entry, access, &memory) {
            self.complete(entry.user_data, result);
            return Ok(());
        }
        let is_write = entry.opcode.is_write();
        let (one, several);
        let data: &[&[u8]] = match &memory {
            Memory::One(piece) if is_write => {
                // SAFETY: the caller's promise: nobody writes to the memory of a write.
                one = [unsafe { piece.bytes() }];
                &one
            }
            Memory::Several(pieces) if is_write => {
                let mut bytes = Vec::with_capacity(pieces.len());
                for piece in pieces {
                    // SAFETY: the caller's promise: nobody writes to the memory of a write.
                    bytes.push(unsafe { piece.bytes() });
                }
                several = bytes;
                &several
            }
            _ => &[],
        };
        let kind = request_kind(entry, access, memory.len(), data);
        let is_read = matches!(kind, RequestKind::Read { .. });
        let request = Request {
            inode,
            direct: access.direct,
            kind,
        };
        let begun = core.state.begin(now, request);
        core.state.reopen(inode); // until the request is done
        self.last += 1;
        let request = InFlight {
            id: begun.id,
            user_data: entry.user_data,
            inode,
            memory: if is_read { memory } else { Memory::None },
        };
        let due = begun.due.unwrap_or(NEVER);
        self.in_flight.insert((due, self.last), request);
        Ok(())
    }

    /// Finishes the requests that are due. Returns whether there were any.
    #[inline]
    fn finish_due(&mut self, core: &mut DiskCore, now: Now) -> bool {
        let mut any = false;
        while let Some(first) = self.in_flight.first_entry() {
            let due = first.key().0;
            if due > now.0 || core.is_off() {
                break;
            }
            let request = first.remove();
            let memory = &request.memory;
            let result = core.state.finish(now, request.id, &mut |at, bytes| {
                // SAFETY: the request is in flight, so its memory is that of the request, by the promise of
                // the submission. It leaves the table here, before its completion is posted.
                unsafe { memory.copy_in(at, bytes) };
            });
            core.state.close(now, request.inode);
            let result = match result {
                Ok(bytes) => bytes as i64,
                Err(errno) => -i64::from(errno),
            };
            self.complete(request.user_data, result);
            any = true;
        }
        any
    }

    #[inline]
    fn complete(&mut self, user_data: u64, result: i64) {
        self.completions.push_back(Completion { user_data, result });
    }

    /// Returns whether the timer has to wake sooner than it would, and notes that it will.
    #[inline]
    fn arm(&mut self) -> bool {
        match self.in_flight.first_key_value() {
            Some((&(due, _), _)) if due < self.armed => {
                self.armed = due;
                true
            }
            _ => false,
        }
    }
}

/// Checks what every backend refuses of a transfer.
#[inline]
fn check_transfer(entry: &Sqe, access: Access) -> Result<(), i32> {
    let is_permitted = match entry.opcode.is_write() {
        true => access.write,
        false => access.read,
    };
    if !is_permitted {
        return Err(libc::EBADF);
    }
    let too_many = entry.opcode.is_vectored() && entry.len > abi::UIO_MAXIOV;
    if entry.offset < 0 || too_many {
        return Err(libc::EINVAL);
    }
    check_priority(entry.priority)?;
    let flags = entry.rw_flags;
    let contradict = abi::RWF_APPEND | abi::RWF_NOAPPEND;
    if flags & contradict == contradict {
        return Err(libc::EINVAL);
    }
    match flags & !KNOWN_FLAGS {
        0 => Ok(()),
        _ => Err(libc::EOPNOTSUPP),
    }
}

/// Checks that a transfer does not end beyond the largest offset.
#[inline]
fn check_end(entry: &Sqe, memory: &Memory) -> Result<(), i32> {
    let len = memory.len().min(abi::MAX_RW_COUNT);
    match (entry.offset as u64).saturating_add(len) <= i64::MAX as u64 {
        true => Ok(()),
        false => Err(libc::EINVAL),
    }
}

/// Checks the class of an I/O priority, as `ioprio_check_cap` of the kernel does. It has no effect here, so a
/// real-time one needs no privilege.
#[inline]
fn check_priority(priority: u16) -> Result<(), i32> {
    let class = priority >> abi::IOPRIO_CLASS_SHIFT;
    let is_valid =
        priority == 0 || (abi::IOPRIO_CLASS_RT..=abi::IOPRIO_CLASS_IDLE).contains(&class);
    match is_valid {
        true => Ok(()),
        false => Err(libc::EINVAL),
    }
}

/// Checks that a sync has no field of a transfer.
#[inline]
fn check_sync(entry: &Sqe) -> Result<(), i32> {
    match (entry.addr, entry.len, entry.offset, entry.rw_flags) {
        (0, 0, 0, 0) => Ok(()),
        _ => Err(libc::EINVAL),
    }
}

/// Returns the result of a transfer that does not reach the disk.
#[inline]
fn result_at_once(core: &DiskCore, entry: &Sqe, access: Access, memory: &Memory) -> Option<i64> {
    if !entry.opcode.is_transfer() {
        return None;
    }
    let len = memory.len();
    let config = core.state.config();
    if entry.rw_flags & abi::RWF_ATOMIC != 0 {
        let unit = u64::from(config.atomic_unit);
        let fits = len.is_power_of_two()
            && (u64::from(config.sector)..=unit).contains(&len)
            && entry.offset as u64 % len == 0
            && unit > u64::from(config.sector)
            && access.direct;
        if !fits {
            return Some(-i64::from(libc::EINVAL));
        }
    }
    if access.direct && !memory.is_aligned(config.sector as usize) {
        return Some(-i64::from(libc::EINVAL));
    }
    (len == 0).then_some(0)
}

impl Memory {
    /// The memory of a transfer.
    ///
    /// # Safety
    ///
    /// The iovecs of a vectored transfer are valid.
    #[inline]
    unsafe fn of(entry: &Sqe) -> Memory {
        if !entry.opcode.is_vectored() {
            return Memory::One(Piece {
                addr: entry.addr as usize,
                len: entry.len as usize,
            });
        }
        if entry.len == 0 {
            return Memory::Several(Box::default()); // the address may be null
        }
        let iovecs = ptr::with_exposed_provenance(entry.addr as usize);
        // SAFETY: there are that many, by the caller's promise.
        let iovecs = unsafe { slice::from_raw_parts::<libc::iovec>(iovecs, entry.len as usize) };
        let pieces = iovecs.iter().map(|iovec| Piece {
            addr: iovec.iov_base.expose_provenance(),
            len: iovec.iov_len,
        });
        Memory::Several(pieces.collect())
    }

    #[inline]
    fn pieces(&self) -> &[Piece] {
        match self {
            Memory::None => &[],
            Memory::One(piece) => slice::from_ref(piece),
            Memory::Several(pieces) => pieces,
        }
    }

    #[inline]
    fn len(&self) -> u64 {
        self.pieces().iter().map(|piece| piece.len as u64).sum()
    }

    fn is_aligned(&self, alignment: usize) -> bool {
        let mut pieces = self.pieces().iter();
        pieces.all(|piece| piece.addr % alignment == 0 && piece.len % alignment == 0)
    }

    /// Copies `bytes` to the place `at` of the memory. What does not fit is left out.
    ///
    /// # Safety
    ///
    /// The memory is valid for writes, and nobody else uses it.
    #[inline]
    unsafe fn copy_in(&self, mut at: usize, mut bytes: &[u8]) {
        for piece in self.pieces() {
            if at >= piece.len {
                at -= piece.len;
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(piece.len - at));
            let to = ptr::with_exposed_provenance_mut::<u8>(piece.addr + at);
            // SAFETY: the caller's promise; the bytes end within the piece. Memory of the disk and of the
            // request do not overlap.
            unsafe { ptr::copy_nonoverlapping(now.as_ptr(), to, now.len()) };
            (bytes, at) = (later, 0);
            if bytes.is_empty() {
                return;
            }
        }
    }
}

/// The request of an entry that was not refused. `len`: of a read. `data`: of a write.
#[inline]
fn request_kind<'d>(
    entry: &Sqe,
    access: Access,
    len: u64,
    data: &'d [&'d [u8]],
) -> RequestKind<'d> {
    let offset = entry.offset as u64;
    let is_set = |flag| entry.rw_flags & flag != 0;
    match entry.opcode {
        OpCode::Read | OpCode::ReadVectored => RequestKind::Read { offset, len },
        OpCode::Write | OpCode::WriteVectored => RequestKind::Write {
            offset,
            data,
            append: is_set(abi::RWF_APPEND) || access.append && !is_set(abi::RWF_NOAPPEND),
            dsync: access.dsync || is_set(abi::RWF_DSYNC),
            sync: access.sync || is_set(abi::RWF_SYNC),
        },
        OpCode::Fdatasync => RequestKind::Fdatasync,
        _ => RequestKind::Fsync, // others were refused
    }
}

impl Piece {
    /// # Safety
    ///
    /// The memory is valid for reads, and nobody writes to it, as long as the slice is used.
    #[inline]
    unsafe fn bytes<'m>(&self) -> &'m [u8] {
        if self.len == 0 {
            return &[];
        }
        let from = ptr::with_exposed_provenance(self.addr);
        // SAFETY: the caller's promise.
        unsafe { slice::from_raw_parts(from, self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Memory, OpCode, Sqe};

    #[test]
    fn an_empty_list_of_iovecs_may_have_a_null_address() {
        let entry = Sqe {
            opcode: OpCode::ReadVectored,
            fd: 0,
            addr: 0,
            len: 0,
            offset: 0,
            user_data: 0,
            rw_flags: 0,
            priority: 0,
        };
        // SAFETY: there are no iovecs.
        let memory = unsafe { Memory::of(&entry) };
        assert_eq!(memory.len(), 0);
    }
}
