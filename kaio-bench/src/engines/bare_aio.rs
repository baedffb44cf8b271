//! `bare`: a loop of `io_submit` and `io_getevents` on one thread, without an eventfd. This is the
//! minimum for any use of kernel AIO.
//!
//! `bare-epoll`: the same loop, but it waits in epoll, as every tokio program does. Each completion
//! signals an eventfd; the first one wakes the loop, which then reaps all completions without
//! waiting. This is the minimum for a program that waits in epoll. A program can only do better by
//! not waiting, when requests complete before `io_submit` returns.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::bare_loop::{self, KernelInterface};
use super::epoll_eventfd::EpollEventfd;
use super::{open_file, setup_error};
use crate::{
    Direction, Engine, PageBuffer, Prepared, Result, Run, RunStats, Transfer, Workload, task_runner,
};

pub(super) struct BareAio(pub(super) WaitMode);

/// How the loop waits for completions.
#[derive(Clone, Copy)]
pub(super) enum WaitMode {
    /// In `io_getevents`, until the wanted number has completed.
    Getevents,
    /// In `epoll_wait`, until the eventfd is signalled.
    Epoll,
}

impl Engine for BareAio {
    fn name(&self) -> &str {
        match self.0 {
            WaitMode::Getevents => "bare",
            WaitMode::Epoll => "bare-epoll",
        }
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        let file = open_file(workload, false)?;
        let buffers = (0..workload.depth).map(|_| PageBuffer::new(workload.block()));
        let epoll = match self.0 {
            WaitMode::Getevents => None,
            WaitMode::Epoll => {
                Some(EpollEventfd::new().map_err(|error| setup_error("epoll", &error))?)
            }
        };
        Ok(Box::new(PreparedBareAio {
            context: Context::new(workload.depth)?,
            epoll,
            iocbs: vec![Iocb::default(); workload.depth],
            queue: Vec::with_capacity(workload.depth),
            events: vec![Event::default(); workload.depth],
            buffers: buffers.collect(),
            file,
            workload: workload.clone(),
        }))
    }
}

struct PreparedBareAio {
    /// Declared before `buffers`, so that it is destroyed before they are freed.
    context: Context,
    /// `Some` with [`WaitMode::Epoll`].
    epoll: Option<EpollEventfd>,
    /// One iocb, and one buffer, for each transfer in flight.
    iocbs: Vec<Iocb>,
    /// Pointers to the `iocbs` to submit next.
    queue: Vec<*mut Iocb>,
    events: Vec<Event>,
    buffers: Vec<PageBuffer>,
    file: File,
    workload: Workload,
}

impl Prepared for PreparedBareAio {
    fn run(&mut self, run: &Run) -> Result<RunStats> {
        bare_loop::run_loop(self, run)
    }
}

impl KernelInterface for PreparedBareAio {
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
        let (flags, eventfd) = match &self.epoll {
            Some(epoll) => (IOCB_FLAG_RESFD, epoll.eventfd()),
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

    fn completed_slot(&self, i: usize) -> Result<usize> {
        let Event { data, res, .. } = self.events[i];
        let transferred = match res {
            0.. => Ok(res as usize),
            _ => Err(io::Error::from_raw_os_error(-res as i32).into()),
        };
        task_runner::check_len(transferred, self.workload.block())?;
        Ok(data as usize)
    }
}

impl PreparedBareAio {
    /// Submits the whole queue.
    fn submit(&mut self) -> Result<()> {
        let mut sent = 0;
        while sent < self.queue.len() {
            let rest = &mut self.queue[sent..];
            // SAFETY: the pointers are to `iocbs`, whose buffers live until the context is destroyed.
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

    /// Waits for completions. Returns the number of entries written to `events`, at least one. `wanted` is
    /// the number that the caller needs: `io_getevents` can wait for all of them, epoll wakes on the first.
    fn reap(&mut self, wanted: usize) -> Result<usize> {
        let Some(epoll) = &self.epoll else {
            return self.context.events(wanted, &mut self.events);
        };
        loop {
            epoll
                .wait()
                .map_err(|error| format!("epoll_wait: {error}"))?;
            // 0 if an earlier reap has already taken the completion of this signal.
            match self.context.events(0, &mut self.events)? {
                0 => {}
                reaped => return Ok(reaped),
            }
        }
    }
}

/// An AIO context: the id that `io_setup` returned.
struct Context(libc::c_ulong);

impl Context {
    fn new(depth: usize) -> Result<Context> {
        let mut id = 0;
        // SAFETY: `id` is valid for writes.
        let code = unsafe { libc::syscall(libc::SYS_io_setup, depth, &raw mut id) };
        match code {
            0 => Ok(Context(id)),
            _ => Err(setup_error("io_setup", &io::Error::last_os_error())),
        }
    }

    /// Waits for at least `min` completions. Returns the number of entries written to `events`.
    fn events(&self, min: usize, events: &mut [Event]) -> Result<usize> {
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

impl Drop for Context {
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
struct Event {
    data: u64,
    iocb: u64,
    res: i64,
    res2: i64,
}
