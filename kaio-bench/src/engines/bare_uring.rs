//! `bare-uring`: a plain loop over io_uring on one thread, without polling, registered buffers or
//! registered files.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, types};

use super::bare_loop::{self, Interface};
use super::{open_file, setup_error};
use crate::{
    Buffer, Direction, Engine, Prepared, Result, Run, Tally, Transfer, Workload, on_tokio,
};

pub(super) struct BareUring;

impl Engine for BareUring {
    fn name(&self) -> &str {
        "bare-uring"
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        let ring = IoUring::new(workload.depth as u32)
            .map_err(|error| setup_error("io_uring_setup", &error))?;
        let buffers = (0..workload.depth).map(|_| Buffer::new(workload.block()));
        Ok(Box::new(PreparedUring {
            ring,
            flying: 0,
            landed: Vec::with_capacity(workload.depth),
            buffers: buffers.collect(),
            file: open_file(workload, false)?,
            workload: workload.clone(),
        }))
    }
}

struct PreparedUring {
    ring: IoUring,
    /// Transfers that are queued or with the kernel.
    flying: usize,
    /// What has come back: slots and results.
    landed: Vec<(usize, i32)>,
    buffers: Vec<Buffer>,
    file: File,
    workload: Workload,
}

impl Prepared for PreparedUring {
    fn run(&mut self, run: &Run) -> Result<Tally> {
        bare_loop::drive(self, run)
    }
}

impl Interface for PreparedUring {
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
        // SAFETY: file and buffer live until `drop` has seen that the kernel is done with them.
        unsafe { self.ring.submission().push(&entry) }?;
        self.flying += 1;
        Ok(())
    }

    /// Fills `landed`.
    fn wait(&mut self, wanted: usize) -> Result<usize> {
        self.landed.clear();
        match self.ring.submit_and_wait(wanted) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("io_uring_enter: {error}").into()),
        }
        for event in self.ring.completion() {
            self.landed
                .push((event.user_data() as usize, event.result()));
            self.flying -= 1;
        }
        Ok(self.landed.len())
    }

    fn landed(&self, i: usize) -> Result<usize> {
        let (slot, moved) = self.landed[i];
        let moved = match moved {
            0.. => Ok(moved as usize),
            _ => Err(io::Error::from_raw_os_error(-moved).into()),
        };
        on_tokio::check(moved, self.workload.block())?;
        Ok(slot)
    }
}

impl Drop for PreparedUring {
    fn drop(&mut self) {
        while self.flying > 0 {
            if self.wait(self.flying).is_err() {
                // The kernel may still write to them.
                std::mem::take(&mut self.buffers)
                    .into_iter()
                    .for_each(std::mem::forget);
                return;
            }
        }
    }
}
