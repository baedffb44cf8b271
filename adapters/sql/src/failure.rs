//! [`Failure`]: why the program or a statement ends early, and the exit code.

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use datafusion::arrow::error::ArrowError;
use datafusion::error::DataFusionError;

use crate::messages::print_message;

/// Why the program or a statement ends early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line or a setting is invalid: exit code 2.
    Usage(String),
    /// A statement failed: exit code 1.
    Statement(String),
    /// Standard output can't be written. Exit code 1, or 0 if its reader has gone, as in `| head`.
    Output(io::Error),
    /// A signal: exit code 128 plus its number.
    Signal(i32),
    /// `\q`: exit code 0.
    Quit,
}

impl Failure {
    /// Prints the reason to standard error, and returns the exit code.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Failure::Usage(text) => {
                let hint = "For more information, try '--help'.";
                print_message(format_args!("error: {text}\n\n{hint}"));
                ExitCode::from(2)
            }
            Failure::Statement(text) => {
                print_message(format_args!("error: {text}"));
                ExitCode::FAILURE
            }
            Failure::Output(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Failure::Output(error) => {
                print_message(format_args!(
                    "error: can't write to standard output: {error}"
                ));
                ExitCode::FAILURE
            }
            Failure::Signal(signal) => {
                print_message("cancelled");
                ExitCode::from(Failure::exit_code_of(signal))
            }
            Failure::Quit => ExitCode::SUCCESS,
        }
    }

    /// The exit code after a signal: 128 plus its number.
    pub(crate) fn exit_code_of(signal: i32) -> u8 {
        u8::try_from(128 + signal).unwrap_or(u8::MAX)
    }

    /// Says where a failing statement is: `setup.sql, line 3: …`.
    pub(crate) fn at(self, source: &str, line: usize) -> Failure {
        match self {
            Failure::Statement(text) => {
                Failure::Statement(format!("{source}, line {line}: {text}"))
            }
            other => other,
        }
    }
}

impl From<DataFusionError> for Failure {
    fn from(error: DataFusionError) -> Failure {
        let mut text = error.strip_backtrace();
        text.truncate(text.trim_end().len());
        if let Some(hint) = hint(&text) {
            text = format!("{text}\n{hint}");
        }
        Failure::Statement(text)
    }
}

impl From<ArrowError> for Failure {
    fn from(error: ArrowError) -> Failure {
        DataFusionError::from(error).into()
    }
}

/// The way out of an error, where DataFusion does not name it.
fn hint(text: &str) -> Option<&'static str> {
    let extensions = [
        ".parquet", ".csv", ".tsv", ".json", ".arrow", ".txt", ".gz", ".zst",
    ];
    let is_path = |name: &str| name.contains('/') || extensions.iter().any(|it| name.ends_with(it));
    let table = text.split_once("table '").map(|(_, rest)| rest);
    if let Some((name, _)) = table.and_then(|rest| rest.split_once("' not found")) {
        return is_path(name).then_some(
            "hint: a file in FROM has to exist, and its name has to end in .parquet, .csv, .json or .arrow; \
             others need CREATE EXTERNAL TABLE",
        );
    }
    if text.contains("Resources exhausted") {
        return Some("hint: allow more memory with --memory-limit, or use fewer --partitions");
    }
    let nested = text.contains("is not supported in CSV");
    nested.then_some("hint: --format json has nested values")
}
