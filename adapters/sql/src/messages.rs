//! Messages to standard error.

use std::fmt::Display;
use std::io::{self, Write};

/// Writes `message` and a line feed to standard error. Control characters are escaped, because a terminal
/// obeys them, and file names and data may have them. Errors are ignored.
pub(crate) fn print_message(message: impl Display) {
    let mut line = escape_control_chars(&message.to_string());
    line.push('\n');
    // One write, so that lines of other processes don't come in between.
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Replaces control characters, except line feeds and tabs, with escapes.
fn escape_control_chars(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        match c.is_control() && c != '\n' && c != '\t' {
            true => escaped.extend(c.escape_default()),
            false => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(escape_control_chars("ä\tb\nc"), "ä\tb\nc");
        assert_eq!(
            escape_control_chars("\x1b[2J\u{9b}m\r"),
            "\\u{1b}[2J\\u{9b}m\\r"
        );
    }
}
