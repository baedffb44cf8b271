//! The engines that need nothing but tokio and the kernel.

mod bare;
mod bare_loop;
mod bare_uring;
mod blocking;
mod flavour;
mod kaio;
mod open;
mod signal;
mod tokio_fs;

use std::error::Error;
use std::io::{self, ErrorKind};

use self::bare::{Bare, Waiting};
use crate::{Engine, Unavailable};

pub use flavour::Flavour;
pub(crate) use kaio::open as open_kaio;
pub use open::open_file;

/// Every engine of this crate, the baseline first.
pub fn all() -> Vec<Box<dyn Engine>> {
    vec![
        Box::new(Bare(Waiting::Getevents)),
        Box::new(Bare(Waiting::Epoll)),
        Box::new(bare_uring::BareUring),
        Box::new(kaio::Kaio::new(Flavour::MultiThread)),
        Box::new(kaio::Kaio::sharded()),
        Box::new(kaio::Kaio::new(Flavour::CurrentThread)),
        Box::new(kaio::KaioLocal),
        Box::new(blocking::SpawnBlocking::new(Flavour::MultiThread)),
        Box::new(blocking::SpawnBlocking::new(Flavour::CurrentThread)),
        Box::new(tokio_fs::TokioFs::default()),
    ]
}

/// An error of system call `call`, which sets up an interface of the kernel's: [`Unavailable`] if
/// the kernel lacks that, or something forbids it.
fn setup_error(call: &str, error: &io::Error) -> Box<dyn Error + Send + Sync> {
    match error.raw_os_error() {
        _ if is_forbidden(error) => {
            Unavailable(format!("{call} is forbidden here, or missing: {error}")).into()
        }
        Some(libc::EAGAIN) if call == "io_setup" => {
            let limit = "the contexts of the machine reach fs.aio-max-nr: raise that (sysctl \
                         fs.aio-max-nr=...), or measure at smaller depths";
            format!("{call}: {error}: {limit}").into()
        }
        _ => format!("{call}: {error}").into(),
    }
}

/// Whether the kernel lacks what was to be set up, or something forbids it.
fn is_forbidden(error: &io::Error) -> bool {
    let kind = error.kind();
    matches!(kind, ErrorKind::PermissionDenied | ErrorKind::Unsupported)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forbidden_or_missing_is_the_machines_doing() {
        let of = |errno| setup_error("io_uring_setup", &io::Error::from_raw_os_error(errno));
        for errno in [libc::EPERM, libc::ENOSYS] {
            assert!(of(errno).is::<Unavailable>());
            let message = of(errno).to_string();
            assert!(message.starts_with("io_uring_setup is forbidden here"));
        }
        assert!(!of(libc::ENOMEM).is::<Unavailable>());
    }

    #[test]
    fn a_limit_that_is_reached_is_named() {
        let of = |call| setup_error(call, &io::Error::from_raw_os_error(libc::EAGAIN)).to_string();
        assert!(of("io_setup").contains("fs.aio-max-nr"));
        assert!(!of("io_uring_setup").contains("fs.aio-max-nr"));
    }
}
