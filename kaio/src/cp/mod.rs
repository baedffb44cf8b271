//! `kaio cp`.

use crate::failure::{Failure, Outcome};

/// Copy files past the page cache, many blocks at a time
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> Outcome {
    Err(Failure::Usage("not there yet".into()))
}
