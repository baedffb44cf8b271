//! `kaio completions` and `kaio man`, for packagers.

use std::process::ExitCode;

use clap::{Arg, Args, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::command_error::{CommandError, CommandResult};
use crate::command_line::Cli;
use crate::stdio::print;

/// Print the completion script of a shell
#[derive(Debug, Args)]
#[command(after_help = "Example:
  kaio completions bash > ~/.local/share/bash-completion/completions/kaio")]
pub(crate) struct CompletionsArgs {
    /// The shell to print completions for
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Print the manual page of kaio or of one command
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kaio man | man -l -
  kaio man bench > kaio-bench.1")]
pub(crate) struct ManArgs {
    /// The command [default: kaio itself]
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

pub(crate) fn completions(args: &CompletionsArgs) -> CommandResult {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kaio", &mut script);
    print(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn man(args: &ManArgs) -> CommandResult {
    // The page of kaio does not refer to a page of `kaio help`.
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let command = match &args.command {
        None => program,
        Some(name) => program
            .find_subcommand(name)
            .cloned()
            .ok_or_else(|| CommandError::Usage(format!("kaio has no command named {name}")))?,
    };
    let synopsis = synopsis(&command);
    let mut page = Vec::new();
    let source = concat!("kaio ", env!("CARGO_PKG_VERSION"));
    Man::new(command).source(source).render(&mut page)?;
    let page = with_synopsis(&String::from_utf8(page)?, &synopsis);
    print(&with_sections(&page))?;
    Ok(ExitCode::SUCCESS)
}

/// The synopsis of a command, as a line of roff. That of clap_mangen has no value names.
fn synopsis(command: &Command) -> String {
    let bold = |text: &str| format!("\\fB{}\\fR", text.replace('-', "\\-"));
    let values = |argument: &Arg| {
        let names = argument.get_value_names().unwrap_or_default();
        let names: Vec<_> = names.iter().map(|name| format!("\\fI{name}\\fR")).collect();
        let is_list = argument
            .get_num_args()
            .is_some_and(|range| range.max_values() > 1);
        names.join(" ")
            + if is_list && argument.is_positional() {
                " ..."
            } else {
                ""
            }
    };
    let mut parts = vec![bold(command.get_bin_name().unwrap_or(command.get_name()))];
    let mut arguments: Vec<_> = command.get_arguments().collect();
    arguments.retain(|argument| !argument.is_hide_set());
    arguments.sort_by_key(|argument| argument.is_positional());
    for argument in arguments {
        let short = argument.get_short().map(|short| bold(&format!("-{short}")));
        let long = argument.get_long().map(|long| bold(&format!("--{long}")));
        let names: Vec<_> = short.into_iter().chain(long).collect();
        let mut text = names.join("|");
        if argument.get_action().takes_values() {
            let space = if text.is_empty() { "" } else { " " };
            text += &format!("{space}{}", values(argument));
        }
        parts.push(match argument.is_required_set() {
            true => text,
            false => format!("[{text}]"),
        });
    }
    if command.has_subcommands() {
        parts.push("\\fICOMMAND\\fR".into());
    }
    parts.join(" ")
}

/// Replaces the synopsis of a page.
fn with_synopsis(page: &str, synopsis: &str) -> String {
    let mut out = String::new();
    let mut is_synopsis = false;
    for line in page.lines() {
        out += if is_synopsis { synopsis } else { line };
        out.push('\n');
        is_synopsis = line == ".SH SYNOPSIS";
    }
    out
}

/// Gives the sections that follow the options in `--help` their usual names, and keeps the line breaks of
/// examples. clap_mangen puts all of them into one filled section named EXTRA.
fn with_sections(page: &str) -> String {
    let mut out = String::new();
    let (mut extra, mut verbatim) = (false, false);
    for line in page.lines() {
        let indented = extra && line.starts_with("  ");
        if indented != verbatim {
            out += if indented { ".nf\n" } else { ".fi\n" };
            verbatim = indented;
        }
        if line.starts_with(".SH") {
            extra = line == ".SH EXTRA";
            if extra {
                continue;
            }
        }
        let headed = match line.strip_prefix("Exit codes: ") {
            Some(codes) if extra => format!(".SH \"EXIT STATUS\"\n{codes}"),
            _ if extra && line.starts_with("Example") => ".SH EXAMPLES".to_owned(),
            _ if extra && line == "Columns:" => ".SH COLUMNS".to_owned(),
            _ => line.to_owned(),
        };
        out += &headed;
        out.push('\n');
    }
    if verbatim {
        out += ".fi\n";
    }
    out
}
