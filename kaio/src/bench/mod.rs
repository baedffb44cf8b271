//! `kaio bench`: what kernel AIO gives on a disk, against other ways to read and write it. The measuring
//! is `kaio-bench`'s.
//!
//! | module | has |
//! |---|---|
//! | `args` | what can be asked for |
//! | `contender` | the engines, by the names that they have here |
//! | `target` | the file that is measured on |
//! | `measuring` | the rounds, within the time that there is |
//! | `results` | what came out: the schema of `--json` |
//! | `table`, `html` | the same to be read |
//! | `destination` | a file that a report goes to |

mod args;
mod contender;
mod destination;
mod html;
mod measuring;
mod results;
mod table;
mod target;

use std::path::Path;
use std::process::ExitCode;

pub(crate) use args::Args;

use self::destination::Destination;
use self::measuring::Measuring;
use crate::failure::{Failure, Outcome};
use crate::output::{print_json, print_text};

pub(crate) fn run(args: &Args) -> Outcome {
    // Where results go is tried before anything is made or measured.
    let to_stdout = is_stdout(args.json.as_deref());
    if is_stdout(args.html.as_deref()) {
        let what = "--html - is none; --html /dev/stdout is standard output, below the table";
        return Err(Failure::Usage(what.into()));
    }
    let open = |to: &Path| Destination::open(to, args.file.as_deref());
    let json = args.json.as_deref().filter(|_| !to_stdout);
    let json = json.map(open).transpose()?;
    let html = args.html.as_deref().map(open).transpose()?;
    if let (Some(one), Some(other)) = (&json, &html) {
        if one.is(other) {
            let what = "--json and --html name one file, of which one report would be left";
            return Err(Failure::Usage(what.into()));
        }
    }
    let measuring = Measuring::of(args)?;

    let results = measuring.measure()?;

    // If it can't be printed, the files are written all the same.
    let printed = match to_stdout {
        true => print_json(&results),
        false => print_text(&table::text(&results)),
    };
    if let Some(json) = json {
        json.write(&(serde_json::to_string_pretty(&results)? + "\n"))?;
    }
    if let Some(html) = html {
        html.write(&html::page(&results)?)?;
    }
    printed?;
    verdict(&results)
}

fn is_stdout(path: Option<&Path>) -> bool {
    path.is_some_and(|path| path.as_os_str() == "-")
}

/// Engines that the machine has no place for are no failure, as long as there is one that it has.
fn verdict(results: &results::Results) -> Outcome {
    let measured = results.rows.iter().any(|row| row.figures.is_some());
    if !measured {
        return Err(Failure::Failed(
            "nothing could be measured, see above".into(),
        ));
    }
    let is_broken = |row: &&results::Row| {
        row.skipped
            .as_ref()
            .is_some_and(|skipped| !skipped.unavailable)
    };
    if let Some(row) = results.rows.iter().find(is_broken) {
        let (engine, depth) = (&row.engine, row.depth);
        return Err(Failure::Failed(
            format!("{engine} failed at depth {depth}, see above").into(),
        ));
    }
    Ok(ExitCode::SUCCESS)
}
