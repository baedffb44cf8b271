//! Results as text: lines of a run, and tables in Markdown.

use std::fmt::{self, Write};

use kaio_bench::Spread;

use crate::object_store_results::ObjectStoreResults;
use crate::results::{Kind, LimitedResult, Quantity, Results, Store, WorkResult, geometric_mean};

/// A work, as `run` prints it.
pub(crate) struct RunLine<'a>(pub(crate) &'a WorkResult);

impl RunLine<'_> {
    pub(crate) const HEAD: &'static str = "\
work                 LocalFileSystem    KaioFileSystem               wall                CPU   no prefetch   read MiB   page cache MiB
                       wall / CPU ms     wall / CPU ms  ratio (quartiles)  ratio (quartiles)          wall  L -> K     after: L -> K";
}

impl fmt::Display for RunLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let work = self.0;
        let state = if work.cached { "cached" } else { "cold" };
        let without = work.ratio(Store::KaioWithoutPrefetch, Quantity::Wall);
        write!(
            f,
            "{:18} {:>17} {:>17} {:>18} {:>18} {:>13} {:>10} {:>14}",
            format!("{} {state}", work.work),
            times(work, Store::Local),
            times(work, Store::Kaio),
            ratio(work.ratio(Store::Kaio, Quantity::Wall)),
            ratio(work.ratio(Store::Kaio, Quantity::Cpu)),
            without.map_or("-".into(), |ratio| format!("{:.2}", ratio.median)),
            read(work),
            page_cache(work),
        )
    }
}

/// The median, and the quartiles.
pub(crate) fn ratio(ratio: Option<Spread>) -> String {
    match ratio {
        Some(ratio) => format!("{:.2} ({:.2}–{:.2})", ratio.median, ratio.q1, ratio.q3),
        None => "–".into(),
    }
}

fn times(work: &WorkResult, store: Store) -> String {
    let Some(samples) = work.samples(store) else {
        return "–".into();
    };
    let of = |quantity| median(samples.values(quantity).iter().copied());
    format!("{:.0} / {:.0}", of(Quantity::Wall), of(Quantity::Cpu))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    Spread::of(values).map_or(f64::NAN, |spread| spread.median)
}

/// MiB of both stores.
fn mib(work: &WorkResult, of: fn(&crate::results::StoreSamples) -> &[u64]) -> String {
    let of = |store| {
        let samples = work.samples(store)?;
        let bytes = median(of(samples).iter().map(|bytes| *bytes as f64));
        Some(format!("{:.0}", bytes / f64::from(1 << 20)))
    };
    let text = |store| of(store).unwrap_or_else(|| "–".into());
    format!("{} → {}", text(Store::Local), text(Store::Kaio))
}

fn read(work: &WorkResult) -> String {
    mib(work, |samples| &samples.read_bytes)
}

fn page_cache(work: &WorkResult) -> String {
    mib(work, |samples| &samples.cached_bytes)
}

/// A table of the works of a kind.
pub(crate) fn works(results: &Results, kind: Kind, cached: bool) -> String {
    let works: Vec<_> = results.works(kind, cached).collect();
    let has_without = works
        .iter()
        .any(|work| work.samples(Store::KaioWithoutPrefetch).is_some());
    let mut head = vec![
        match kind {
            Kind::Query => "query",
            Kind::Scan => "scan",
        },
        "LocalFileSystem: wall / CPU ms",
        "KaioFileSystem: wall / CPU ms",
        "wall",
        "CPU",
    ];
    if has_without {
        head.push("wall, no prefetch");
    }
    if !cached {
        head.extend(["floor of wall", "read, MiB", "page cache after, MiB"]);
    }
    let mut table = Table::new(&head);
    for work in &works {
        let name = match kind {
            Kind::Query => format!("{} {}", work.work.to_uppercase(), lower_first(&work.about)),
            Kind::Scan => work.about.clone(),
        };
        let mut row = vec![
            name,
            times(work, Store::Local),
            times(work, Store::Kaio),
            ratio(work.ratio(Store::Kaio, Quantity::Wall)),
            ratio(work.ratio(Store::Kaio, Quantity::Cpu)),
        ];
        if has_without {
            row.push(ratio(
                work.ratio(Store::KaioWithoutPrefetch, Quantity::Wall),
            ));
        }
        if !cached {
            let floor = results.floor(work, Quantity::Wall);
            let floor = floor.map_or("–".into(), |floor| format!("{floor:.2}"));
            row.extend([floor, read(work), page_cache(work)]);
        }
        table.row(&row);
    }
    table.0
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| {
        format!("{}{}", first.to_lowercase(), letters.as_str())
    })
}

/// The geometric means of the queries, and their worst ratios.
pub(crate) fn summary(results: &Results) -> String {
    let mut table = Table::new(&[
        "22 queries",
        "wall: geometric mean",
        "wall: worst query",
        "queries slower than LocalFileSystem",
        "CPU: geometric mean",
        "CPU: worst query",
    ]);
    let mut row = |name: String, of: &dyn Fn(Quantity) -> Vec<(String, f64)>| {
        let (wall, cpu) = (of(Quantity::Wall), of(Quantity::Cpu));
        if wall.is_empty() {
            return;
        }
        let slower = wall.iter().filter(|(_, ratio)| *ratio > 1.0).count();
        table.row(&[
            name,
            mean(&wall),
            worst(&wall),
            format!("{slower} of {}", wall.len()),
            mean(&cpu),
            worst(&cpu),
        ]);
    };
    for (cached, name) in [(false, "cold"), (true, "in the page cache")] {
        for (store, with) in [
            (Store::Kaio, ""),
            (Store::KaioWithoutPrefetch, ", no prefetch"),
        ] {
            row(format!("{name}{with}"), &|quantity| {
                let works = results.works(Kind::Query, cached);
                works
                    .filter_map(|work| {
                        Some((work.work.clone(), work.ratio(store, quantity)?.median))
                    })
                    .collect()
            });
        }
        if !cached {
            row(
                "floor: LocalFileSystem, cached / cold".into(),
                &|quantity| {
                    let works = results.works(Kind::Query, false);
                    works
                        .filter_map(|work| {
                            Some((work.work.clone(), results.floor(work, quantity)?))
                        })
                        .collect()
                },
            );
        }
    }
    table.0
}

