//! [`markdown`]: the results as tables, and [`replace_tables`], which puts them into a page.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use kaio_bench::Spread;

use crate::paired_rounds::{Cache, Compared, Ratios};

/// The tables are between these lines of a page.
const BEGIN: &str = "<!-- tables of kaio-object-store-bench -->";
const END: &str = "<!-- end of the tables -->";

/// The results as tables in Markdown.
pub(crate) fn markdown(works: &[Compared], limit: Option<u64>) -> String {
    let mut text = String::new();
    let is_limited = |work: &&Compared| work.cache == Cache::Limited;
    let rows = |text: &mut String, works: &mut dyn Iterator<Item = &Compared>| {
        let _ = writeln!(
            text,
            "| work | data | wall time | CPU time | library: wall | CPU |\n|---|---|---|---|---|---|"
        );
        for work in works {
            let library = work.library.as_ref();
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                work.about,
                work.cache.name(),
                spread(&work.ratios.wall),
                spread(&work.ratios.cpu),
                library.map_or_else(String::new, |ratios: &Ratios| spread(&ratios.wall)),
                library.map_or_else(String::new, |ratios: &Ratios| spread(&ratios.cpu)),
            );
        }
    };
    rows(
        &mut text,
        &mut works.iter().filter(|work| !is_limited(work)),
    );
    let Some(limit) = limit.filter(|_| works.iter().any(|work| is_limited(&work))) else {
        return text;
    };
    let _ = writeln!(
        text,
        "\nWith {} MiB of memory for the process and its part of the page cache. Each store has an object \
         of its own.\n",
        limit >> 20
    );
    let _ = writeln!(
        text,
        "| work | wall time | CPU time | page cache, LocalFileSystem | page cache, KaioFileSystem |\n\
         |---|---|---|---|---|"
    );
    for work in works.iter().filter(is_limited) {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            work.about,
            spread(&work.ratios.wall),
            spread(&work.ratios.cpu),
            mebibytes(work.local_page_cache),
            mebibytes(work.kaio_page_cache),
        );
    }
    text
}

fn spread(spread: &Spread) -> String {
    format!("{:.2} ({:.2}–{:.2})", spread.median, spread.q1, spread.q3)
}

fn mebibytes(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "?".to_owned(), |bytes| format!("{} MiB", bytes >> 20))
}

/// Replaces the tables in the page at `path`.
///
/// # Errors
///
/// Those of the file. `InvalidData`: the page has no place for tables.
pub(crate) fn replace_tables(path: &Path, tables: &str) -> io::Result<()> {
    let page = fs::read_to_string(path)?;
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = parts.ok_or_else(|| {
        let text = format!("{}: there are no lines {BEGIN} and {END}", path.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    })?;
    fs::write(path, format!("{before}{BEGIN}\n{tables}{END}{after}"))
}
