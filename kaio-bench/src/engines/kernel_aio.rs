//! [`KernelContext`]: the system calls of kernel AIO, for the bare engines. All of it is inlined into their
//! loops, to which all other engines are compared.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;

use super::setup_error;
use crate::{Direction, Result, Transfer, Workload};

/// An AIO context: the id that `io_setup` returned. Dropping it waits until no request is in flight.
pub(super) struct KernelContext(libc::c_ulong);

impl KernelContext {
    /// Creates a context for `depth` requests in flight.
    pub(super) fn new(depth: usize) -> Result<KernelContext> {
        let mut id = 0;
        // SAFETY: `id` is valid for writes.
        let code = unsafe { libc::syscall(libc::SYS_io_setup, depth, &raw mut id) };
        match code {
            0 => Ok(KernelContext(id)),
            _ => Err(setup_error("io_setup", &io::Error::last_os_error())),
        }
    }

    /// Submits all `requests`.
    ///
    /// # Safety
    ///
    /// The pointers are valid during the call. The buffers that the requests name are valid until their
    /// completion, or until the context is dropped.
    #[inline(always)]
    pub(super) unsafe fn submit(&self, requests: &mut [*mut Iocb]) -> Result<()> {
        let mut sent = 0;
        while sent < requests.len() {
            let rest = &mut requests[sent..];
            // SAFETY: the caller's promise.
            let code = unsafe {
                libc::syscall(libc::SYS_io_submit, self.0, rest.len(), rest.as_mut_ptr())
            };
            match code {
                1.. => sent += code as usize,
                _ => return Err(last_error("io_submit").into()),
            }
        }
        Ok(())
    }

    /// Waits for at least `min` completions. Returns the number of entries written to `events`.
    #[inline(always)]
    pub(super) fn events(&self, min: usize, events: &mut [Event]) -> Result<usize> {
        loop {
            // SAFETY: `events` is valid for writes of `events.len()` entries.
            let code = unsafe {
                libc::syscall(
                    libc::SYS_io_getevents,
                    self.0,
                    min,
                    events.len(),
                    events.as_mut_ptr(),
                    std::ptr::null_mut::<libc::timespec>(),
                )
            };
            match code {
                0.. => return Ok(code as usize),
                _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                _ => return Err(last_error("io_getevents").into()),
            }
        }
    }
}

impl Drop for KernelContext {
    fn drop(&mut self) {
        // Waits until no request is in flight.
        // SAFETY: the context is not used after this.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

fn last_error(call: &str) -> String {
    format!("{call}: {}", io::Error::last_os_error())
}

/// `struct iocb`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Iocb {
    data: u64,
    key_and_flags: u64,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    len: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    eventfd: u32,
}

/// The descriptors and the buffer of a request.
pub(super) struct IocbTarget {
    pub(super) fd: RawFd,
    /// Address of the buffer.
    pub(super) buffer: u64,
    /// The eventfd that the completion signals.
    pub(super) eventfd: Option<RawFd>,
}

impl Iocb {
    /// A request for `transfer`, whose completion has `slot` as its data.
    #[inline(always)]
    pub(super) fn new(
        workload: &Workload,
        slot: usize,
        transfer: Transfer,
        target: &IocbTarget,
    ) -> Iocb {
        let durable = workload.pattern.durable();
        let (opcode, rw_flags) = match transfer.direction {
            Direction::Read => (IOCB_CMD_PREAD, 0),
            Direction::Write if durable => (IOCB_CMD_PWRITE, libc::RWF_DSYNC),
            Direction::Write => (IOCB_CMD_PWRITE, 0),
        };
        let (flags, eventfd) = match target.eventfd {
            Some(eventfd) => (IOCB_FLAG_RESFD, eventfd),
            None => (0, 0),
        };
        Iocb {
            data: slot as u64,
            key_and_flags: key_and_flags(rw_flags as u32),
            opcode,
            fd: target.fd as u32,
            buffer: target.buffer,
            len: workload.block() as u64,
            offset: transfer.offset as i64,
            flags,
            eventfd: eventfd as u32,
            ..Iocb::default()
        }
    }
}

const IOCB_CMD_PREAD: u16 = 0;
const IOCB_CMD_PWRITE: u16 = 1;
/// Signal `eventfd` on completion.
const IOCB_FLAG_RESFD: u32 = 1;

/// `aio_key`, which the kernel sets, and `aio_rw_flags`. Their order in memory depends on the byte order,
/// such that the flags are always the upper half.
fn key_and_flags(rw_flags: u32) -> u64 {
    u64::from(rw_flags) << 32
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Event {
    pub(super) data: u64,
    iocb: u64,
    pub(super) res: i64,
    res2: i64,
}

/// The result of an event: the bytes transferred.
#[inline(always)]
pub(super) fn transferred(res: i64) -> Result<usize> {
    match res {
        0.. => Ok(res as usize),
        _ => Err(io::Error::from_raw_os_error(-res as i32).into()),
    }
}
