//! The part of the [`interposer`](super::interposer) for io_uring: changes entries in the submission queue
//! of a ring before the kernel takes them.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_long};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::interposer::{AtGate, Transfer, cut, faulty, gate_at, iovecs, real, set_errno, watched};

/// A ring that was set up, and its submission queue, mapped a second time.
struct Ring {
    fd: RawFd,
    queue: usize,
    queue_len: usize,
    entries: usize,
    entries_len: usize,
    offsets: Offsets,
    eventfd: Option<RawFd>,
    /// `user_data` of transfers that wait at gates: their polls must not be cancelled, as a transfer that the
    /// device performs can't be.
    at_gates: Vec<u64>,
}

#[derive(Clone, Copy)]
struct Offsets {
    head: usize,
    mask: usize,
    /// 0: there is none.
    array: usize,
}

static RINGS: Mutex<Vec<Ring>> = Mutex::new(Vec::new());

/// `struct io_uring_sqe`, as far as it is changed here.
#[derive(Clone, Copy)]
#[repr(C)]
struct Sqe {
    opcode: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    offset: u64,
    address: u64,
    len: u32,
    /// `RWF_*`; events of a poll.
    op_flags: u32,
    user_data: u64,
    rest: [u64; 3],
}

const _: () = assert!(size_of::<Sqe>() == 64);

const IORING_OP_READV: u8 = 1;
const IORING_OP_WRITEV: u8 = 2;
const IORING_OP_READ_FIXED: u8 = 4;
const IORING_OP_WRITE_FIXED: u8 = 5;
const IORING_OP_POLL_ADD: u8 = 6;
const IORING_OP_READ: u8 = 22;
const IORING_OP_WRITE: u8 = 23;
const IORING_REGISTER_EVENTFD: c_long = 4;
const IORING_REGISTER_SYNC_CANCEL: c_long = 24;
const IORING_OFF_SQES: libc::off_t = 0x1000_0000;

/// The system calls of io_uring. `None`: another one.
///
/// # Safety
///
/// As the system call.
pub(crate) unsafe fn uring_call(number: c_long, args: [c_long; 6]) -> Option<c_long> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the caller's arguments, passed on.
    let pass = || unsafe { real()(number, a, b, c, d, e, f) };
    match number {
        libc::SYS_io_uring_setup => {
            let fd = pass();
            if fd >= 0 {
                // SAFETY: the kernel has filled the caller's parameters.
                unsafe { add_ring(fd as RawFd, b as usize) };
            }
            Some(fd)
        }
        libc::SYS_io_uring_register if b == IORING_REGISTER_EVENTFD => {
            let code = pass();
            // SAFETY: one number, which the kernel has just read.
            let eventfd = unsafe { (c as usize as *const c_int).read() };
            with_ring(a as RawFd, |ring| ring.eventfd = Some(eventfd));
            Some(code)
        }
        libc::SYS_io_uring_register if b == IORING_REGISTER_SYNC_CANCEL => {
            // SAFETY: the caller's structure, which starts with the `user_data`.
            let user_data = unsafe { (c as usize as *const u64).read() };
            let held = with_ring(a as RawFd, |ring| ring.at_gates.contains(&user_data));
            if held == Some(true) {
                set_errno(libc::ENOENT);
                return Some(-1);
            }
            Some(pass())
        }
        // SAFETY: the caller's promise.
        libc::SYS_io_uring_enter if b > 0 => Some(unsafe { submit(args) }),
        _ => None,
    }
}

fn with_ring<R>(fd: RawFd, what: impl FnOnce(&mut Ring) -> R) -> Option<R> {
    let mut rings = RINGS.lock().unwrap();
    rings.iter_mut().find(|ring| ring.fd == fd).map(what)
}

/// # Safety
///
/// `params` is a `struct io_uring_params` that the kernel has filled, of the ring `fd`.
unsafe fn add_ring(fd: RawFd, params: usize) {
    // SAFETY: the structure has 30 words.
    let words = unsafe { (params as *const [u32; 30]).read() };
    let word = |index: usize| words[index] as usize;
    let count = word(0);
    // `sq_off` starts at byte 40: head, tail, ring_mask, ring_entries, flags, dropped, array.
    let offsets = Offsets {
        head: word(10),
        mask: word(12),
        array: word(16),
    };
    let queue_len = (offsets.array + count * 4).max(4096);
    let entries_len = count * size_of::<Sqe>();
    let map = |len: usize, offset: libc::off_t| {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let nowhere = std::ptr::null_mut();
        // SAFETY: a new mapping.
        let at = unsafe { libc::mmap(nowhere, len, protection, libc::MAP_SHARED, fd, offset) };
        assert_ne!(at, libc::MAP_FAILED);
        at.addr()
    };
    let ring = Ring {
        fd,
        queue: map(queue_len, 0),
        queue_len,
        entries: map(entries_len, IORING_OFF_SQES),
        entries_len,
        offsets,
        eventfd: None,
        at_gates: Vec::new(),
    };
    let mut rings = RINGS.lock().unwrap();
    rings.retain(|former| former.fd != fd); // it was closed
    rings.push(ring);
}

