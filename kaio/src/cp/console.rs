//! [`Console`]: the progress bar and the messages of a run, on standard error.

use std::cell::Cell;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::eta::write_eta;
use crate::stdio::eprint_line;
use crate::thread_limit::require_threads;

/// The progress bar and the messages of a run.
#[derive(Debug)]
pub(super) struct Console {
    /// Hidden unless standard error is a terminal.
    bar: ProgressBar,
    quiet: bool,
    warnings: Cell<u64>,
}

impl Console {
    /// Starts the progress bar. `bytes` is the total to read, including what `--verify` reads back, if it
    /// is known.
    pub(super) fn new(bytes: Option<u64>, reads_back: bool, quiet: bool) -> Console {
        let bar = ProgressBar::with_draw_target(bytes, ProgressDrawTarget::hidden());
        if reads_back {
            bar.set_message(", verifying");
        }
        if !quiet {
            bar.set_style(style(bytes.is_some()));
            bar.set_draw_target(ProgressDrawTarget::stderr());
            // Redraws the bar while the disk stalls. Starting the thread panics if it fails.
            if !bar.is_hidden() && require_threads(1).is_ok() {
                bar.enable_steady_tick(Duration::from_millis(250));
            }
        }
        Console {
            bar,
            quiet,
            warnings: Cell::new(0),
        }
    }

    /// Advances the progress bar.
    pub(super) fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Prints a note, unless `--quiet`.
    pub(super) fn note(&self, text: &str) {
        if !self.quiet {
            self.print(&format!("note: {text}"));
        }
    }

    /// Prints a warning: the copy may not be what the user expects.
    pub(super) fn warn(&self, text: &str) {
        self.warnings.set(self.warnings.get() + 1);
        self.print(&format!("warning: {text}"));
    }

    /// Prints an error: an entry was not copied.
    pub(super) fn error(&self, text: &str) {
        self.print(&format!("error: {text}"));
    }

    /// The number of warnings.
    pub(super) fn warnings(&self) -> u64 {
        self.warnings.get()
    }

    /// Removes the progress bar.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Prints the summary, unless `--quiet`.
    pub(super) fn summary(&self, text: &str) {
        if !self.quiet {
            self.print(text);
        }
    }

    /// Prints a line above the progress bar.
    fn print(&self, text: &str) {
        self.bar.suspend(|| eprint_line(text));
    }
}

/// The style of the bar, without colours.
fn style(has_total: bool) -> ProgressStyle {
    let template = match has_total {
        true => {
            "{bar:24} {percent:>3}%  {binary_bytes} of {binary_total_bytes}{msg}  \
             {binary_bytes_per_sec}  {left} left"
        }
        false => "{binary_bytes}{msg}  {binary_bytes_per_sec}",
    };
    let style = ProgressStyle::with_template(template);
    style
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("left", write_eta)
        .progress_chars("=> ")
}
