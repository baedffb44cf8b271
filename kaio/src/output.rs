//! Data on standard output, talk on standard error.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use serde::{Serialize, Serializer};

/// Writes `text` to standard output. Where nobody reads that any more, as behind `| head`, it goes
/// nowhere, which is no error.
///
/// # Errors
///
/// Whatever else keeps it from being written, such as a full disk.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("can't write to standard output: {error}"),
        )),
        Ok(()) => Ok(()),
    }
}

/// Writes `value` to standard output as JSON, over several lines.
///
/// # Errors
///
/// As [`print`].
pub(crate) fn print_json(value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    print(&text)
}

/// Writes a line to standard error. Where that goes nowhere, nothing else suffers from it: `eprintln!`
/// would panic.
pub(crate) fn tell(line: impl Display) {
    // In one piece, so that others' lines are not in between.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// For a path in JSON, which has to be UTF-8.
pub(crate) fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}
