//! The engines of this crate.

mod bare_aio;
mod bare_loop;
mod bare_tokio;
mod bare_uring;
mod epoll_eventfd;
mod kaio;
mod kernel_aio;
mod runtime_flavor;
mod spawn_blocking;
mod tokio_fs;
mod workload_file;

use std::error::Error;
use std::io::{self, ErrorKind};

use self::bare_aio::{BareAio, WaitMode};
use crate::{Engine, Unavailable};

pub(crate) use kaio::{context_error, open as open_kaio};
pub use runtime_flavor::RuntimeFlavor;
pub use workload_file::open_file;

/// Returns every engine of this crate, the baseline first.
pub fn all() -> Vec<Box<dyn Engine>> {
    vec![
        Box::new(BareAio(WaitMode::Getevents)),
        Box::new(BareAio(WaitMode::Epoll)),
        Box::new(bare_uring::BareUring),
        Box::new(bare_tokio::BareTokio::new(RuntimeFlavor::MultiThread)),
        Box::new(bare_tokio::BareTokio::new(RuntimeFlavor::CurrentThread)),
        Box::new(kaio::Kaio::new(RuntimeFlavor::MultiThread)),
        Box::new(kaio::Kaio::with_max_batch(RuntimeFlavor::MultiThread, 16)),
        Box::new(kaio::Kaio::sharded()),
        Box::new(kaio::Kaio::new(RuntimeFlavor::CurrentThread)),
        Box::new(kaio::Kaio::with_max_batch(RuntimeFlavor::CurrentThread, 16)),
        Box::new(kaio::Kaio::own_thread()),
        Box::new(kaio::Kaio::groups()),
        Box::new(kaio::KaioLocal),
        Box::new(kaio::Kaio::on_uring(RuntimeFlavor::MultiThread)),
        Box::new(kaio::Kaio::on_uring(RuntimeFlavor::CurrentThread)),
        Box::new(kaio::Kaio::on_uring_registered(
            RuntimeFlavor::CurrentThread,
        )),
        Box::new(spawn_blocking::SpawnBlocking::new(
            RuntimeFlavor::MultiThread,
        )),
        Box::new(spawn_blocking::SpawnBlocking::new(
            RuntimeFlavor::CurrentThread,
        )),
        Box::new(tokio_fs::TokioFs::default()),
    ]
}

/// Converts an error of system call `call`, which sets up a kernel interface: [`Unavailable`] if the kernel
/// does not support it, or forbids it.
fn setup_error(call: &str, error: &io::Error) -> Box<dyn Error + Send + Sync> {
    match error.raw_os_error() {
        _ if is_forbidden(error) => Unavailable(format!(
            "{call} is forbidden or not supported here: {error}"
        ))
        .into(),
        Some(libc::EAGAIN) if call == "io_setup" => {
            let limit = "the AIO contexts of all processes have reached fs.aio-max-nr: raise it (sysctl \
                         fs.aio-max-nr=...), or use smaller depths";
            format!("{call}: {error}: {limit}").into()
        }
        _ => format!("{call}: {error}").into(),
    }
}

/// Whether the kernel does not support the interface, or forbids it.
fn is_forbidden(error: &io::Error) -> bool {
    let kind = error.kind();
    matches!(kind, ErrorKind::PermissionDenied | ErrorKind::Unsupported)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forbidden_or_unsupported_interface_is_unavailable() {
        let error_of = |errno| setup_error("io_uring_setup", &io::Error::from_raw_os_error(errno));
        for errno in [libc::EPERM, libc::ENOSYS] {
            assert!(error_of(errno).is::<Unavailable>());
            let message = error_of(errno).to_string();
            assert!(message.starts_with("io_uring_setup is forbidden or not supported"));
        }
        assert!(!error_of(libc::ENOMEM).is::<Unavailable>());
    }

    #[test]
    fn a_reached_limit_is_named() {
        let error_of =
            |call| setup_error(call, &io::Error::from_raw_os_error(libc::EAGAIN)).to_string();
        assert!(error_of("io_setup").contains("fs.aio-max-nr"));
        assert!(!error_of("io_uring_setup").contains("fs.aio-max-nr"));
    }
}