fn mean(ratios: &[(String, f64)]) -> String {
    let mean = geometric_mean(ratios.iter().map(|(_, ratio)| *ratio));
    mean.map_or("–".into(), |mean| format!("**{mean:.2}**"))
}

fn worst(ratios: &[(String, f64)]) -> String {
    let worst = ratios.iter().max_by(|a, b| a.1.total_cmp(&b.1));
    worst.map_or("–".into(), |(name, ratio)| {
        format!("{ratio:.2} ({})", name.to_uppercase())
    })
}

/// Passes with a limit of memory.
pub(crate) fn passes(limited: &LimitedResult) -> String {
    let data = format!(
        "{} MiB of data; {} MiB of memory for the process and its page cache:\n\n",
        limited.data_bytes >> 20,
        limited.limit_bytes >> 20
    );
    let mut table = Table::new(&[
        "pass",
        "LocalFileSystem: wall / CPU ms",
        "KaioFileSystem: wall / CPU ms",
        "wall",
        "CPU",
        "read, MiB",
        "page cache, MiB",
        "process, MiB",
    ]);
    for index in 0..limited.pass_count() {
        let of = |store, of: fn(&crate::results::Pass) -> f64| {
            median(limited.passes(store, index).map(of))
        };
        let times = |store| {
            let (wall, cpu) = (
                of(store, |pass| pass.wall_ms),
                of(store, |pass| pass.cpu_ms),
            );
            format!("{wall:.0} / {cpu:.0}")
        };
        let mib = |bytes: fn(&crate::results::Pass) -> f64| {
            let of = |store| of(store, bytes) / f64::from(1 << 20);
            format!("{:.0} → {:.0}", of(Store::Local), of(Store::Kaio))
        };
        table.row(&[
            (index + 1).to_string(),
            times(Store::Local),
            times(Store::Kaio),
            ratio(limited.ratio(index, Quantity::Wall)),
            ratio(limited.ratio(index, Quantity::Cpu)),
            mib(|pass| pass.read_bytes as f64),
            mib(|pass| pass.cached_bytes as f64),
            mib(|pass| pass.process_bytes as f64),
        ]);
    }
    data + &table.0
}

/// The works of kaio-object-store-bench.
pub(crate) fn object_store(results: &ObjectStoreResults) -> String {
    let mut table = Table::new(&["work", "data", "wall", "CPU"]);
    for work in &results.works {
        table.row(&[
            work.about.clone(),
            work.cache.name().into(),
            ratio(Some(work.ratios.wall)),
            ratio(Some(work.ratios.cpu)),
        ]);
    }
    table.0
}

/// What was measured, and where.
pub(crate) fn setting(results: &Results) -> String {
    let (machine, place, data) = (&results.machine, &results.place, &results.data);
    let busy = |others: f64| {
        format!(
            "Right before the start, other processes used {:.0} % of its CPU time",
            others * 100.0
        )
    };
    let load = match machine.others {
        Some(others) if others > 0.1 => format!(
            "**The machine was busy.**\n  {}, so only the ratios mean something.",
            busy(others)
        ),
        Some(others) => format!("{}.", busy(others)),
        None => "The load of other processes is unknown.".into(),
    };
    let build = match results.debug_build {
        true => {
            " **A build without optimization**:\n  queries compute longer, so ratios are nearer to 1."
        }
        false => "",
    };
    format!(
        "- Data: TPC-H at scale {}, {:.0} MiB in {} Parquet files ({}: compression, rows of a row group, files of a\n  \
         table).\n\
         - Machine: Linux {}, {}, {} CPUs, {:.0} GiB; {} on {}.\n  \
         {load}\n\
         - Rounds: {}. Partitions of a query: {}.{build} Date: {}.\n",
        data.scale,
        data.bytes as f64 / f64::from(1 << 20),
        data.files,
        data.form,
        machine.kernel.split_whitespace().next().unwrap_or_default(),
        machine.cpu,
        machine.cores,
        machine.memory as f64 / f64::from(1 << 30),
        place.file_system,
        place.device.as_deref().unwrap_or("no device"),
        results.rounds,
        results.partitions,
        machine.date,
    )
}

/// A table in Markdown.
struct Table(String);

impl Table {
    fn new(head: &[&str]) -> Table {
        let mut table = Table(String::new());
        table.row(head);
        table.0.push_str(&"|---".repeat(head.len()));
        table.0.push_str("|\n");
        table
    }

    fn row<T: AsRef<str>>(&mut self, cells: &[T]) {
        for cell in cells {
            // Writing to a string does not fail.
            let _ = write!(self.0, "| {} ", cell.as_ref());
        }
        self.0.push_str("|\n");
    }
}
