//! [`LineReader`]: reads lines on a thread.

use std::io::{self, BufRead, BufReader, Read};
use std::thread;

use tokio::sync::mpsc;

use crate::failure::Failure;

/// Lines that a thread may read ahead.
const LINES_AHEAD: usize = 64;

/// Reads lines on a thread of its own, so that a signal ends the program also while it waits for input. A
/// job of the blocking pool would keep the runtime from ending.
#[derive(Debug)]
pub(crate) struct LineReader {
    lines: mpsc::Receiver<io::Result<String>>,
    /// What is read, for errors.
    source: String,
}

impl LineReader {
    /// Starts the thread, which opens the text with `open` and reads it. It ends with the text, or with its
    /// next line after this reader was dropped.
    ///
    /// # Errors
    ///
    /// The thread can't be started.
    pub(crate) fn start<R: Read>(
        open: impl FnOnce() -> io::Result<R> + Send + 'static,
        source: &str,
    ) -> Result<LineReader, Failure> {
        let (sender, lines) = mpsc::channel(LINES_AHEAD);
        let thread = thread::Builder::new().name("kaio-sql-input".into());
        let started = thread.spawn(move || match open() {
            Ok(text) => read_lines(BufReader::new(text), &sender),
            Err(error) => drop(sender.blocking_send(Err(error))),
        });
        let source = source.to_owned();
        match started {
            Ok(_) => Ok(LineReader { lines, source }),
            Err(error) => Err(Failure::Statement(format!(
                "can't start a thread to read {source}: {error}; raise the limit on processes (ulimit -u)"
            ))),
        }
    }

    /// The next line, with its line feed. `None`: the text ends.
    ///
    /// # Errors
    ///
    /// The text can't be read, or is not UTF-8.
    ///
    /// # Cancel safety
    ///
    /// No line is lost.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, Failure> {
        self.lines.recv().await.transpose().map_err(|error| {
            let source = &self.source;
            Failure::Statement(format!("can't read {source}: {error}"))
        })
    }
}

fn read_lines(mut text: impl BufRead, lines: &mpsc::Sender<io::Result<String>>) {
    loop {
        let mut line = String::new();
        let result = match text.read_line(&mut line) {
            Ok(0) => return,
            Ok(_) => Ok(line),
            Err(error) => Err(error),
        };
        let is_last = result.is_err();
        if lines.blocking_send(result).is_err() || is_last {
            return;
        }
    }
}