impl Drop for Ring {
    fn drop(&mut self) {
        for (at, len) in [
            (self.queue, self.queue_len),
            (self.entries, self.entries_len),
        ] {
            // SAFETY: a mapping of this ring, which nobody uses any more.
            unsafe { libc::munmap(at as *mut _, len) };
        }
    }
}

impl Ring {
    fn word(&self, offset: usize) -> u32 {
        let word = (self.queue + offset) as *const AtomicU32;
        // SAFETY: within the mapping.
        unsafe { &*word }.load(Ordering::Acquire)
    }

    /// The place of the entry that the kernel will take after `skipped` others.
    fn entry(&self, skipped: u32) -> *mut Sqe {
        let position =
            self.word(self.offsets.head).wrapping_add(skipped) & self.word(self.offsets.mask);
        let index = match self.offsets.array {
            0 => position,
            array => self.word(array + 4 * position as usize),
        };
        (self.entries + index as usize * size_of::<Sqe>()) as *mut Sqe
    }
}

/// Submits entries, after applying faults, gates and watched files.
///
/// # Safety
///
/// As `io_uring_enter(2)`.
unsafe fn submit([fd, count, min_complete, flags, mask, mask_len]: [c_long; 6]) -> c_long {
    super::interposer::count_submission();
    let taken = match faulty(count as usize) {
        Ok(taken) => taken,
        Err(errno) => {
            set_errno(errno);
            return -1;
        }
    };
    let mut gates = Vec::new();
    let mut kept = Vec::new();
    with_ring(fd as RawFd, |ring| {
        for skipped in 0..taken as u32 {
            let place = ring.entry(skipped);
            // SAFETY: an entry of the caller, who holds a lock for as long.
            let mut entry = unsafe { place.read() };
            if !entry.is_transfer() {
                continue;
            }
            if let Some((offset, gate)) = gate_at(entry.offset) {
                entry.wait_at(gate.as_raw_fd());
                ring.at_gates.push(entry.user_data);
                let eventfd = ring.eventfd;
                gates.push(gate);
                AtGate::add(offset, eventfd);
            } else {
                kept.push(entry.be_watched());
            }
            // SAFETY: as above.
            unsafe { place.write(entry) };
        }
    });
    // SAFETY: the caller's arguments, passed on; `kept` and `gates` live until the kernel has taken the
    // entries.
    unsafe {
        real()(
            libc::SYS_io_uring_enter,
            fd,
            taken as c_long,
            min_complete,
            flags,
            mask,
            mask_len,
        )
    }
}

impl Sqe {
    fn is_transfer(&self) -> bool {
        let single = [
            IORING_OP_READ,
            IORING_OP_WRITE,
            IORING_OP_READ_FIXED,
            IORING_OP_WRITE_FIXED,
        ];
        self.is_vectored() || single.contains(&self.opcode)
    }

    fn is_vectored(&self) -> bool {
        matches!(self.opcode, IORING_OP_READV | IORING_OP_WRITEV)
    }

    /// Becomes a poll of a gate.
    fn wait_at(&mut self, gate: RawFd) {
        *self = Sqe {
            opcode: IORING_OP_POLL_ADD,
            flags: 0,
            priority: 0,
            fd: gate,
            offset: 0,
            address: 0,
            len: 0,
            op_flags: libc::POLLIN as u32,
            user_data: self.user_data,
            rest: [0; 3],
        };
    }

    /// Records a transfer on a watched file, and shortens or refuses it. The result must live until the
    /// submission.
    fn be_watched(&mut self) -> Vec<libc::iovec> {
        let (fd, most) = watched(self.fd, || Transfer {
            writes: matches!(
                self.opcode,
                IORING_OP_WRITE | IORING_OP_WRITEV | IORING_OP_WRITE_FIXED
            ),
            offset: self.offset,
            len: self.len.into(),
            vectored: self.is_vectored(),
            flags: self.op_flags,
            priority: (self.priority != 0).then_some(self.priority),
        });
        self.fd = fd;
        if !self.is_vectored() {
            self.len = u32::try_from(most).unwrap_or(u32::MAX).min(self.len);
            return Vec::new();
        }
        // SAFETY: the caller's, as many as it says.
        let pieces = unsafe { iovecs(self.address as usize as *const _, self.len as usize) };
        let pieces = cut(pieces, most);
        self.address = pieces.as_ptr().addr() as u64;
        self.len = pieces.len() as u32;
        pieces
    }
}
