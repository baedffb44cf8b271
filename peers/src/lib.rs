//! Other crates for file I/O, as engines of [`kaio_bench`].
//!
//! Each engine uses the cheapest way that the documentation of its crate offers; its module says which
//! one. Tasks, waves and checks are those of kaio-bench's own engines: see
//! [`kaio_bench::task_runner`].
//!
//! Only tokio-kaio has flags for single writes. For durable writes, the other engines open the file with
//! `O_DSYNC`, which is the same to the kernel.

mod compio;
mod glommio;
mod linux_aio_tokio;
mod local_tasks;
mod tokio_uring;
mod uring_buffer;

use std::error::Error;
use std::io::{self, ErrorKind};

use kaio_bench::{Engine, RuntimeFlavor, Unavailable, Workload};

use crate::compio::Compio;
use crate::glommio::Glommio;
use crate::linux_aio_tokio::{LinuxAioTokio, LinuxAioTokioLocal};
use crate::tokio_uring::{TokioUring, TokioUringFixed};

/// Returns all engines, in the order of the tables.
pub fn engines() -> Vec<Box<dyn Engine>> {
    vec![
        Box::new(LinuxAioTokio::new(RuntimeFlavor::MultiThread)),
        Box::new(LinuxAioTokio::new(RuntimeFlavor::CurrentThread)),
        Box::new(LinuxAioTokioLocal),
        Box::new(TokioUring),
        Box::new(TokioUringFixed),
        Box::new(Compio),
        Box::new(Glommio),
    ]
}

/// The open flags for crates that open files themselves: those of [`kaio_bench::engines::open_file`].
fn open_flags(workload: &Workload) -> i32 {
    match workload.pattern.durable() {
        true => libc::O_DIRECT | libc::O_DSYNC,
        false => libc::O_DIRECT,
    }
}

/// Converts an error of setting up io_uring in `engine`: [`Unavailable`] if the kernel does not
/// support it, or forbids it.
fn setup_error(engine: &str, error: &io::Error) -> Box<dyn Error + Send + Sync> {
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::Unsupported => Unavailable(format!(
            "{engine}: io_uring is forbidden or not supported here: {error}"
        ))
        .into(),
        _ => format!("{engine}: {error}").into(),
    }
}
