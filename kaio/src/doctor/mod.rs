//! `kaio doctor`.

pub mod classes;

use crate::failure::{Failure, Outcome};

/// Say what kernel AIO does on this machine and its disks
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> Outcome {
    Err(Failure::Usage("not there yet".into()))
}
