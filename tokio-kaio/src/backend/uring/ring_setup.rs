//! Sets up a ring, and finds out whether this kernel has all that the backend needs.

use std::io;
use std::os::fd::RawFd;

use io_uring::types::{CancelBuilder, Timespec};
use io_uring::{IoUring, Probe, opcode};

use crate::backend::{FileCalls, MAX_BATCH};

/// Entries of the largest completion queue of Linux.
const MOST_COMPLETIONS: u32 = 1 << 16;

/// Sets up a ring whose completion queue has room for `nr` entries and one more, or for 65,536. Completions
/// signal `eventfd`.
///
/// `IORING_SETUP_COOP_TASKRUN` spares the submitting thread an interrupt for each completion. The kernel posts
/// the completion, and signals, when that thread next enters the kernel, or at the next tick of the
/// scheduler. Measured on a disk, it saves 5 to 25 % of the CPU of a read on a current-thread runtime.
///
/// # Errors
///
/// The errno of `io_uring_setup(2)` or `io_uring_register(2)`. A kernel that lacks something has the kind
/// [`Unsupported`](io::ErrorKind::Unsupported), and the text says what it lacks.
pub(super) fn set_up(nr: u32, eventfd: Option<RawFd>) -> io::Result<IoUring> {
    let completions = nr
        .saturating_add(1)
        .min(MOST_COMPLETIONS)
        .next_power_of_two();
    let submissions = completions.min(MAX_BATCH as u32);
    let ring = IoUring::builder()
        .setup_cqsize(completions)
        .setup_submit_all() // an entry that fails does not stop those behind it
        .setup_coop_taskrun()
        .dontfork()
        .build(submissions)
        .map_err(explain_setup)?;
    check_features(&ring)?;
    if let Some(eventfd) = eventfd {
        ring.submitter().register_eventfd(eventfd)?;
    }
    Ok(ring)
}

fn explain_setup(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        // The sizes are within the limits, so a flag is not known.
        Some(libc::EINVAL) => {
            lacks("IORING_SETUP_SUBMIT_ALL and IORING_SETUP_COOP_TASKRUN (Linux 5.19)")
        }
        _ => error,
    }
}

fn check_features(ring: &IoUring) -> io::Result<()> {
    let params = ring.params();
    if !params.is_feature_nodrop() || !params.is_feature_submit_stable() {
        return Err(lacks(
            "IORING_FEAT_NODROP and IORING_FEAT_SUBMIT_STABLE (Linux 5.5)",
        ));
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let needed = [
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::ReadFixed::CODE,
        opcode::WriteFixed::CODE,
        opcode::Readv::CODE,
        opcode::Writev::CODE,
        opcode::Fsync::CODE,
        opcode::PollAdd::CODE,
    ];
    if !needed.iter().all(|code| probe.is_supported(*code)) {
        return Err(lacks("an operation of files (Linux 5.6)"));
    }
    // No operation is in flight that could be cancelled.
    match cancel(ring, 0) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            Err(lacks("IORING_REGISTER_SYNC_CANCEL (Linux 6.0)"))
        }
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

/// The file calls of this kernel.
pub(super) fn file_calls(ring: &IoUring) -> FileCalls {
    let mut probe = Probe::new();
    if ring.submitter().register_probe(&mut probe).is_err() {
        return FileCalls::default();
    }
    FileCalls {
        allocate: probe.is_supported(opcode::Fallocate::CODE)
            && probe.is_supported(opcode::SyncFileRange::CODE),
        truncate: probe.is_supported(opcode::Ftruncate::CODE), // Linux 6.9
        open: probe.is_supported(opcode::OpenAt::CODE),
    }
}

/// Asks the kernel to cancel the request with this `user_data`. Does not wait. Returns whether it was found.
pub(super) fn cancel(ring: &IoUring, user_data: u64) -> io::Result<bool> {
    let at_once = Timespec::new(); // 0
    let by_user_data = CancelBuilder::user_data(user_data);
    match ring
        .submitter()
        .register_sync_cancel(Some(at_once), by_user_data)
    {
        Ok(()) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT) => Ok(false),
            // A worker of the kernel performs it, and has been asked to stop.
            Some(libc::ETIME | libc::EALREADY | libc::EINTR) => Ok(true),
            _ => Err(error),
        },
    }
}

fn lacks(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!("the kernel does not have {what}"),
    )
}
