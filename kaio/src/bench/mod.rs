//! `kaio bench`: compares kernel AIO with other ways to read and write a disk. `kaio-bench` does the
//! measuring.
//!
//! | module | contents |
//! |---|---|
//! | `bench_args` | the command line |
//! | `engine_choice` | the engines, by their names in this tool |
//! | `bench_target` | the file or device to measure on |
//! | `bench_run` | the rounds, within the given time |
//! | `bench_results` | the results: the schema of `--json` |
//! | `bench_text`, `html_page` | the results as text and as HTML |
//! | `report_file` | the file that a report is written to |

mod bench_args;
mod bench_results;
mod bench_run;
mod bench_target;
mod bench_text;
mod engine_choice;
mod html_page;
mod report_file;

use std::path::Path;
use std::process::ExitCode;

pub(crate) use bench_args::BenchArgs;

use self::bench_run::BenchRun;
use self::report_file::ReportFile;
use crate::command_error::{CommandError, CommandResult};
use crate::stdio::{print_json, print_text, stdout_width};

pub(crate) fn run(args: &BenchArgs) -> CommandResult {
    // The report files are opened before anything is created or measured.
    let to_stdout = is_stdout(args.json.as_deref());
    if is_stdout(args.html.as_deref()) {
        let what =
            "--html does not accept -; use --html /dev/stdout to write the page after the table";
        return Err(CommandError::Usage(what.into()));
    }
    let open = |to: &Path| ReportFile::open(to, args.file.as_deref());
    let json = args.json.as_deref().filter(|_| !to_stdout);
    let json = json.map(open).transpose()?;
    let html = args.html.as_deref().map(open).transpose()?;
    if let (Some(one), Some(other)) = (&json, &html) {
        if one.is(other) {
            let what = "--json and --html name the same file";
            return Err(CommandError::Usage(what.into()));
        }
    }
    let run = BenchRun::of(args)?;

    let results = run.measure()?;

    // The files are written even if printing fails.
    let printed = match to_stdout {
        true => print_json(&results),
        false => print_text(&bench_text::text(&results, stdout_width())),
    };
    if let Some(json) = json {
        json.write(&(serde_json::to_string_pretty(&results)? + "\n"))?;
    }
    if let Some(html) = html {
        html.write(&html_page::page(&results)?)?;
    }
    printed?;
    exit_code(&results)
}

fn is_stdout(path: Option<&Path>) -> bool {
    path.is_some_and(|path| path.as_os_str() == "-")
}

/// Engines that the machine does not support are not a failure, as long as another one was measured.
fn exit_code(results: &bench_results::BenchResults) -> CommandResult {
    let measured = results.rows.iter().any(|row| row.figures.is_some());
    if !measured {
        return Err(CommandError::Failed(
            "no engine could be measured; see above".into(),
        ));
    }
    let is_broken = |row: &&bench_results::Row| {
        row.skipped
            .as_ref()
            .is_some_and(|skipped| !skipped.unavailable)
    };
    if let Some(row) = results.rows.iter().find(is_broken) {
        let (engine, depth) = (&row.engine, row.depth);
        return Err(CommandError::Failed(
            format!("{engine} failed at depth {depth}; see above").into(),
        ));
    }
    Ok(ExitCode::SUCCESS)
}
