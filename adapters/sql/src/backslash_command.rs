//! Commands that start with a backslash.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::failure::Failure;
use crate::messages::print_message;
use crate::sql_options::OutputFormat;
use crate::sql_session::{DisplaySettings, SqlSession};
use crate::statement_run::run_statement;

/// The names of the commands, for completion.
pub(crate) const NAMES: &[&str] = &[
    "?", "cold", "d", "df", "explain", "i", "pset", "q", "timing",
];

const HELP: &str = "\
Statements end with a semicolon, and may have several lines. FROM takes files, directories and patterns:
    select count(*) from '/data/*.parquet';
    create external table t (a int) stored as csv location 'dir/' options ('format.has_header' 'false');
    copy (select * from t) to 'copy.parquet';

\\d                lists the tables
\\d NAME           shows the columns of a table, or of a file in quotes
\\df [TEXT]        lists the functions whose names contain TEXT
\\i FILE           runs the statements of a file
\\timing [on|off]  prints a report after each statement: times, and how files were read
\\explain [on|off] prints the plan of each statement, with the metrics of its run
\\cold [on|off]    evicts the files of each statement from the page cache
\\pset             shows how results are shown
\\pset format table|json|ndjson|csv|tsv
\\pset max_rows N  rows of a table that are shown, or all
\\?, help          prints this text
\\q, quit, exit    ends the program, as Ctrl-D does

Ctrl-C cancels the running statement, or discards the line. Tab completes names, keywords, and the names of
files in quotes.";

/// A command that is left to the caller.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Deferred {
    /// Nothing is left.
    Nothing,
    /// Run the statements of this file.
    RunFile(PathBuf),
}

/// Whether `input` is a command without a backslash, such as `help`. Only a terminal has these.
pub(crate) fn is_plain_word(input: &str) -> bool {
    plain_word(input).is_some()
}

/// The command that a word without a backslash stands for.
pub(crate) fn plain_word(input: &str) -> Option<&'static str> {
    match input
        .trim()
        .trim_end_matches(';')
        .to_ascii_lowercase()
        .as_str()
    {
        "help" => Some("\\?"),
        "quit" | "exit" => Some("\\q"),
        _ => None,
    }
}

/// Runs a command, which starts with a backslash.
///
/// # Errors
///
/// [`Failure::Quit`], [`Failure::Statement`]: there is no such command, or it fails.
pub(crate) async fn run_command(session: &mut SqlSession, text: &str) -> Result<Deferred, Failure> {
    let text = text.trim().trim_end_matches(';').trim_end();
    let (name, argument) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let argument = argument.trim();
    let settings = &mut session.settings;
    match (name, argument) {
        ("\\?" | "\\h" | "\\help", _) => print_message(HELP),
        ("\\q" | "\\quit", _) => return Err(Failure::Quit),
        ("\\d", "") => {
            let tables = "select table_schema, table_name, table_type from information_schema.tables \
                          where table_schema <> 'information_schema' order by 1, 2";
            run_quietly(session, tables).await?;
        }
        ("\\d", name) => run_quietly(session, &format!("describe {name}")).await?,
        ("\\df", part) => {
            let part = part.replace('\'', "''");
            let functions = format!(
                "select distinct routine_name, function_type, description \
                 from information_schema.routines \
                 where routine_name ilike '%{part}%' order by 1, 2"
            );
            run_quietly(session, &functions).await?;
        }
        ("\\i", "") => return Err(failure("\\i needs the name of a file")),
        ("\\i", file) => return Ok(Deferred::RunFile(file.trim_matches('\'').into())),
        ("\\timing", value) => switch("timing", &mut settings.reports, value)?,
        ("\\explain", value) => switch("explain", &mut settings.explain, value)?,
        ("\\cold", value) => switch("cold", &mut settings.cold, value)?,
        ("\\pset", value) => set(settings, value)?,
        (name, _) => {
            return Err(failure(format!(
                "there is no command {name}; \\? lists them"
            )));
        }
    }
    Ok(Deferred::Nothing)
}

/// Runs a statement of a command, without a report.
async fn run_quietly(session: &mut SqlSession, sql: &str) -> Result<(), Failure> {
    let settings = session.settings;
    session.settings.reports = false;
    session.settings.explain = false;
    let result = run_statement(session, sql).await;
    session.settings = settings;
    result
}

/// Switches a setting on or off, or to the other if there is no value, and says which.
fn switch(name: &str, setting: &mut bool, value: &str) -> Result<(), Failure> {
    *setting = match value.to_ascii_lowercase().as_str() {
        "" => !*setting,
        "on" | "true" => true,
        "off" | "false" => false,
        _ => return Err(failure(format!("\\{name} {value}: expected on or off"))),
    };
    print_message(format_args!(
        "{name} is {}",
        if *setting { "on" } else { "off" }
    ));
    Ok(())
}

/// Sets how results are shown, or prints that.
fn set(settings: &mut DisplaySettings, text: &str) -> Result<(), Failure> {
    match text
        .split_once(char::is_whitespace)
        .map(|(name, value)| (name, value.trim()))
    {
        None if text.is_empty() => (),
        Some(("format", value)) => {
            settings.format = OutputFormat::from_str(value, true).map_err(|_| {
                failure(format!(
                    "\\pset format {value}: expected table, json, ndjson, csv or tsv"
                ))
            })?;
        }
        Some(("max_rows", value)) => {
            let limit = value.parse();
            let limit =
                limit.map_err(|error| failure(format!("\\pset max_rows {value}: {error}")))?;
            settings.max_rows = limit;
        }
        _ => {
            let expected = "expected `format FORMAT` or `max_rows NUMBER`";
            return Err(failure(format!("\\pset {text}: {expected}")));
        }
    }
    let format = settings.format.to_possible_value();
    let format = format.as_ref().map_or("", |value| value.get_name());
    let rows = match settings.max_rows.0 {
        usize::MAX => "all".to_owned(),
        rows => rows.to_string(),
    };
    print_message(format_args!("format {format}, max_rows {rows}"));
    Ok(())
}

fn failure(text: impl Into<String>) -> Failure {
    Failure::Statement(text.into())
}
