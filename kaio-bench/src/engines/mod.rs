//! The engines that need nothing but tokio and the kernel.

mod bare;
mod bare_uring;
mod blocking;
mod flavour;
mod kaio;
mod open;
mod tokio_fs;

use std::io::ErrorKind;

use crate::{Engine, Unavailable};

pub use flavour::Flavour;
pub use open::open_direct;

/// Every engine of this crate, the baseline first.
pub fn all() -> Vec<Box<dyn Engine>> {
    vec![
        Box::new(bare::Bare),
        Box::new(bare_uring::BareUring),
        Box::new(kaio::Kaio::new(Flavour::MultiThread)),
        Box::new(kaio::Kaio::new(Flavour::CurrentThread)),
        Box::new(kaio::KaioLocal),
        Box::new(blocking::SpawnBlocking::new(Flavour::MultiThread)),
        Box::new(blocking::SpawnBlocking::new(Flavour::CurrentThread)),
        Box::new(tokio_fs::TokioFs),
    ]
}

/// An error of `what`: [`Unavailable`] if the machine has no such thing, or forbids it.
fn setup_error(what: &str, error: &std::io::Error) -> Box<dyn std::error::Error + Send + Sync> {
    let message = format!("{what}: {error}");
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::Unsupported => Unavailable(message).into(),
        _ => message.into(),
    }
}
