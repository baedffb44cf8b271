//! Interposes the system calls that submit requests: tests can inject faults, hold requests at a
//! [`Gate`], and shorten, refuse and watch the transfers of a [`WatchedFile`].
//!
//! A binary with this module defines the C library's `syscall`, through which the library submits,
//! and the functions that the thread pool calls; they call the real ones. Faults apply to the
//! thread that injects them. Gates apply on every thread to the requests at their offset, watched
//! files to the requests on their descriptor.
#![allow(dead_code, unreachable_pub, unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::ffi::{CStr, c_int, c_long, c_void};
use std::fmt::Debug;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::uring_interposer::uring_call;

/// What happens to a submission.
pub enum Fault {
    /// `EAGAIN`.
    Again,
    /// Fails with this errno.
    #[cfg_attr(not(feature = "io-uring"), allow(dead_code))]
    Fail(c_int),
    /// The kernel accepts at most this many requests.
    Partial(usize),
    /// Runs this first; then the next fault applies, if there is one.
    RunFirst(Box<dyn FnOnce()>),
}

impl Fault {
    pub fn run_first(what: impl FnOnce() + 'static) -> Fault {
        Fault::RunFirst(Box::new(what))
    }
}

thread_local! {
    static SCRIPT: RefCell<VecDeque<Fault>> = const { RefCell::new(VecDeque::new()) };
    /// How many of a thousand submissions fail at random.
    static RANDOM_FAULTS_PER_MILLE: Cell<u64> = const { Cell::new(0) };
    static SUBMISSIONS: Cell<u64> = const { Cell::new(0) };
}

/// Random faults so far: refused, shortened, delayed.
pub static RANDOM_FAULTS: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

/// Applies `faults` to this thread's next submissions, after those that are still pending.
pub fn inject_faults(faults: impl IntoIterator<Item = Fault>) {
    SCRIPT.with_borrow_mut(|script| script.extend(faults));
}

/// Forgets the faults that are pending on this thread.
pub fn clear_faults() {
    SCRIPT.with_borrow_mut(VecDeque::clear);
}

/// Faults that have not been applied yet on this thread.
pub fn pending_faults() -> usize {
    SCRIPT.with_borrow(VecDeque::len)
}

/// Applies random faults to this many of a thousand submissions of this thread.
pub fn inject_random_faults(per_mille: u64) {
    RANDOM_FAULTS_PER_MILLE.set(per_mille);
}

/// Counts a call of this thread.
pub fn count_submission() {
    SUBMISSIONS.set(SUBMISSIONS.get() + 1);
}

/// Calls of `io_submit`, or `io_uring_enter`, that this thread has made.
pub fn submissions() -> u64 {
    SUBMISSIONS.get()
}

