//! [`LineEditing`]: completes words, and decides where an input ends.

use std::collections::BTreeSet;

use datafusion::execution::FunctionRegistry;
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::keywords::ALL_KEYWORDS;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Helper};

use crate::backslash_command;
use crate::known_names::KnownNames;
use crate::sql_session::dialect_of;
use crate::statement_splitter::StatementSplitter;

/// Completes the words of a line, and says whether the line is complete.
pub(crate) struct LineEditing {
    context: SessionContext,
    names: KnownNames,
    paths: FilenameCompleter,
}

impl LineEditing {
    /// Completes with the tables and functions of a session.
    pub(crate) fn new(context: SessionContext, names: KnownNames) -> LineEditing {
        LineEditing {
            context,
            names,
            paths: FilenameCompleter::new(),
        }
    }

    /// The words that start with `prefix`, in any case: first names of tables and columns, then functions
    /// and keywords in the case of the prefix. Only names, if the prefix is empty.
    fn words(&self, prefix: &str) -> Vec<String> {
        let lower = prefix.to_lowercase();
        let starts = |word: &str| word.to_lowercase().starts_with(&lower);
        let names = self.names.read();
        let all = names
            .tables
            .iter()
            .chain(&names.columns)
            .chain(&names.columns_read);
        let names: BTreeSet<&String> = all
            .filter(|name| starts(name.trim_start_matches('"')))
            .collect();
        let mut words: Vec<String> = names.into_iter().cloned().collect();
        if prefix.is_empty() {
            return words;
        }
        let is_upper = prefix.chars().any(char::is_uppercase);
        let mut others: BTreeSet<String> =
            ALL_KEYWORDS.iter().map(|it| it.to_lowercase()).collect();
        let state = self.context.state();
        others.extend(state.udfs());
        others.extend(state.udafs());
        others.extend(state.udwfs());
        others.extend(state.table_functions().keys().cloned());
        words.extend(
            others
                .into_iter()
                .filter(|word| starts(word))
                .map(|word| match is_upper {
                    true => word.to_uppercase(),
                    false => word,
                }),
        );
        words
    }
}

/// Whether a text ends inside of a string, where names of files are.
fn ends_in_string(text: &str) -> bool {
    text.matches('\'').count() % 2 == 1
}

impl Completer for LineEditing {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let text = &line[..pos];
        if ends_in_string(text) || text.starts_with("\\i ") {
            return self.paths.complete_path(line, pos);
        }
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
        let start = text.len()
            - text
                .chars()
                .rev()
                .take_while(|c| is_word(*c))
                .map(char::len_utf8)
                .sum::<usize>();
        let words = match text.strip_prefix('\\') {
            Some(command) if !command.contains(' ') => {
                let all = backslash_command::NAMES.iter();
                let matching = all.filter(|name| name.starts_with(command));
                let pairs = matching.map(|name| pair((*name).to_owned())).collect();
                return Ok((1, pairs));
            }
            _ => self.words(&text[start..]),
        };
        Ok((start, words.into_iter().map(pair).collect()))
    }
}

fn pair(word: String) -> Pair {
    Pair {
        display: word.clone(),
        replacement: word,
    }
}

impl Validator for LineEditing {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let input = context.input();
        let dialect = dialect_of(&self.context);
        let mut splitter = StatementSplitter::default();
        for line in input.lines() {
            splitter.push_line(line, dialect.as_ref());
        }
        let is_complete =
            splitter.is_empty(dialect.as_ref()) || backslash_command::is_plain_word(input);
        Ok(match is_complete {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

impl Hinter for LineEditing {
    type Hint = String;
}

impl Highlighter for LineEditing {}

impl Helper for LineEditing {}

#[cfg(test)]
mod tests {
    use rustyline::history::DefaultHistory;

    use super::*;

    #[tokio::test]
    async fn names_functions_and_keywords_are_completed() {
        let context = SessionContext::new();
        let table = "create table orders (order_key int, \"Total\" int)";
        context.sql(table).await.unwrap().collect().await.unwrap();
        let names = KnownNames::default();
        names.refresh(&context).await;
        let helper = LineEditing::new(context, names);
        let complete = |line: &str| {
            let history = DefaultHistory::new();
            let (start, pairs) = helper
                .complete(line, line.len(), &Context::new(&history))
                .unwrap();
            let words = pairs.into_iter().map(|pair| pair.replacement);
            (start, words.collect::<Vec<_>>())
        };
        // Further keywords may follow.
        let first = |line: &str, count: usize| complete(line).1[..count].join(" ");
        assert_eq!(first("select ord", 3), "order_key orders order");
        assert_eq!(first("select tot", 1), "\"Total\"");
        assert_eq!(complete("SELEC").0, 0);
        assert_eq!(first("SELEC", 1), "SELECT");
        assert_eq!(first("select regr_slo", 1), "regr_slope");
        assert_eq!(complete("select ").1, ["\"Total\"", "order_key", "orders"]);
        assert_eq!(complete("\\tim"), (1, vec!["timing".to_owned()]));
        let (start, paths) = complete("select * from './Cargo.to");
        assert_eq!((start, paths), (15, vec!["./Cargo.toml".to_owned()]));
    }
}
