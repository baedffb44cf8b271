//! Interposes the C library's system call wrappers: each one counts and calls the real function.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};
use std::process::abort;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use super::is_on;

/// Total number of calls.
pub(super) fn total() -> u64 {
    let named = FUNCTIONS.iter().map(|(_, count)| *count);
    let counts = named.chain(NUMBERS.iter().map(|(_, _, count)| count));
    let counts = counts.chain([&OTHER_NUMBERS]);
    counts.map(|count| count.load(Ordering::SeqCst)).sum()
}

/// Resets all counters.
pub(super) fn reset() {
    let named = FUNCTIONS.iter().map(|(_, count)| *count);
    let counts = named.chain(NUMBERS.iter().map(|(_, _, count)| count));
    let counts = counts.chain([&OTHER_NUMBERS]);
    counts.for_each(|count| count.store(0, Ordering::SeqCst));
}

/// Calls by name, without those that did not occur.
pub(super) fn by_name() -> BTreeMap<String, f64> {
    let functions = FUNCTIONS.iter().map(|(name, count)| (*name, *count));
    let numbers = NUMBERS.iter().map(|(name, _, count)| (*name, count));
    let all = functions
        .chain(numbers)
        .chain([("syscall", &OTHER_NUMBERS)]);
    all.map(|(name, count)| (name.to_owned(), count.load(Ordering::SeqCst) as f64))
        .filter(|(_, count)| *count > 0.0)
        .collect()
}

/// Counters of calls through `syscall`, by number.
static NUMBERS: [(&str, c_long, AtomicU64); 6] = [
    ("io_submit", libc::SYS_io_submit, AtomicU64::new(0)),
    ("io_getevents", libc::SYS_io_getevents, AtomicU64::new(0)),
    ("io_cancel", libc::SYS_io_cancel, AtomicU64::new(0)),
    (
        "io_uring_enter",
        libc::SYS_io_uring_enter,
        AtomicU64::new(0),
    ),
    ("futex", libc::SYS_futex, AtomicU64::new(0)),
    ("membarrier", libc::SYS_membarrier, AtomicU64::new(0)),
];
static OTHER_NUMBERS: AtomicU64 = AtomicU64::new(0);

#[cold]
fn count_number(number: c_long) {
    let known = NUMBERS.iter().find(|(_, known, _)| *known == number);
    let count = known.map_or(&OTHER_NUMBERS, |(_, _, count)| count);
    count.fetch_add(1, Ordering::Relaxed);
}

/// Returns the C library's function of this name, looked up once and cached in `known`.
#[inline]
fn real(known: &AtomicPtr<c_void>, name: &'static CStr) -> *mut c_void {
    let function = known.load(Ordering::Relaxed);
    if function.is_null() {
        look_up(known, name)
    } else {
        function
    }
}

#[cold]
fn look_up(known: &AtomicPtr<c_void>, name: &'static CStr) -> *mut c_void {
    // SAFETY: `name` is null-terminated.
    let function = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    if function.is_null() {
        abort(); // without a C library, no message can be printed
    }
    known.store(function, Ordering::Relaxed);
    function
}

/// Defines functions that count and call the real function, and a table of their counters.
macro_rules! counted {
    ($($name:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        $(#[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($arg: $type),*) -> $result {
            if is_on() {
                counters::$name.fetch_add(1, Ordering::Relaxed);
            }
            call_real!($name($($arg: $type),*) -> $result)
        })*

        #[allow(non_upper_case_globals)]
        mod counters {
            use super::AtomicU64;
            $(pub(super) static $name: AtomicU64 = AtomicU64::new(0);)*
        }

        static FUNCTIONS: &[(&str, &AtomicU64)] = &[
            $((stringify!($name), &counters::$name),)*
        ];
    };
}

/// Calls the C library's function of this name.
macro_rules! call_real {
    ($name:ident($($arg:ident: $type:ty),*) -> $result:ty) => {{
        type Function = unsafe extern "C" fn($($type),*) -> $result;
        static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
        const NAME: &CStr = match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
            Ok(name) => name,
            Err(_) => unreachable!(),
        };
        let function = real(&REAL, NAME);
        // SAFETY: the C library's function of this name has this type, or takes its arguments in
        // the same registers where it is variadic.
        let function: Function = unsafe { std::mem::transmute(function) };
        // SAFETY: the caller upholds the contract of this function.
        unsafe { function($($arg),*) }
    }};
}

// Used for `io_*` calls, and for futexes by the standard library and parking_lot.
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
    if is_on() {
        count_number(number);
    }
    call_real!(syscall(number: c_long, a: c_long, b: c_long, c: c_long, d: c_long, e: c_long, f: c_long) -> c_long)
}

counted! {
    epoll_wait(epoll: c_int, events: *mut libc::epoll_event, room: c_int, timeout: c_int) -> c_int;
    epoll_pwait(epoll: c_int, events: *mut libc::epoll_event, room: c_int, timeout: c_int, mask: *const libc::sigset_t) -> c_int;
    epoll_ctl(epoll: c_int, op: c_int, fd: c_int, event: *mut libc::epoll_event) -> c_int;
    poll(fds: *mut libc::pollfd, number: libc::nfds_t, timeout: c_int) -> c_int;
    read(fd: c_int, buffer: *mut c_void, len: usize) -> isize;
    write(fd: c_int, buffer: *const c_void, len: usize) -> isize;
    readv(fd: c_int, parts: *const libc::iovec, number: c_int) -> isize;
    writev(fd: c_int, parts: *const libc::iovec, number: c_int) -> isize;
    pread(fd: c_int, buffer: *mut c_void, len: usize, offset: libc::off_t) -> isize;
    pread64(fd: c_int, buffer: *mut c_void, len: usize, offset: libc::off64_t) -> isize;
    pwrite(fd: c_int, buffer: *const c_void, len: usize, offset: libc::off_t) -> isize;
    pwrite64(fd: c_int, buffer: *const c_void, len: usize, offset: libc::off64_t) -> isize;
    preadv(fd: c_int, parts: *const libc::iovec, number: c_int, offset: libc::off_t) -> isize;
    pwritev(fd: c_int, parts: *const libc::iovec, number: c_int, offset: libc::off_t) -> isize;
    lseek(fd: c_int, offset: libc::off_t, whence: c_int) -> libc::off_t;
    lseek64(fd: c_int, offset: libc::off64_t, whence: c_int) -> libc::off64_t;
    fsync(fd: c_int) -> c_int;
    fdatasync(fd: c_int) -> c_int;
    close(fd: c_int) -> c_int;
    eventfd(initial: c_uint, flags: c_int) -> c_int;
    open64(path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int;
    fcntl(fd: c_int, command: c_int, argument: c_long) -> c_int;
    mmap(start: *mut c_void, len: usize, access: c_int, flags: c_int, fd: c_int, offset: libc::off_t) -> *mut c_void;
    munmap(start: *mut c_void, len: usize) -> c_int;
    mprotect(start: *mut c_void, len: usize, access: c_int) -> c_int;
    madvise(start: *mut c_void, len: usize, advice: c_int) -> c_int;
    mlock(start: *const c_void, len: usize) -> c_int;
    munlock(start: *const c_void, len: usize) -> c_int;
    nanosleep(time: *const libc::timespec, left: *mut libc::timespec) -> c_int;
    sched_yield() -> c_int;
}
