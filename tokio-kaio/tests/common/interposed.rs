//! Stands between the library and the kernel's `io_submit`, so that a test can say what it meets
//! there: no room, part of a batch taken, a moment in which something else happens, a request
//! that is not done before the test wants it, or that moves less than it is asked for.
//!
//! A binary with this module defines the C library's `syscall`, through which the library submits,
//! and calls the real one. So it does with what the threads of the thread pool call. What is set here
//! counts for the thread that sets it only; gates are found by their requests, and watched files by
//! their descriptors, on every thread.
#![allow(dead_code, unreachable_pub, unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::{CStr, c_int, c_long, c_void};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::time::Duration;

/// What a submission meets.
pub enum Fault {
    /// `EAGAIN`.
    NoRoom,
    /// The kernel takes so many requests at most.
    Part(usize),
    /// This happens first; then the submission meets the fault after it, if one is set.
    First(Box<dyn FnOnce()>),
}

impl Fault {
    pub fn first(what: impl FnOnce() + 'static) -> Fault {
        Fault::First(Box::new(what))
    }
}

thread_local! {
    static SCRIPT: RefCell<VecDeque<Fault>> = const { RefCell::new(VecDeque::new()) };
    /// How many submissions of a thousand meet a fault at random.
    static STORM: Cell<u64> = const { Cell::new(0) };
    static SUBMISSIONS: Cell<u64> = const { Cell::new(0) };
}

/// What storms have done: refused, cut short, delayed.
pub static STORMED: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

/// Has this thread's next submissions meet `faults`, after those that are still to come.
pub fn next_submissions_meet(faults: impl IntoIterator<Item = Fault>) {
    SCRIPT.with_borrow_mut(|script| script.extend(faults));
}

/// Faults that this thread has not met yet.
pub fn faults_to_come() -> usize {
    SCRIPT.with_borrow(VecDeque::len)
}

/// Has so many of a thousand submissions of this thread meet a fault, at random.
pub fn storm(per_mille: u64) {
    STORM.set(per_mille);
}

/// Calls of `io_submit` that this thread has made.
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

/// Holds requests back for as long as the test wants.
///
/// What is submitted in the block at [`Gate::offset`] becomes a poll (`IOCB_CMD_POLL`) of an eventfd, whatever
/// it was: it moves no data, and is done with result 1 when the gate is opened; at once where it
/// is open already. A thread that is to read or write there waits likewise.
pub struct Gate(File);

/// Marks offsets that are a gate's; the block that they are in is its descriptor.
const GATE: u64 = 1 << 62;

const BLOCK: u64 = 4096;

struct Held {
    gate: RawFd,
    eventfd: Option<RawFd>,
}

/// Requests that have gone to the kernel at gates.
static HELD: Mutex<Vec<Held>> = Mutex::new(Vec::new());

