//! `kaio completions`, `kaio man`: what a package installs beside the program.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::Cli;
use crate::failure::{Failure, Outcome};
use crate::output::print;

/// Print the completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "Example:
  kaio completions bash > ~/.local/share/bash-completion/completions/kaio")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Print the manual page, of the program or of one command
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kaio man | man -l -
  kaio man bench > kaio-bench.1")]
pub(crate) struct ManArgs {
    /// The command [default: the program]
    command: Option<String>,
}

pub(crate) fn completions(args: &CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kaio", &mut script);
    print(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn man(args: &ManArgs) -> Outcome {
    let mut program = Cli::command();
    program.build();
    let command = match &args.command {
        None => program,
        Some(name) => program
            .find_subcommand(name)
            .cloned()
            .ok_or_else(|| Failure::Usage(format!("kaio has no command {name}")))?,
    };
    let mut page = Vec::new();
    let source = concat!("kaio ", env!("CARGO_PKG_VERSION"));
    Man::new(command).source(source).render(&mut page)?;
    print(&sectioned(&String::from_utf8(page)?))?;
    Ok(ExitCode::SUCCESS)
}

/// The page with what `--help` has after the options in sections of their usual names, where clap makes
/// one called EXTRA of it, and has lines filled that are to stand below one another.
fn sectioned(page: &str) -> String {
    let mut sectioned = String::new();
    let (mut extra, mut verbatim) = (false, false);
    for line in page.lines() {
        let indented = extra && line.starts_with("  ");
        if indented != verbatim {
            sectioned += if indented { ".nf\n" } else { ".fi\n" };
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
        sectioned += &headed;
        sectioned.push('\n');
    }
    if verbatim {
        sectioned += ".fi\n";
    }
    sectioned
}
