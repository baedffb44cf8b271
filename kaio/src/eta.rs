//! [`write_eta`]: the remaining time of a progress bar.

use std::fmt::Write;

use indicatif::{HumanDuration, ProgressState};

/// Formats the key `left` of a progress style. Writes a dash until the first step is done, because
/// indicatif then estimates zero.
pub(crate) fn write_eta(state: &ProgressState, text: &mut dyn Write) {
    // If this fails, the bar is not drawn either.
    let _ = match state.pos() {
        0 => text.write_str("–"),
        _ => write!(text, "{:#}", HumanDuration(state.eta())),
    };
}
