//! `kaio bench`.

use crate::failure::{Failure, Outcome};

/// Measure tokio-kaio against other ways to read and write a disk
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> Outcome {
    Err(Failure::Usage("not there yet".into()))
}
