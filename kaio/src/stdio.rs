//! Writes data to standard output and messages to standard error.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::termios::tcgetwinsize;
use serde::{Serialize, Serializer};
use textwrap::{Options, WordSplitter};

/// Columns of text that does not go to a terminal, and of a terminal that does not report its width.
const DEFAULT_WIDTH: usize = 100;

/// Narrower terminals get lines of this width.
const MIN_WIDTH: usize = 40;

/// Writes `text` to standard output. A reader that has gone, as in `| head`, is not an error.
///
/// # Errors
///
/// Any other error of the write, such as a full disk.
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

/// Writes `text` to standard output for a person to read: control characters are escaped.
///
/// # Errors
///
/// Those of [`print()`].
pub(crate) fn print_text(text: &str) -> io::Result<()> {
    print(&escape_control_chars(text))
}

/// Writes `value` to standard output as indented JSON.
///
/// # Errors
///
/// Those of [`print()`].
pub(crate) fn print_json(value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    print(&text)
}

/// Writes a line to standard error. Control characters are escaped, and on a terminal the line is
/// wrapped. Errors are ignored; `eprintln!` would panic.
pub(crate) fn eprint_line(line: impl Display) {
    let line = line.to_string();
    let line = escape_control_chars(&line);
    let line = match terminal_width(io::stderr()) {
        Some(width) => Cow::Owned(wrap(&line, width, "", "")),
        None => line,
    };
    // One write, so that lines of other processes don't come in between.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// The width of text on standard output, in columns.
pub(crate) fn stdout_width() -> usize {
    terminal_width(io::stdout()).unwrap_or(DEFAULT_WIDTH)
}

/// The columns of a terminal. `None`: it is not one.
fn terminal_width(stream: impl IsTerminal + AsFd) -> Option<usize> {
    if !stream.is_terminal() {
        return None;
    }
    let columns = tcgetwinsize(stream).map_or(0, |size| usize::from(size.ws_col));
    Some(match columns {
        0 => DEFAULT_WIDTH,
        columns => columns.max(MIN_WIDTH),
    })
}

/// Wraps `text` at spaces, so that lines have at most `width` columns. The first line starts with
/// `first`, further lines with `rest`. Words that are longer stay whole, because a path that is cut
/// can't be copied.
pub(crate) fn wrap(text: &str, width: usize, first: &str, rest: &str) -> String {
    let options = Options::new(width)
        .initial_indent(first)
        .subsequent_indent(rest)
        .word_splitter(WordSplitter::NoHyphenation)
        .break_words(false);
    textwrap::fill(text, options)
}

/// Replaces control characters, except line feeds, with escapes: anybody can choose the name of a file,
/// and a terminal obeys some control characters.
pub(crate) fn escape_control_chars(text: &str) -> Cow<'_, str> {
    let is_escaped = |c: char| c.is_control() && c != '\n';
    if !text.contains(is_escaped) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_escaped(c) {
            true => escaped.extend(c.escape_default()),
            false => escaped.push(c),
        }
    }
    escaped.into()
}

/// Serializes a path. JSON requires UTF-8, so other bytes are replaced.
pub(crate) fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert!(matches!(
            escape_control_chars("ä name,\nof 中\n"),
            Cow::Borrowed(_)
        ));
        let escaped = escape_control_chars("\x1b[2Jgone\r\t\u{9b}m\n");
        assert_eq!(escaped, "\\u{1b}[2Jgone\\r\\t\\u{9b}m\n");
    }

    #[test]
    fn text_is_wrapped_at_spaces_only_and_indented() {
        let text = "a device of non-rotating kind at /a/path/that-is-too-long here";
        let wrapped = wrap(text, 20, "on  ", "    ");
        let expected = "on  a device of\n    non-rotating\n    kind at\n    \
                        /a/path/that-is-too-long\n    here";
        assert_eq!(wrapped, expected);
        assert_eq!(wrap("two\n\nlines", 20, "", ""), "two\n\nlines");
    }
}
