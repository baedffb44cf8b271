//! `kaio completions` and `kaio man`, for packagers.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
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
    shell: Shell,
}

/// Print the manual page of kaio or of one command
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kaio man | man -l -
  kaio man bench > kaio-bench.1")]
pub(crate) struct ManArgs {
    /// The command [default: kaio itself]
    command: Option<String>,
}

pub(crate) fn completions(args: &CompletionsArgs) -> CommandResult {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kaio", &mut script);
    print(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn man(args: &ManArgs) -> CommandResult {
    let mut program = Cli::command();
    program.build();
    let command = match &args.command {
        None => program,
        Some(name) => program
            .find_subcommand(name)
            .cloned()
            .ok_or_else(|| CommandError::Usage(format!("kaio has no command named {name}")))?,
    };
    let mut page = Vec::new();
    let source = concat!("kaio ", env!("CARGO_PKG_VERSION"));
    Man::new(command).source(source).render(&mut page)?;
    print(&with_sections(&String::from_utf8(page)?))?;
    Ok(ExitCode::SUCCESS)
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
