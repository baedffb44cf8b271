//! Data on standard output, talk on standard error.

use std::borrow::Cow;
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

/// Writes `text`, for people, to standard output; control characters in it as escapes.
///
/// # Errors
///
/// As [`print`].
pub(crate) fn print_text(text: &str) -> io::Result<()> {
    print(&visible(text))
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

/// Writes a line to standard error, control characters in it as escapes. Where that goes nowhere,
/// nothing else suffers from it: `eprintln!` would panic.
pub(crate) fn tell(line: impl Display) {
    let line = format!("{line}\n");
    // In one piece, so that others' lines are not in between.
    let _ = io::stderr().write_all(visible(&line).as_bytes());
}

/// `text` with control characters, but for the ends of lines, as escapes: names of files are anybody's
/// to give, and a terminal takes some for orders.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    let is_hidden = |c: char| c.is_control() && c != '\n';
    if !text.contains(is_hidden) {
        return text.into();
    }
    let mut visible = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_hidden(c) {
            true => visible.extend(c.escape_default()),
            false => visible.push(c),
        }
    }
    visible.into()
}

/// For a path in JSON, which has to be UTF-8.
pub(crate) fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_seen_and_do_nothing() {
        assert!(matches!(visible("ä name,\nof 中\n"), Cow::Borrowed(_)));
        let visible = visible("\x1b[2Jgone\r\t\u{9b}m\n");
        assert_eq!(visible, "\\u{1b}[2Jgone\\r\\t\\u{9b}m\n");
    }
}
