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
            .filter(|command| command.get_name() != "help")
            .cloned()
            .ok_or_else(|| Failure::Usage(format!("kaio has no command {name}")))?,
    };
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    print(&String::from_utf8(page)?)?;
    Ok(ExitCode::SUCCESS)
}
