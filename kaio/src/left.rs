//! [`left`]: how long a progress bar says that it still takes.

use std::fmt::Write;

use indicatif::{HumanDuration, ProgressState};

/// For the key `left` of a style. Nothing is known at the start, where indicatif's `eta` is none.
pub(crate) fn left(state: &ProgressState, text: &mut dyn Write) {
    // Where it can't be written, there is no bar either.
    let _ = match state.pos() {
        0 => text.write_str("–"),
        _ => write!(text, "{:#}", HumanDuration(state.eta())),
    };
}
