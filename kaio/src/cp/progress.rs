//! [`Talk`]: all that is said on standard error while it is copied.

use std::cell::Cell;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::left::left;
use crate::output::tell;

/// The progress bar, and what is said beside it.
#[derive(Debug)]
pub(super) struct Talk {
    /// Draws nothing where standard error is no terminal, or not at all.
    bar: ProgressBar,
    quiet: bool,
    warnings: Cell<u64>,
}

impl Talk {
    /// Of `bytes` that are to be moved: what is read back counts too.
    pub(super) fn new(bytes: u64, reads_back: bool, quiet: bool) -> Talk {
        let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::hidden());
        if reads_back {
            bar.set_message(", read back too");
        }
        if !quiet {
            bar.set_style(style());
            bar.set_draw_target(ProgressDrawTarget::stderr());
            // A disk that stands still is seen to.
            bar.enable_steady_tick(Duration::from_millis(250));
        }
        Talk {
            bar,
            quiet,
            warnings: Cell::new(0),
        }
    }

    /// So many bytes more are done.
    pub(super) fn moved(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Good to know.
    pub(super) fn note(&self, text: &str) {
        if !self.quiet {
            self.say(&format!("note: {text}"));
        }
    }

    /// The copy may not be what was wanted.
    pub(super) fn warn(&self, text: &str) {
        self.warnings.set(self.warnings.get() + 1);
        self.say(&format!("warning: {text}"));
    }

    /// Something is not copied.
    pub(super) fn error(&self, text: &str) {
        self.say(&format!("error: {text}"));
    }

    /// How many warnings there were.
    pub(super) fn warnings(&self) -> u64 {
        self.warnings.get()
    }

    /// The bar goes.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// The last word.
    pub(super) fn summary(&self, text: &str) {
        if !self.quiet {
            self.say(text);
        }
    }

    /// Where nobody listens any more, that is no reason to end.
    fn say(&self, text: &str) {
        self.bar.suspend(|| tell(text));
    }
}

/// Without colours.
fn style() -> ProgressStyle {
    let template = "{bar:24} {percent:>3}%  {binary_bytes} of {binary_total_bytes}{msg}  \
                    {binary_bytes_per_sec}  {left} left";
    let style = ProgressStyle::with_template(template);
    style
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("left", left)
        .progress_chars("=> ")
}
