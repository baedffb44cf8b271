//! [`StatementSplitter`]: splits lines of text into statements.

use std::mem;

use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

/// A statement or a command, and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The text, without the semicolon of a statement. A command starts with a backslash.
    pub(crate) text: String,
    /// Number of the line where it begins, from 1.
    pub(crate) line: usize,
}

/// Splits lines of text into statements, which end with a semicolon, and commands, which are lines that
/// start with a backslash. Strings, quoted names and comments may contain semicolons.
#[derive(Debug, Default)]
pub(crate) struct StatementSplitter {
    /// The statement that is not complete yet.
    pending: String,
    /// Number of lines before `pending`.
    lines_before: usize,
    /// Number of lines in `pending`.
    pending_lines: usize,
}

impl StatementSplitter {
    /// Adds a line, with or without its line feed. Returns what is complete.
    pub(crate) fn push_line(&mut self, line: &str, dialect: &dyn Dialect) -> Vec<Entry> {
        if line.trim_start().starts_with('\\') && self.is_empty(dialect) {
            self.lines_before += mem::take(&mut self.pending_lines) + 1;
            self.pending.clear();
            let text = line.trim().to_owned();
            let line = self.lines_before;
            return vec![Entry { text, line }];
        }
        self.pending
            .push_str(line.strip_suffix('\n').unwrap_or(line));
        self.pending.push('\n');
        self.pending_lines += 1;
        match line.contains(';') {
            true => self.split(dialect),
            false => Vec::new(),
        }
    }

    /// Whether there is no statement that is not complete.
    pub(crate) fn is_empty(&self, dialect: &dyn Dialect) -> bool {
        let (tokens, is_whole) = tokens(&self.pending, dialect);
        is_whole && tokens.iter().all(is_blank)
    }

    /// Ends the text. Returns the last statement, if it has no semicolon.
    pub(crate) fn finish(&mut self, dialect: &dyn Dialect) -> Option<Entry> {
        let (tokens, is_whole) = tokens(&self.pending, dialect);
        let first = tokens.iter().find(|token| !is_blank(token));
        let (line, column) = match (first, tokens.last()) {
            (Some(first), _) => (first.span.start.line, first.span.start.column),
            (None, _) if is_whole => return None,
            // A string that is not terminated is no token.
            (None, Some(last)) => (last.span.end.line, last.span.end.column),
            (None, None) => (1, 1),
        };
        let start = Offsets::of(&self.pending).at(line, column);
        let text = self.pending[start..].trim_end().to_owned();
        let line = self.lines_before + usize::try_from(line).unwrap_or(1);
        self.lines_before += mem::take(&mut self.pending_lines);
        self.pending.clear();
        Some(Entry { text, line })
    }

    /// Takes the complete statements out of `pending`.
    fn split(&mut self, dialect: &dyn Dialect) -> Vec<Entry> {
        let (tokens, _) = tokens(&self.pending, dialect);
        let mut offsets = Offsets::of(&self.pending);
        let mut entries = Vec::new();
        let mut first = None;
        let mut end = 0;
        for token in &tokens {
            let start = token.span.start;
            match token.token {
                Token::SemiColon => {
                    let semicolon = offsets.at(start.line, start.column);
                    end = semicolon + 1;
                    if let Some((start, line)) = first.take() {
                        let text = self.pending[start..semicolon].trim_end().to_owned();
                        let line = self.lines_before + line;
                        entries.push(Entry { text, line });
                    }
                }
                _ if first.is_none() && !is_blank(token) => {
                    let line = usize::try_from(start.line).unwrap_or(1);
                    first = Some((offsets.at(start.line, start.column), line));
                }
                _ => (),
            }
        }
        let lines = self.pending[..end].matches('\n').count();
        self.lines_before += lines;
        self.pending_lines -= lines;
        self.pending.drain(..end);
        entries
    }
}

