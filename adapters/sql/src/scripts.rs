//! Runs the statements of the command line, of files, and of standard input.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::backslash_command::{Deferred, run_command};
use crate::failure::Failure;
use crate::interrupts::Interrupts;
use crate::line_reader::LineReader;
use crate::sql_options::CommandLine;
use crate::sql_session::SqlSession;
use crate::statement_run::run_statement;
use crate::statement_splitter::{Entry, StatementSplitter};

/// Files that may include each other by `\i`, at most.
const MAX_DEPTH: usize = 16;

/// Runs the files and the statements of the command line.
///
/// # Errors
///
/// That of the first statement that fails.
pub(crate) async fn run_all(
    options: &CommandLine,
    session: &mut SqlSession,
    interrupts: &mut Interrupts,
) -> Result<(), Failure> {
    for file in &options.files {
        match file.as_os_str() == "-" {
            true => run_stdin(session, interrupts).await?,
            false => run_file(session, interrupts, file, 0).await?,
        }
    }
    for sql in &options.statements {
        match sql.as_str() {
            "-" => run_stdin(session, interrupts).await?,
            sql => {
                let text = io::Cursor::new(sql.to_owned());
                let lines = LineReader::start(|| Ok(text), "the command line")?;
                run_lines(session, interrupts, lines, None, 0).await?;
            }
        }
    }
    Ok(())
}

/// Runs the statements of standard input, each as soon as it is complete.
///
/// # Errors
///
/// That of the first statement that fails.
pub(crate) async fn run_stdin(
    session: &mut SqlSession,
    interrupts: &mut Interrupts,
) -> Result<(), Failure> {
    let source = "standard input";
    let lines = LineReader::start(|| Ok(io::stdin()), source)?;
    run_lines(session, interrupts, lines, Some(source), 0).await
}

/// Runs the statements of a file. `depth` is the number of files that include it.
///
/// # Errors
///
/// That of the first statement that fails, or of the file.
pub(crate) async fn run_file(
    session: &mut SqlSession,
    interrupts: &mut Interrupts,
    path: &Path,
    depth: usize,
) -> Result<(), Failure> {
    let name = path.display().to_string();
    let path = path.to_owned();
    let lines = LineReader::start(move || File::open(path), &name)?;
    Box::pin(run_lines(session, interrupts, lines, Some(&name), depth)).await
}

/// Runs one statement or command. `\i` opens files, which `depth` files include.
///
/// # Errors
///
/// That of the statement, and [`Failure::Signal`].
pub(crate) async fn run_entry(
    session: &mut SqlSession,
    interrupts: &mut Interrupts,
    text: &str,
    depth: usize,
) -> Result<(), Failure> {
    if !text.starts_with('\\') {
        return interrupts.or(run_statement(session, text)).await;
    }
    match interrupts.or(run_command(session, text)).await? {
        Deferred::Nothing => Ok(()),
        Deferred::RunFile(file) if depth == MAX_DEPTH => Err(too_deep(&file)),
        Deferred::RunFile(file) => run_file(session, interrupts, &file, depth + 1).await,
    }
}

/// Runs the statements of a text. Errors name `source` and the line, if there is a source.
async fn run_lines(
    session: &mut SqlSession,
    interrupts: &mut Interrupts,
    mut lines: LineReader,
    source: Option<&str>,
    depth: usize,
) -> Result<(), Failure> {
    let mut splitter = StatementSplitter::default();
    loop {
        let line = interrupts.or(lines.next()).await?;
        let dialect = session.dialect();
        let entries: Vec<Entry> = match &line {
            Some(line) => splitter.push_line(line, dialect.as_ref()),
            None => splitter.finish(dialect.as_ref()).into_iter().collect(),
        };
        for entry in entries {
            let result = run_entry(session, interrupts, &entry.text, depth).await;
            match source {
                Some(source) => result.map_err(|failure| failure.at(source, entry.line))?,
                None => result?,
            }
        }
        if line.is_none() {
            return Ok(());
        }
    }
}

fn too_deep(file: &Path) -> Failure {
    let file = file.display();
    Failure::Statement(format!(
        "\\i {file}: more than {MAX_DEPTH} files include each other"
    ))
}