impl Gate {
    pub fn closed() -> Gate {
        // SAFETY: makes a descriptor.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: it is new, and nobody else's.
        Gate(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub fn opened() -> Gate {
        let gate = Gate::closed();
        gate.open();
        gate
    }

    pub fn open(&self) {
        (&self.0).write_all(&1_u64.to_ne_bytes()).unwrap();
    }

    pub fn offset(&self) -> u64 {
        GATE | (self.0.as_raw_fd() as u64 * BLOCK)
    }

    /// For each request that went to the kernel here, the eventfd that it signals. Of what a thread
    /// does that is not known.
    pub fn held(&self) -> Vec<Option<RawFd>> {
        let gate = self.0.as_raw_fd();
        let held = HELD.lock().unwrap();
        let here = held.iter().filter(|held| held.gate == gate);
        here.map(|held| held.eventfd).collect()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open(); // a thread that waits would do so for ever
        let gate = self.0.as_raw_fd();
        HELD.lock().unwrap().retain(|held| held.gate != gate);
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
    fn gate(&self) -> Option<RawFd> {
        gate_at(self.offset)
    }

    /// What goes to the kernel in place of this.
    fn at_its_gate(self) -> Iocb {
        let Some(gate) = self.gate() else { return self };
        Iocb {
            key_and_flags: [0; 2],
            opcode: IOCB_CMD_POLL,
            fd: gate as u32,
            buffer: libc::POLLIN as u64,
            len: 0,
            offset: 0,
            ..self
        }
    }
}

fn gate_at(offset: u64) -> Option<RawFd> {
    let marked = offset & GATE != 0 && offset >> 63 == 0;
    let descriptor = (offset & !GATE) / BLOCK;
    marked.then(|| descriptor.try_into().ok()).flatten()
}

/// What a thread does that reads or writes at a gate. `None`: it is none.
fn wait_at_gate(offset: u64) -> Option<isize> {
    let gate = gate_at(offset)?;
    HELD.lock().unwrap().push(Held {
        gate,
        eventfd: None,
    });
    let mut poll = libc::pollfd {
        fd: gate,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one structure of ours.
    while unsafe { libc::poll(&raw mut poll, 1, -1) } < 0 {}
    Some(1)
}

// ---- Watched files ----------------------------------------------------------------------------

/// Sees all transfers on a file that go to the kernel, and may have them come back short or refused.
pub struct Watched(RawFd);

/// A transfer as the kernel gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
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

struct Watching {
    fd: RawFd,
    /// Bytes that one request moves.
    most: usize,
    /// Requests before the first that is refused.
    good: usize,
    seen: Vec<Seen>,
}

static WATCHING: Mutex<Vec<Watching>> = Mutex::new(Vec::new());

impl Watched {
    pub fn file(file: &impl AsRawFd) -> Watched {
        let fd = file.as_raw_fd();
        WATCHING.lock().unwrap().push(Watching {
            fd,
            most: usize::MAX,
            good: usize::MAX,
            seen: Vec::new(),
        });
        Watched(fd)
    }

    /// No request moves more than so many bytes from now on.
    pub fn cut_to(&self, most: usize) {
        self.with(|watching| watching.most = most);
    }

    /// All requests after the next `good` fail with `EBADF`.
    pub fn refuse_after(&self, good: usize) {
        self.with(|watching| watching.good = watching.seen.len() + good);
    }

    /// What went to the kernel. Of a request that it refused because it would have had to wait, and
    /// that was submitted again, one after the other, only the second submission.
    pub fn seen(&self) -> Vec<Seen> {
        let mut seen = self.with(|watching| watching.seen.clone());
        let nowait = libc::RWF_NOWAIT as u32;
        let mut after = None;
        seen.reverse();
        seen.retain(|&one| {
            let repeats = Seen {
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

impl Drop for Watched {
    fn drop(&mut self) {
        WATCHING.lock().unwrap().retain(|w| w.fd != self.0);
    }
}

/// Notes `seen` on `fd`; gives the descriptor that it is done on, and how many bytes it moves at most.
fn watched(fd: RawFd, seen: impl FnOnce() -> Seen) -> (RawFd, usize) {
    let mut watching = WATCHING.lock().unwrap();
    let Some(watching) = watching.iter_mut().find(|w| w.fd == fd) else {
        return (fd, usize::MAX);
    };
    let is_good = watching.seen.len() < watching.good;
    watching.seen.push(seen());
    (if is_good { fd } else { -1 }, watching.most)
}

/// The first `most` bytes of `pieces`.
fn cut(pieces: &[libc::iovec], mut most: usize) -> Vec<libc::iovec> {
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

type Transfer = unsafe extern "C" fn(c_int, *mut c_void, usize, i64) -> isize;
type Vectored = unsafe extern "C" fn(c_int, *const libc::iovec, c_int, i64) -> isize;

fn seen_on_thread(writes: bool, offset: i64, len: usize, vectored: bool, flags: u32) -> Seen {
    Seen {
        writes,
        offset: offset as u64,
        len: len as u64,
        vectored,
        flags,
        priority: own_priority(),
    }
}

/// Defines a function that waits at gates, is cut short, and goes on to the real one.
macro_rules! plain {
    ($name:ident, $writes:expr) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(fd: c_int, memory: *mut c_void, len: usize, at: i64) -> isize {
            static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
            wait_at_gate(at as u64).unwrap_or_else(|| {
                let (fd, most) = watched(fd, || seen_on_thread($writes, at, len, false, 0));
                let name = concat!(stringify!($name), "\0");
                let name = CStr::from_bytes_with_nul(name.as_bytes()).unwrap();
                // SAFETY: the type of the C library's function.
                let real = unsafe { real_function::<Transfer>(&REAL, name) };
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
                let (fd, most) = watched(fd, seen);
                // SAFETY: the caller's, as many as it says.
                let pieces = unsafe { iovecs(pieces, count as usize) };
                let pieces = cut(pieces, most);
                let name = concat!(stringify!($name), "\0");
                let name = CStr::from_bytes_with_nul(name.as_bytes()).unwrap();
                // SAFETY: the type of the C library's function.
                let real = unsafe { real_function::<Vectored>(&REAL, name) };
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
unsafe fn iovecs<'a>(first: *const libc::iovec, count: usize) -> &'a [libc::iovec] {
    if count == 0 {
        return &[];
    }
    // SAFETY: the caller's word.
    unsafe { std::slice::from_raw_parts(first, count) }
}

// ---- The system call --------------------------------------------------------------------------

type Syscall =
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

fn real() -> Syscall {
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
        let (fd, most) = watched(a as RawFd, seen);
        // SAFETY: the caller's, as many as it says.
        let pieces = cut(unsafe { iovecs(b as *const _, c as usize) }, most);
        let (b, c) = (pieces.as_ptr() as c_long, pieces.len() as c_long);
        // SAFETY: the caller's arguments, passed on, or a part of its memory.
        return unsafe { real()(number, fd.into(), b, c, d, e, f) };
    }
    if number != libc::SYS_io_submit {
        // SAFETY: the caller's arguments, passed on.
        return unsafe { real()(number, a, b, c, d, e, f) };
    }
    SUBMISSIONS.set(SUBMISSIONS.get() + 1);
    let Some(taken) = faulty(b as usize) else {
        set_errno(libc::EAGAIN);
        return -1;
    };
    // SAFETY: the caller's array of that many pointers, or more.
    let pointers = unsafe { std::slice::from_raw_parts(c as *const *const Iocb, taken) };
    let mut iocbs = Vec::with_capacity(taken);
    for pointer in pointers {
        // SAFETY: the caller's iocb.
        iocbs.push(unsafe { pointer.read() });
    }
    let gates: Vec<_> = iocbs.iter().map(|i| (i.gate(), i.signals())).collect();
    let mut iocbs: Vec<_> = iocbs.into_iter().map(Iocb::at_its_gate).collect();
    let _cut: Vec<_> = iocbs.iter_mut().map(Iocb::be_watched).collect();
    // A poll that is nobody's gate goes from where it is: by that address it may be cancelled.
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
        if let Some(gate) = gate {
            HELD.lock().unwrap().push(Held { gate, eventfd });
        }
    }
    code
}

impl Iocb {
    /// Notes a transfer on a watched file, and does to it what is to be done. Gives what is to be
    /// kept until it has been submitted.
    fn be_watched(&mut self) -> Vec<libc::iovec> {
        let vectored = matches!(self.opcode, IOCB_CMD_PREADV | IOCB_CMD_PWRITEV);
        let writes = matches!(self.opcode, IOCB_CMD_PWRITE | IOCB_CMD_PWRITEV);
        if !vectored && !writes && self.opcode != IOCB_CMD_PREAD {
            return Vec::new();
        }
        let has_priority = self.flags & IOCB_FLAG_IOPRIO != 0;
        let (fd, most) = watched(self.fd as RawFd, || Seen {
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

/// How many of `requests` the kernel is to see, after what happens first. `None`: no room.
fn faulty(requests: usize) -> Option<usize> {
    // Taken first: what happens may set faults, for the submissions after this one.
    let mut firsts = Vec::new();
    let fault = loop {
        match SCRIPT.with_borrow_mut(VecDeque::pop_front) {
            Some(Fault::First(what)) => firsts.push(what),
            fault => break fault,
        }
    };
    firsts.into_iter().for_each(|what| what());
    match fault {
        Some(Fault::NoRoom) => return None,
        Some(Fault::Part(part)) => return Some(requests.min(part)),
        _ => {}
    }
    if random() % 1000 >= STORM.get() {
        return Some(requests);
    }
    match random() % 4 {
        0 | 1 => {
            STORMED[0].fetch_add(1, Ordering::Relaxed);
            None
        }
        2 if requests > 1 => {
            STORMED[1].fetch_add(1, Ordering::Relaxed);
            Some(1 + random() as usize % (requests - 1))
        }
        _ => {
            STORMED[2].fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_micros(random() % 300));
            Some(requests)
        }
    }
}

fn set_errno(errno: c_int) {
    // SAFETY: this thread's own.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { place.write(errno) };
}
