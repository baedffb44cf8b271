//! Stands between the library and the kernel's `io_submit`, so that a test can say what it meets
//! there: no room, part of a batch taken, a moment in which something else happens, a request
//! that is not done before the test wants it.
//!
//! A binary with this module defines the C library's `syscall`, through which the library submits,
//! and calls the real one. What is set here counts for the thread that sets it only; gates are
//! found by their requests, on every thread.
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
/// What is submitted at [`Gate::offset`] becomes a poll (`IOCB_CMD_POLL`) of an eventfd, whatever
/// it was: it moves no data, and is done with result 1 when the gate is opened; at once where it
/// is open already. A thread that is to read or write there waits likewise.
pub struct Gate(File);

/// Marks offsets that are a gate's; the rest is its descriptor.
const GATE: u64 = 1 << 62;

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
        GATE | self.0.as_raw_fd() as u64
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

const IOCB_CMD_POLL: u16 = 5;
const IOCB_FLAG_RESFD: u32 = 1;

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
    marked.then(|| (offset & !GATE).try_into().ok()).flatten()
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

type Transfer = unsafe extern "C" fn(c_int, *mut c_void, usize, i64) -> isize;

#[unsafe(no_mangle)]
unsafe extern "C" fn pread64(fd: c_int, memory: *mut c_void, len: usize, offset: i64) -> isize {
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    wait_at_gate(offset as u64).unwrap_or_else(|| {
        // SAFETY: the type of the C library's function.
        let real = unsafe { real_function::<Transfer>(&REAL, c"pread64") };
        // SAFETY: the caller's arguments, passed on.
        unsafe { real(fd, memory, len, offset) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(fd: c_int, memory: *mut c_void, len: usize, offset: i64) -> isize {
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    wait_at_gate(offset as u64).unwrap_or_else(|| {
        // SAFETY: the type of the C library's function.
        let real = unsafe { real_function::<Transfer>(&REAL, c"pwrite64") };
        // SAFETY: the caller's arguments, passed on.
        unsafe { real(fd, memory, len, offset) }
    })
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
    // What is at no gate goes from where it is: by that address it may be cancelled.
    let mut pointers: Vec<*mut Iocb> = (iocbs.iter_mut().zip(pointers).zip(&gates))
        .map(|((iocb, own), (gate, _))| gate.map_or(own.cast_mut(), |_| &raw mut *iocb))
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
