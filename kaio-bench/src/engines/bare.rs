//! `bare`: a loop of `io_submit` and `io_getevents` on one thread, without an eventfd. Nothing that
//! uses kernel AIO can do with less.
//!
//! `bare-epoll`: the same loop, but it sleeps where every program on tokio has to, in epoll. Each
//! request signals an eventfd; the first signal ends the wait, and what has come by then is taken
//! without waiting. Nothing that waits in epoll can do with less, but by not waiting at all, as for
//! requests that are done before their submission returns.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::bare_loop::{self, Interface};
use super::signal::Signal;
use super::{open_file, setup_error};
use crate::{
    Buffer, Direction, Engine, Prepared, Result, Run, Tally, Transfer, Workload, on_tokio,
};

pub(super) struct Bare(pub(super) Waiting);

/// Where a loop sleeps.
#[derive(Clone, Copy)]
pub(super) enum Waiting {
    /// In `io_getevents`, until all is there that it waits for.
    Getevents,
    /// In `epoll_wait`, until the next signal.
    Epoll,
}

impl Engine for Bare {
    fn name(&self) -> &str {
        match self.0 {
            Waiting::Getevents => "bare",
            Waiting::Epoll => "bare-epoll",
        }
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        let file = open_file(workload, false)?;
        let buffers = (0..workload.depth).map(|_| Buffer::new(workload.block()));
        let signal = match self.0 {
            Waiting::Getevents => None,
            Waiting::Epoll => Some(Signal::new().map_err(|error| setup_error("epoll", &error))?),
        };
        Ok(Box::new(PreparedBare {
            context: Context::new(workload.depth)?,
            signal,
            iocbs: vec![Iocb::default(); workload.depth],
            queue: Vec::with_capacity(workload.depth),
            events: vec![Event::default(); workload.depth],
            buffers: buffers.collect(),
            file,
            workload: workload.clone(),
        }))
    }
}

struct PreparedBare {
    /// Before the memory that its requests use, so that it is destroyed before it is freed.
    context: Context,
    /// With [`Waiting::Epoll`].
    signal: Option<Signal>,
    /// One for each transfer in flight, and so a buffer.
    iocbs: Vec<Iocb>,
    /// What goes to the kernel next: pointers to `iocbs`.
    queue: Vec<*mut Iocb>,
    events: Vec<Event>,
    buffers: Vec<Buffer>,
    file: File,
    workload: Workload,
}

impl Prepared for PreparedBare {
    fn run(&mut self, run: &Run) -> Result<Tally> {
        bare_loop::drive(self, run)
    }
}

impl Interface for PreparedBare {
    fn workload(&self) -> &Workload {
        &self.workload
    }

    fn enqueue(&mut self, slot: usize, transfer: Transfer) -> Result<()> {
        let durable = self.workload.pattern.durable();
        let (opcode, rw_flags) = match transfer.direction {
            Direction::Read => (IOCB_CMD_PREAD, 0),
            Direction::Write if durable => (IOCB_CMD_PWRITE, libc::RWF_DSYNC),
            Direction::Write => (IOCB_CMD_PWRITE, 0),
        };
        let (flags, eventfd) = match &self.signal {
            Some(signal) => (IOCB_FLAG_RESFD, signal.eventfd()),
            None => (0, 0),
        };
        let iocb = &mut self.iocbs[slot];
        *iocb = Iocb {
            data: slot as u64,
            key_and_flags: key_and_flags(rw_flags as u32),
            opcode,
            fd: self.file.as_raw_fd() as u32,
            buffer: self.buffers[slot].as_mut_ptr() as u64,
            len: self.workload.block() as u64,
            offset: transfer.offset as i64,
            flags,
            eventfd: eventfd as u32,
            ..Iocb::default()
        };
        self.queue.push(iocb);
        Ok(())
    }

    fn wait(&mut self, wanted: usize) -> Result<usize> {
        self.submit()?;
        self.reap(wanted)
    }

    fn landed(&self, i: usize) -> Result<usize> {
        let Event { data, moved, .. } = self.events[i];
        let moved = match moved {
            0.. => Ok(moved as usize),
            _ => Err(io::Error::from_raw_os_error(-moved as i32).into()),
        };
        on_tokio::check(moved, self.workload.block())?;
        Ok(data as usize)
    }
}

impl PreparedBare {
    /// Gives all of the queue to the kernel.
    fn submit(&mut self) -> Result<()> {
        let mut sent = 0;
        while sent < self.queue.len() {
            let rest = &mut self.queue[sent..];
            // SAFETY: pointers to iocbs, over buffers that live until the context is destroyed.
            let code = unsafe {
                libc::syscall(
                    libc::SYS_io_submit,
                    self.context.0,
                    rest.len(),
                    rest.as_mut_ptr(),
                )
            };
            match code {
                1.. => sent += code as usize,
                _ => return Err(last_error("io_submit").into()),
            }
        }
        self.queue.clear();
        Ok(())
    }

    /// Waits for events; returns how many there are in `events`, one at least. `wanted`: how many
    /// the caller can't go on without. Only `io_getevents` can wait for so many; epoll wakes for
    /// the first.
    fn reap(&mut self, wanted: usize) -> Result<usize> {
        let Some(signal) = &self.signal else {
            return self.context.events(wanted, &mut self.events);
        };
        loop {
            signal
                .wait()
                .map_err(|error| format!("epoll_wait: {error}"))?;
            // None where an earlier wait's reaping has taken the event of this signal.
            match self.context.events(0, &mut self.events)? {
                0 => {}
                reaped => return Ok(reaped),
            }
        }
    }
}

/// The kernel's id of a context.
struct Context(libc::c_ulong);

impl Context {
    fn new(depth: usize) -> Result<Context> {
        let mut id = 0;
        // SAFETY: the kernel writes the id to a word of ours.
        let code = unsafe { libc::syscall(libc::SYS_io_setup, depth, &raw mut id) };
        match code {
            0 => Ok(Context(id)),
            _ => Err(setup_error("io_setup", &io::Error::last_os_error())),
        }
    }

    /// Waits for `least` events or more; returns how many there are in `events`.
    fn events(&self, least: usize, events: &mut [Event]) -> Result<usize> {
        loop {
            // SAFETY: room for as many events.
            let code = unsafe {
                libc::syscall(
                    libc::SYS_io_getevents,
                    self.0,
                    least,
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

impl Drop for Context {
    fn drop(&mut self) {
        // Returns when nothing is in flight any more.
        // SAFETY: nobody else uses the context.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

fn last_error(what: &str) -> String {
    format!("{what}: {}", io::Error::last_os_error())
}

/// `struct iocb`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Iocb {
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

const IOCB_CMD_PREAD: u16 = 0;
const IOCB_CMD_PWRITE: u16 = 1;
/// Signals `eventfd`.
const IOCB_FLAG_RESFD: u32 = 1;

/// `aio_key`, which the kernel sets, and `aio_rw_flags`: which comes first depends on the byte
/// order, so that the flags are always the upper half.
fn key_and_flags(rw_flags: u32) -> u64 {
    u64::from(rw_flags) << 32
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    iocb: u64,
    moved: i64,
    more: i64,
}
