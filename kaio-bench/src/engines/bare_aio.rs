//! `bare`: a loop of `io_submit` and `io_getevents` on one thread, without an eventfd. This is the
//! minimum for any use of kernel AIO.
//!
//! `bare-epoll`: the same loop, but it waits in epoll, as every tokio program does. Each completion
//! signals an eventfd; the first one wakes the loop, which then reaps all completions without
//! waiting. This is the minimum for a program that waits in epoll. A program can only do better by
//! not waiting, when requests complete before `io_submit` returns.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;

use super::bare_loop::{self, KernelInterface};
use super::epoll_eventfd::EpollEventfd;
use super::kernel_aio::{Event, Iocb, IocbTarget, KernelContext, transferred};
use super::{open_file, setup_error};
use crate::{Engine, PageBuffer, Prepared, Result, Run, RunStats, Transfer, Workload, task_runner};

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
            context: KernelContext::new(workload.depth)?,
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
    context: KernelContext,
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
        let target = IocbTarget {
            fd: self.file.as_raw_fd(),
            buffer: self.buffers[slot].as_mut_ptr() as u64,
            eventfd: self.epoll.as_ref().map(EpollEventfd::eventfd),
        };
        let iocb = &mut self.iocbs[slot];
        *iocb = Iocb::new(&self.workload, slot, transfer, &target);
        self.queue.push(iocb);
        Ok(())
    }

    fn wait(&mut self, wanted: usize) -> Result<usize> {
        self.submit()?;
        self.reap(wanted)
    }

    fn completed_slot(&self, i: usize) -> Result<usize> {
        let Event { data, res, .. } = self.events[i];
        task_runner::check_len(transferred(res), self.workload.block())?;
        Ok(data as usize)
    }
}

impl PreparedBareAio {
    /// Submits the whole queue.
    fn submit(&mut self) -> Result<()> {
        // SAFETY: the pointers are to `iocbs`, whose buffers live until the context is destroyed.
        unsafe { self.context.submit(&mut self.queue) }?;
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