/// Differs from call to call.
pub fn random() -> u64 {
    static STATE: AtomicU64 = AtomicU64::new(1);
    let state = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    let mixed = (state ^ (state >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
}

// ---- Gates ------------------------------------------------------------------------------------

/// Holds requests back until the test opens it.
///
/// A request at [`Gate::offset`], or at another offset in the same block, is replaced with a poll
/// (`IOCB_CMD_POLL`) of the gate's eventfd: it moves no data, and completes with result 1 when the
/// gate opens. A thread that is about to read or write there, or to destroy a context with a request
/// there, waits for the gate in the same way.
pub struct Gate {
    offset: u64,
    eventfd: Arc<File>,
}

/// This bit marks offsets of gates; the number of the block is the gate's.
const GATE: u64 = 1 << 62;

const BLOCK: u64 = 4096;

/// A request that has reached a gate.
pub struct AtGate {
    offset: u64,
    eventfd: Option<RawFd>,
    /// The context of kernel AIO that the request is in flight in.
    aio_context: Option<c_long>,
}

impl AtGate {
    pub fn add(offset: u64, eventfd: Option<RawFd>) {
        AtGate::add_in(None, offset, eventfd);
    }

    fn add_in(aio_context: Option<c_long>, offset: u64, eventfd: Option<RawFd>) {
        AT_GATES.lock().unwrap().push(AtGate {
            offset,
            eventfd,
            aio_context,
        });
    }
}

static GATES: Mutex<Vec<(u64, Arc<File>)>> = Mutex::new(Vec::new());
static AT_GATES: Mutex<Vec<AtGate>> = Mutex::new(Vec::new());

fn eventfd(count: u32) -> Arc<File> {
    // SAFETY: makes a descriptor.
    let fd = unsafe { libc::eventfd(count, libc::EFD_CLOEXEC) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: it is new, and nobody else's.
    Arc::new(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

impl Gate {
    pub fn closed() -> Gate {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let offset = GATE | (NUMBER.fetch_add(1, Ordering::Relaxed) * BLOCK);
        let eventfd = eventfd(0);
        let entry = (offset, Arc::clone(&eventfd));
        GATES.lock().unwrap().push(entry);
        Gate { offset, eventfd }
    }

    pub fn opened() -> Gate {
        let gate = Gate::closed();
        gate.open();
        gate
    }

    pub fn open(&self) {
        (&*self.eventfd).write_all(&1_u64.to_ne_bytes()).unwrap();
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// For each request that has reached the gate, the eventfd that it will signal. Unknown for what
    /// a thread does.
    pub fn waiting(&self) -> Vec<Option<RawFd>> {
        let requests = AT_GATES.lock().unwrap();
        let here = requests.iter().filter(|at| at.offset == self.offset);
        here.map(|at| at.eventfd).collect()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open(); // a thread that waits would do so for ever
        GATES.lock().unwrap().retain(|gate| gate.0 != self.offset);
        let mut requests = AT_GATES.lock().unwrap();
        requests.retain(|at| at.offset != self.offset);
    }
}

/// The offset of the gate at `offset`, and its eventfd. Requests may arrive after their gate was
/// dropped: that is as good as open.
pub fn gate_at(offset: u64) -> Option<(u64, Arc<File>)> {
    if offset & GATE == 0 || offset >> 63 != 0 {
        return None;
    }
    let offset = offset - offset % BLOCK;
    let gates = GATES.lock().unwrap();
    let gate = gates.iter().find(|gate| gate.0 == offset).cloned();
    Some(gate.unwrap_or_else(|| (offset, eventfd(1))))
}

/// Polls `operation`, which must not be done, until a request of it waits at `gate`.
pub async fn poll_until_at_gate<T: Debug>(
    gate: &Gate,
    operation: &mut Pin<Box<impl Future<Output = T>>>,
) {
    while gate.waiting().is_empty() {
        let polled = futures::poll!(operation.as_mut());
        assert!(polled.is_pending(), "{polled:?}");
        tokio::task::yield_now().await;
    }
}

/// How often `eventfd` was signalled, if nobody reads it.
pub fn signals(eventfd: RawFd) -> u64 {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{eventfd}")).unwrap();
    let count = info.lines().find_map(|l| l.strip_prefix("eventfd-count:"));
    u64::from_str_radix(count.unwrap().trim(), 16).unwrap()
}

/// `struct iocb`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Iocb {
    data: u64,
    /// `aio_key` and `aio_rw_flags`, in an order that depends on the machine.
    key_and_flags: [u32; 2],
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    len: u64,
    offset: u64,
    reserved: u64,
    flags: u32,
    eventfd: u32,
}

const IOCB_CMD_PREAD: u16 = 0;
const IOCB_CMD_PWRITE: u16 = 1;
const IOCB_CMD_POLL: u16 = 5;
const IOCB_CMD_PREADV: u16 = 7;
const IOCB_CMD_PWRITEV: u16 = 8;
const IOCB_FLAG_RESFD: u32 = 1;
const IOCB_FLAG_IOPRIO: u32 = 2;

impl Iocb {
    /// What goes to the kernel in its place: a poll of the gate that it is for, if it is for one.
    fn at_gate(self, gate: Option<&(u64, Arc<File>)>) -> Iocb {
        let Some((_, gate)) = gate else { return self };
        Iocb {
            key_and_flags: [0; 2],
            opcode: IOCB_CMD_POLL,
            fd: gate.as_raw_fd() as u32,
            buffer: libc::POLLIN as u64,
            len: 0,
            offset: 0,
            ..self
        }
    }
}

/// Waits for the gate at `offset`; the result of the transfer. `None`: there is no gate.
fn wait_at_gate(offset: u64) -> Option<isize> {
    let (offset, gate) = gate_at(offset)?;
    AtGate::add(offset, None);
    wait_until_open(&gate);
    Some(1)
}

/// Waits until a gate with this eventfd is open.
fn wait_until_open(gate: &File) {
    let mut poll = libc::pollfd {
        fd: gate.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one structure of ours.
    while unsafe { libc::poll(&raw mut poll, 1, -1) } < 0 {}
}

/// Waits until the gates of all requests in flight in a context of kernel AIO are open. `io_destroy` waits for
/// the transfers of a device, but cancels polls.
fn wait_for_gates_of(aio_context: c_long) {
    let requests = AT_GATES.lock().unwrap();
    let in_context = requests
        .iter()
        .filter(|at| at.aio_context == Some(aio_context));
    let offsets: HashSet<_> = in_context.map(|at| at.offset).collect();
    drop(requests);
    for (_, gate) in offsets.into_iter().filter_map(gate_at) {
        wait_until_open(&gate);
    }
}

// ---- WatchedFile files ----------------------------------------------------------------------------

/// Records all transfers on a file that go to the kernel, and can shorten or refuse them.
pub struct WatchedFile(RawFd);

/// A transfer as the kernel gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    pub writes: bool,
    pub offset: u64,
    /// Bytes; of a vectored one, pieces.
    pub len: u64,
    pub vectored: bool,
    /// `RWF_*`.
    pub flags: u32,
    /// `IOPRIO_*`, where the request has one; on a thread, the thread's.
    pub priority: Option<u16>,
}

impl Transfer {
    fn is_merged(&self) -> bool {
        self.writes && self.vectored && self.len > 1
    }
}

struct Watching {
    fd: RawFd,
    /// Bytes that one request moves.
    most: usize,
    /// Requests before the first that fails.
    good: usize,
    /// How they fail.
    errno: c_int,
    /// How writes of several pieces that a thread makes fail, if they do.
    merged_errno: Option<c_int>,
    seen: Vec<Transfer>,
}

static WATCHING: Mutex<Vec<Watching>> = Mutex::new(Vec::new());

impl WatchedFile {
    pub fn new(file: &impl AsRawFd) -> WatchedFile {
        let fd = file.as_raw_fd();
        WATCHING.lock().unwrap().push(Watching {
            fd,
            most: usize::MAX,
            good: usize::MAX,
            errno: libc::EBADF,
            merged_errno: None,
            seen: Vec::new(),
        });
        WatchedFile(fd)
    }

    /// From now on, no request moves more than `most` bytes.
    pub fn shorten_to(&self, most: usize) {
        self.with(|watching| watching.most = most);
    }

    /// All requests after the next `good` fail with `EBADF`.
    pub fn fail_after(&self, good: usize) {
        self.fail_after_with(good, libc::EBADF);
    }

    /// All requests after the next `good` fail with `errno`; those of kernel AIO and io_uring with
    /// `EBADF`.
    pub fn fail_after_with(&self, good: usize, errno: c_int) {
        self.with(|watching| {
            watching.good = watching.seen.len() + good;
            watching.errno = errno;
        });
    }

    /// From now on, writes of several pieces that a thread makes fail with `errno`.
    pub fn fail_merged_with(&self, errno: c_int) {
        self.with(|watching| watching.merged_errno = Some(errno));
    }

    /// Number of writes of several pieces.
    pub fn merged(&self) -> usize {
        let is_merged = |transfer: &&Transfer| transfer.is_merged();
        self.with(|watching| watching.seen.iter().filter(is_merged).count())
    }

    /// Transfers that went to the kernel. Of a NOWAIT attempt that was refused and directly
    /// submitted again, only the second submission.
    pub fn transfers(&self) -> Vec<Transfer> {
        let mut seen = self.with(|watching| watching.seen.clone());
        let nowait = libc::RWF_NOWAIT as u32;
        let mut after = None;
        seen.reverse();
        seen.retain(|&one| {
            let repeats = Transfer {
                flags: one.flags & !nowait,
                ..one
            };
            let refused = one.flags & nowait != 0 && after == Some(repeats);
            after = Some(one);
            !refused
        });
        seen.reverse();
        seen
    }

    fn with<T>(&self, what: impl FnOnce(&mut Watching) -> T) -> T {
        let mut watching = WATCHING.lock().unwrap();
        what(watching.iter_mut().find(|w| w.fd == self.0).unwrap())
    }
}

impl Drop for WatchedFile {
    fn drop(&mut self) {
        WATCHING.lock().unwrap().retain(|w| w.fd != self.0);
    }
}

/// Records `seen` on `fd`; returns the descriptor to use instead, and the maximum of bytes to move.
pub fn watched(fd: RawFd, seen: impl FnOnce() -> Transfer) -> (RawFd, usize) {
    let (errno, most) = watched_on_thread(fd, seen);
    (if errno.is_none() { fd } else { -1 }, most)
}

/// Records `seen` on `fd`; returns the error to fail with, and the maximum of bytes to move.
fn watched_on_thread(fd: RawFd, seen: impl FnOnce() -> Transfer) -> (Option<c_int>, usize) {
    let mut watching = WATCHING.lock().unwrap();
    let Some(watching) = watching.iter_mut().find(|w| w.fd == fd) else {
        return (None, usize::MAX);
    };
    let is_good = watching.seen.len() < watching.good;
    let seen = seen();
    watching.seen.push(seen);
    let errno = match (is_good, watching.merged_errno) {
        (true, Some(errno)) if seen.is_merged() => Some(errno),
        (true, _) => None,
        (false, _) => Some(watching.errno),
    };
    (errno, watching.most)
}

/// The first `most` bytes of `pieces`.
pub fn cut(pieces: &[libc::iovec], mut most: usize) -> Vec<libc::iovec> {
    let mut kept = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let iov_len = piece.iov_len.min(most);
        most -= iov_len;
        kept.push(libc::iovec { iov_len, ..*piece });
        if iov_len < piece.iov_len {
            break;
        }
    }
    kept
}

/// The I/O priority of this thread, if it has one of its own.
fn own_priority() -> Option<u16> {
    const WHO_PROCESS: c_long = 1;
    // SAFETY: asks for a number.
    let code = unsafe { real()(libc::SYS_ioprio_get, WHO_PROCESS, 0, 0, 0, 0, 0) };
    (code > 0 && code >> 13 != 0).then_some(code as u16)
}

// ---- Transfers of threads ---------------------------------------------------------------------

type PlainFn = unsafe extern "C" fn(c_int, *mut c_void, usize, i64) -> isize;
type VectoredFn = unsafe extern "C" fn(c_int, *const libc::iovec, c_int, i64) -> isize;

fn seen_on_thread(writes: bool, offset: i64, len: usize, vectored: bool, flags: u32) -> Transfer {
    Transfer {
        writes,
        offset: offset as u64,
        len: len as u64,
        vectored,
        flags,
        priority: own_priority(),
    }
}

/// Defines a function that waits at gates, shortens watched transfers, and calls the real one.
macro_rules! plain {
    ($name:ident, $writes:expr) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(fd: c_int, memory: *mut c_void, len: usize, at: i64) -> isize {
            static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
            wait_at_gate(at as u64).unwrap_or_else(|| {
                let seen = || seen_on_thread($writes, at, len, false, 0);
                let (errno, most) = watched_on_thread(fd, seen);
                if let Some(errno) = errno {
                    set_errno(errno);
                    return -1;
                }
                let name = concat!(stringify!($name), "\0");
                let name = CStr::from_bytes_with_nul(name.as_bytes()).unwrap();
                // SAFETY: the type of the C library's function.
                let real = unsafe { real_function::<PlainFn>(&REAL, name) };
                // SAFETY: the caller's arguments, passed on, or a part of its memory.
                unsafe { real(fd, memory, len.min(most), at) }
            })
        }
    };
}

macro_rules! vectored {
    ($name:ident, $writes:expr) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(
            fd: c_int,
            pieces: *const libc::iovec,
            count: c_int,
            at: i64,
        ) -> isize {
            static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
            wait_at_gate(at as u64).unwrap_or_else(|| {
                let seen = || seen_on_thread($writes, at, count as usize, true, 0);
                let (errno, most) = watched_on_thread(fd, seen);
                if let Some(errno) = errno {
                    set_errno(errno);
                    return -1;
                }
                // SAFETY: the caller's, as many as it says.
                let pieces = unsafe { iovecs(pieces, count as usize) };
                let pieces = cut(pieces, most);
                let name = concat!(stringify!($name), "\0");
                let name = CStr::from_bytes_with_nul(name.as_bytes()).unwrap();
                // SAFETY: the type of the C library's function.
                let real = unsafe { real_function::<VectoredFn>(&REAL, name) };
                // SAFETY: the caller's arguments, passed on, or a part of its memory.
                unsafe { real(fd, pieces.as_ptr(), pieces.len() as c_int, at) }
            })
        }
    };
}

plain!(pread64, false);
plain!(pwrite64, true);
vectored!(preadv64, false);
vectored!(pwritev64, true);

/// # Safety
///
/// There are `count` at `first`, if there are any.
pub unsafe fn iovecs<'a>(first: *const libc::iovec, count: usize) -> &'a [libc::iovec] {
    if count == 0 {
        return &[];
    }
    // SAFETY: the caller's word.
    unsafe { std::slice::from_raw_parts(first, count) }
}

// ---- The system call --------------------------------------------------------------------------

pub type Syscall =
    unsafe extern "C" fn(c_long, c_long, c_long, c_long, c_long, c_long, c_long) -> c_long;

/// The C library's function of this name, kept in `place`. Without a lock: those of the standard
/// library make system calls.
///
/// # Safety
///
/// `F` is the type of a pointer to it.
unsafe fn real_function<F: Copy>(place: &AtomicPtr<c_void>, name: &CStr) -> F {
    let mut symbol = place.load(Ordering::Relaxed);
    if symbol.is_null() {
        // SAFETY: asks for a symbol by its name.
        symbol = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
        assert!(!symbol.is_null());
        place.store(symbol, Ordering::Relaxed);
    }
    assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
    // SAFETY: the caller's word.
    unsafe { std::mem::transmute_copy(&symbol) }
}

pub fn real() -> Syscall {
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    // SAFETY: what the C library's function takes; one with "..." is called like this too.
    unsafe { real_function(&REAL, c"syscall") }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    if let libc::SYS_preadv2 | libc::SYS_pwritev2 = number {
        let writes = number == libc::SYS_pwritev2;
        let offset = d as u64;
        if let Some(waited) = wait_at_gate(offset) {
            return waited as c_long;
        }
        let vectored = c != 1;
        let seen = || {
            let mut seen = seen_on_thread(writes, offset as i64, c as usize, vectored, f as u32);
            if !vectored {
                // SAFETY: the caller's one.
                seen.len = unsafe { (*(b as *const libc::iovec)).iov_len } as u64;
            }
            seen
        };
        let (errno, most) = watched_on_thread(a as RawFd, seen);
        if let Some(errno) = errno {
            set_errno(errno);
            return -1;
        }
        // SAFETY: the caller's, as many as it says.
        let pieces = cut(unsafe { iovecs(b as *const _, c as usize) }, most);
        let (b, c) = (pieces.as_ptr() as c_long, pieces.len() as c_long);
        // SAFETY: the caller's arguments, passed on, or a part of its memory.
        return unsafe { real()(number, a, b, c, d, e, f) };
    }
    // SAFETY: the caller's arguments, passed on.
    if let Some(code) = unsafe { uring_call(number, [a, b, c, d, e, f]) } {
        return code;
    }
    if number == libc::SYS_io_destroy {
        wait_for_gates_of(a);
    }
    if number != libc::SYS_io_submit {
        // SAFETY: the caller's arguments, passed on.
        return unsafe { real()(number, a, b, c, d, e, f) };
    }
    count_submission();
    let taken = match faulty(b as usize) {
        Ok(taken) => taken,
        Err(errno) => {
            set_errno(errno);
            return -1;
        }
    };
    // SAFETY: the caller's array of that many pointers, or more.
    let pointers = unsafe { std::slice::from_raw_parts(c as *const *const Iocb, taken) };
    let mut iocbs = Vec::with_capacity(taken);
    for pointer in pointers {
        // SAFETY: the caller's iocb.
        iocbs.push(unsafe { pointer.read() });
    }
    let gates: Vec<_> = iocbs
        .iter()
        .map(|i| (gate_at(i.offset), i.signals()))
        .collect();
    let mut iocbs: Vec<_> = (iocbs.into_iter().zip(&gates))
        .map(|(iocb, (gate, _))| iocb.at_gate(gate.as_ref()))
        .collect();
    let _cut: Vec<_> = iocbs.iter_mut().map(Iocb::be_watched).collect();
    // A poll that is not for a gate keeps its address: by that it may be cancelled.
    let mut pointers: Vec<*mut Iocb> = (iocbs.iter_mut().zip(pointers).zip(&gates))
        .map(|((iocb, own), (gate, _))| match (iocb.opcode, gate) {
            (IOCB_CMD_POLL, None) => own.cast_mut(),
            _ => &raw mut *iocb,
        })
        .collect();
    let pointers = pointers.as_mut_ptr() as c_long;
    // SAFETY: valid iocbs of ours; what they name is the caller's.
    let code = unsafe { real()(number, a, taken as c_long, pointers, d, e, f) };
    for (gate, eventfd) in gates.into_iter().take(code.max(0) as usize) {
        if let Some((offset, _)) = gate {
            AtGate::add_in(Some(a), offset, eventfd);
        }
    }
    code
}

impl Iocb {
    /// Records a transfer on a watched file, and shortens or refuses it. The result must live until
    /// the submission.
    fn be_watched(&mut self) -> Vec<libc::iovec> {
        let vectored = matches!(self.opcode, IOCB_CMD_PREADV | IOCB_CMD_PWRITEV);
        let writes = matches!(self.opcode, IOCB_CMD_PWRITE | IOCB_CMD_PWRITEV);
        if !vectored && !writes && self.opcode != IOCB_CMD_PREAD {
            return Vec::new();
        }
        let has_priority = self.flags & IOCB_FLAG_IOPRIO != 0;
        let (fd, most) = watched(self.fd as RawFd, || Transfer {
            writes,
            offset: self.offset,
            len: self.len,
            vectored,
            flags: self.key_and_flags[usize::from(cfg!(target_endian = "little"))],
            priority: has_priority.then_some(self.priority as u16),
        });
        self.fd = fd as u32;
        if !vectored {
            self.len = self.len.min(most as u64);
            return Vec::new();
        }
        // SAFETY: the caller's, as many as it says.
        let pieces = unsafe { iovecs(self.buffer as usize as *const _, self.len as usize) };
        let pieces = cut(pieces, most);
        self.buffer = pieces.as_ptr().addr() as u64;
        self.len = pieces.len() as u64;
        pieces
    }

    fn signals(&self) -> Option<RawFd> {
        (self.flags & IOCB_FLAG_RESFD != 0).then_some(self.eventfd as RawFd)
    }
}

/// How many of `requests` to pass to the kernel, after applying faults; or the errno to fail with.
pub fn faulty(requests: usize) -> Result<usize, c_int> {
    // Taken first: `RunFirst` may inject faults for later submissions.
    let mut firsts = Vec::new();
    let fault = loop {
        match SCRIPT.with_borrow_mut(VecDeque::pop_front) {
            Some(Fault::RunFirst(what)) => firsts.push(what),
            fault => break fault,
        }
    };
    firsts.into_iter().for_each(|what| what());
    match fault {
        Some(Fault::Again) => return Err(libc::EAGAIN),
        Some(Fault::Fail(errno)) => return Err(errno),
        Some(Fault::Partial(part)) => return Ok(requests.min(part)),
        _ => {}
    }
    if random() % 1000 >= RANDOM_FAULTS_PER_MILLE.get() {
        return Ok(requests);
    }
    match random() % 4 {
        0 | 1 => {
            RANDOM_FAULTS[0].fetch_add(1, Ordering::Relaxed);
            Err(libc::EAGAIN)
        }
        2 if requests > 1 => {
            RANDOM_FAULTS[1].fetch_add(1, Ordering::Relaxed);
            Ok(1 + random() as usize % (requests - 1))
        }
        _ => {
            RANDOM_FAULTS[2].fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_micros(random() % 300));
            Ok(requests)
        }
    }
}

pub fn set_errno(errno: c_int) {
    // SAFETY: this thread's own.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { place.write(errno) };
}
