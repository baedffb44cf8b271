//! Reads statements from a terminal.

use std::fmt::Display;
use std::io;
use std::path::PathBuf;

use rustyline::config::Configurer;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{CompletionType, Config, Editor};
use tokio::runtime::Runtime;

use crate::backslash_command::plain_word;
use crate::failure::Failure;
use crate::history_file::history_file;
use crate::interrupts::Interrupts;
use crate::line_editing::LineEditing;
use crate::messages::print_message;
use crate::prompt_signals::PromptSignals;
use crate::scripts::run_entry;
use crate::sql_options::VERSION;
use crate::sql_session::SqlSession;
use crate::statement_splitter::StatementSplitter;

const PROMPT: &str = "kaio-sql> ";

/// Statements that the history keeps.
const HISTORY: usize = 10_000;

/// SIGINT, which Ctrl-C sends to a running statement.
const SIGINT: i32 = 2;

/// Reads statements and commands from the terminal, and runs them, until Ctrl-D or `\q`. Failures are
/// printed; the next statement follows.
///
/// # Errors
///
/// The terminal can't be read, standard output can't be written, or a signal other than SIGINT.
pub(crate) fn run(
    runtime: &Runtime,
    session: &mut SqlSession,
    interrupts: &mut Interrupts,
) -> Result<(), Failure> {
    let mut editor = editor(session).map_err(terminal_failure)?;
    let signals = PromptSignals::start(runtime).map_err(terminal_failure)?;
    let history = open_history(&mut editor);
    if session.settings.reports {
        let (version, store) = match session.file_metrics() {
            Some(_) => (&*VERSION, ""),
            None => (&*VERSION, ", with LocalFileSystem"),
        };
        print_message(format_args!(
            "kaio-sql {version}{store}. \\? for help, \\q to quit."
        ));
    }
    loop {
        runtime.block_on(session.names.refresh(&session.context));
        let input = match signals.during(|| editor.readline(PROMPT)) {
            Ok(input) => input,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(terminal_failure(error)),
        };
        if input.trim().is_empty() {
            continue;
        }
        add_to_history(&mut editor, history.as_ref(), input.trim());
        interrupts.forget();
        match runtime.block_on(run_input(session, interrupts, &input)) {
            Ok(()) => (),
            Err(Failure::Quit) => return Ok(()),
            Err(Failure::Signal(SIGINT)) => print_message("cancelled"),
            Err(Failure::Statement(text)) => print_message(format_args!("error: {text}")),
            Err(failure) => return Err(failure),
        }
    }
}

/// Runs the statements and commands of an input, up to the first that fails.
async fn run_input(
    session: &mut SqlSession,
    interrupts: &mut Interrupts,
    input: &str,
) -> Result<(), Failure> {
    let input = plain_word(input).unwrap_or(input);
    let dialect = session.dialect();
    let mut splitter = StatementSplitter::default();
    let lines = input.lines();
    let mut entries: Vec<_> = lines
        .flat_map(|line| splitter.push_line(line, dialect.as_ref()))
        .collect();
    entries.extend(splitter.finish(dialect.as_ref()));
    for entry in entries {
        run_entry(session, interrupts, &entry.text, 0).await?;
    }
    Ok(())
}

fn editor(session: &SqlSession) -> rustyline::Result<Editor<LineEditing, DefaultHistory>> {
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .history_ignore_space(true)
        .build();
    let mut editor = Editor::with_config(config)?;
    editor.set_max_history_size(HISTORY)?;
    editor.set_helper(Some(LineEditing::new(
        session.context.clone(),
        session.names.clone(),
    )));
    Ok(editor)
}

/// Reads the history. Without a file, it lasts as long as the program.
fn open_history(editor: &mut Editor<LineEditing, DefaultHistory>) -> Option<PathBuf> {
    match history_file() {
        Ok(file) => {
            // There is none at the first start.
            if let Err(error) = editor.load_history(&file)
                && !matches!(&error, ReadlineError::Io(io) if io.kind() == io::ErrorKind::NotFound)
            {
                let file = file.display();
                print_message(format_args!("can't read the history: {file}: {error}"));
            }
            Some(file)
        }
        Err(error) => {
            print_message(format_args!("the history is not kept: {error}"));
            None
        }
    }
}

/// Adds an input to the history and to its file, so that the end of the program needs no care.
fn add_to_history(
    editor: &mut Editor<LineEditing, DefaultHistory>,
    file: Option<&PathBuf>,
    input: &str,
) {
    let added = editor.add_history_entry(input);
    if let (Ok(true), Some(file)) = (added, file)
        && let Err(error) = editor.append_history(file)
    {
        let file = file.display();
        print_message(format_args!("can't write the history: {file}: {error}"));
    }
}

fn terminal_failure(error: impl Display) -> Failure {
    Failure::Statement(format!("can't read the terminal: {error}"))
}
