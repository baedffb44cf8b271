//! `bare-uring`: a loop over io_uring on one thread, without polling, registered buffers or registered
//! files.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, types};

use super::bare_loop::{self, KernelInterface};
use super::{open_file, setup_error};
use crate::{
    Direction, Engine, PageBuffer, Prepared, Result, Run, RunStats, Transfer, Workload, task_runner,
};

pub(super) struct BareUring;

impl Engine for BareUring {
    fn name(&self) -> &str {
        "bare-uring"
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        let ring = IoUring::new(workload.depth as u32)
            .map_err(|error| setup_error("io_uring_setup", &error))?;
        let buffers = (0..workload.depth).map(|_| PageBuffer::new(workload.block()));
        Ok(Box::new(PreparedUring {
            ring,
            in_flight: 0,
            completed: Vec::with_capacity(workload.depth),
            buffers: buffers.collect(),
            file: open_file(workload, false)?,
            workload: workload.clone(),
        }))
    }
}

struct PreparedUring {
    ring: IoUring,
    /// Transfers that are queued or submitted.
    in_flight: usize,
    /// Slots and results of the last wait.
    completed: Vec<(usize, i32)>,
    buffers: Vec<PageBuffer>,
    file: File,
    workload: Workload,
}

impl Prepared for PreparedUring {
    fn run(&mut self, run: &Run) -> Result<RunStats> {
        bare_loop::run_loop(self, run)
    }
}

impl KernelInterface for PreparedUring {
    fn workload(&self) -> &Workload {
        &self.workload
    }

    fn enqueue(&mut self, slot: usize, transfer: Transfer) -> Result<()> {
        let fd = types::Fd(self.file.as_raw_fd());
        let buffer = &mut self.buffers[slot];
        let (start, len) = (buffer.as_mut_ptr(), buffer.len() as u32);
        let entry = match transfer.direction {
            Direction::Read => opcode::Read::new(fd, start, len)
                .offset(transfer.offset)
                .build(),
            Direction::Write => {
                let durable = self.workload.pattern.durable();
                opcode::Write::new(fd, start, len)
                    .offset(transfer.offset)
                    .rw_flags(if durable { libc::RWF_DSYNC } else { 0 })
                    .build()
            }
        };
        let entry = entry.user_data(slot as u64);
        // SAFETY: the file and the buffer live until `drop` has waited for the completion.
        unsafe { self.ring.submission().push(&entry) }?;
        self.in_flight += 1;
        Ok(())
    }

    fn wait(&mut self, wanted: usize) -> Result<usize> {
        self.completed.clear();
        match self.ring.submit_and_wait(wanted) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("io_uring_enter: {error}").into()),
        }
        for event in self.ring.completion() {
            self.completed
                .push((event.user_data() as usize, event.result()));
            self.in_flight -= 1;
        }
        Ok(self.completed.len())
    }

    fn completed_slot(&self, i: usize) -> Result<usize> {
        let (slot, res) = self.completed[i];
        let transferred = match res {
            0.. => Ok(res as usize),
            _ => Err(io::Error::from_raw_os_error(-res).into()),
        };
        task_runner::check_len(transferred, self.workload.block())?;
        Ok(slot)
    }
}

impl Drop for PreparedUring {
    fn drop(&mut self) {
        while self.in_flight > 0 {
            if self.wait(self.in_flight).is_err() {
                // The kernel may still write to the buffers, so they are leaked.
                std::mem::take(&mut self.buffers)
                    .into_iter()
                    .for_each(std::mem::forget);
                return;
            }
        }
    }
}