/// The tokens of a text, and whether it ends outside of strings and comments.
fn tokens(text: &str, dialect: &dyn Dialect) -> (Vec<TokenWithSpan>, bool) {
    let mut tokens = Vec::new();
    // The tokens before an error are kept.
    let result = Tokenizer::new(dialect, text).tokenize_with_location_into_buf(&mut tokens);
    (tokens, result.is_ok())
}

fn is_blank(token: &TokenWithSpan) -> bool {
    matches!(token.token, Token::Whitespace(_))
}

/// Finds the offsets of lines and columns, which have to ascend.
#[derive(Debug)]
struct Offsets<'a> {
    chars: std::str::CharIndices<'a>,
    line: u64,
    column: u64,
}

impl Offsets<'_> {
    fn of(text: &str) -> Offsets<'_> {
        Offsets {
            chars: text.char_indices(),
            line: 1,
            column: 1,
        }
    }

    /// The offset of a character by its line and column, both from 1.
    fn at(&mut self, line: u64, column: u64) -> usize {
        while (self.line, self.column) < (line, column) {
            match self.chars.next() {
                Some((_, '\n')) => (self.line, self.column) = (self.line + 1, 1),
                Some(_) => self.column += 1,
                None => break,
            }
        }
        self.chars.offset()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    use super::*;

    /// The entries of a text, and their lines.
    fn split(text: &str) -> Vec<(String, usize)> {
        let mut splitter = StatementSplitter::default();
        let mut entries = Vec::new();
        for line in text.split_inclusive('\n') {
            entries.extend(splitter.push_line(line, &GenericDialect));
        }
        entries.extend(splitter.finish(&GenericDialect));
        let parts = entries.into_iter().map(|entry| (entry.text, entry.line));
        parts.collect()
    }

    #[track_caller]
    fn assert_split(text: &str, expected: &[(&str, usize)]) {
        let split = split(text);
        let split: Vec<(&str, usize)> = split.iter().map(|(text, line)| (&**text, *line)).collect();
        assert_eq!(split, expected);
    }

    #[test]
    fn statements_end_with_semicolons_or_the_text() {
        assert_split("select 1", &[("select 1", 1)]);
        assert_split("select 1;", &[("select 1", 1)]);
        assert_split(
            "select 1; select\n 2 ;\n\nselect 3\n",
            &[("select 1", 1), ("select\n 2", 1), ("select 3", 4)],
        );
        assert_split("", &[]);
        assert_split(" ;; \n;-- nothing\n/* nothing */", &[]);
    }

    #[test]
    fn semicolons_in_strings_names_and_comments_end_nothing() {
        let text =
            "select ';', 'it''s;', \"a;b\" -- one; more\n/* a; /* b; */ */ from t; select ä;";
        assert_split(
            text,
            &[
                (
                    "select ';', 'it''s;', \"a;b\" -- one; more\n/* a; /* b; */ */ from t",
                    1,
                ),
                ("select ä", 2),
            ],
        );
        assert_split(
            "select 'a;\nb;'; select '中;', 2",
            &[("select 'a;\nb;'", 1), ("select '中;', 2", 2)],
        );
    }

    #[test]
    fn what_is_not_terminated_is_given_at_the_end() {
        assert_split(" 'open\n;", &[("'open\n;", 1)]);
        assert_split(
            "select 1; select 'open;\n",
            &[("select 1", 1), ("select 'open;", 1)],
        );
    }

    #[test]
    fn a_line_that_starts_with_a_backslash_is_a_command_except_in_a_statement() {
        assert_split(
            "-- first\n\\timing off\nselect 1;\n \\d t\nselect\n'\n\\x';",
            &[
                ("\\timing off", 2),
                ("select 1", 3),
                ("\\d t", 4),
                ("select\n'\n\\x'", 5),
            ],
        );
    }

    #[test]
    fn comments_before_a_statement_are_not_part_of_it() {
        assert_split(
            "-- a\n/* b */ select 1;\n-- c\nselect 2",
            &[("select 1", 2), ("select 2", 4)],
        );
    }
}
