//! Other crates that read and write a disk, as engines of [`kaio_bench`].
//!
//! Each engine uses its crate in the way that costs that crate the least, out of what its
//! documentation offers: the module of each says what was chosen. Tasks, waves and checks are those
//! of kaio-bench's own engines: see [`kaio_bench::on_tokio`].
//!
//! No crate but tokio-kaio gives a write flags of its own. To make writes durable, the others have
//! `O_DSYNC` on the descriptor, which is the same to the kernel.

mod buffer;
mod compio;
mod glommio;
mod linux_aio_tokio;
mod tokio_uring;
mod turns;

use std::error::Error;
use std::io::{self, ErrorKind};

use kaio_bench::{Engine, Flavour, Unavailable, Workload};

use crate::compio::Compio;
use crate::glommio::Glommio;
use crate::linux_aio_tokio::{LinuxAioTokio, LinuxAioTokioLocal};
use crate::tokio_uring::{TokioUring, TokioUringFixed};

/// All engines, in the order of the tables.
pub fn engines() -> Vec<Box<dyn Engine>> {
    vec![
        Box::new(LinuxAioTokio::new(Flavour::MultiThread)),
        Box::new(LinuxAioTokio::new(Flavour::CurrentThread)),
        Box::new(LinuxAioTokioLocal),
        Box::new(TokioUring),
        Box::new(TokioUringFixed),
        Box::new(Compio),
        Box::new(Glommio),
    ]
}

/// How files are opened by crates that open them themselves, as [`kaio_bench::engines::open_file`]
/// does for the rest.
fn open_flags(workload: &Workload) -> i32 {
    match workload.pattern.durable() {
        true => libc::O_DIRECT | libc::O_DSYNC,
        false => libc::O_DIRECT,
    }
}

/// An error of `what`, which sets up an io_uring: [`Unavailable`] if the kernel lacks that, or
/// something forbids it.
fn setup_error(what: &str, error: &io::Error) -> Box<dyn Error + Send + Sync> {
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::Unsupported => Unavailable(format!(
            "{what}: io_uring is forbidden here, or missing: {error}"
        ))
        .into(),
        _ => format!("{what}: {error}").into(),
    }
}
