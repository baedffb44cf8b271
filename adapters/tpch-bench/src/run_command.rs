//! `run`: generates the data, and measures.

use std::thread::available_parallelism;

use kaio_bench::{Machine, Place};
use kaio_datafusion::KaioFiles;
use tokio::runtime::Runtime;

use crate::Result;
use crate::bench_options::RunArguments;
use crate::bench_session::BenchSession;
use crate::data_files::DataFiles;
use crate::memory_cgroup::MemoryCgroup;
use crate::query_work::{Work, all};
use crate::ratio_tables::{RunLine, ratio};
use crate::results::{DataSet, Kind, LimitedResult, Quantity, Results, Store, geometric_mean};
use crate::{limited_passes, rounds};

pub(crate) fn run(arguments: &RunArguments) -> Result<()> {
    let works = chosen(&arguments.only)?;
    if arguments.list {
        for work in works {
            println!("{:12} {}", work.name, work.about);
        }
        return Ok(());
    }
    let machine = Machine::detect(); // before the load of this process
    let form = arguments.form();
    let dir = kaio_tpch::data_set(&arguments.dir, arguments.scale, form)?;
    let data = DataFiles::open(&dir)?;
    eprintln!(
        "{}: {} MiB in {} files",
        dir.display(),
        data.bytes() >> 20,
        data.count()
    );
    let partitions = match arguments.partitions {
        Some(partitions) => partitions.into(),
        None => available_parallelism()?.get(),
    };
    let works = {
        let runtime = Runtime::new()?;
        let files = KaioFiles::new();
        let mut stores = vec![Store::Local, Store::Kaio];
        if arguments.without_prefetch {
            stores.push(Store::KaioWithoutPrefetch);
        }
        let open = |store| BenchSession::open(&runtime, store, &files, &dir, partitions);
        let sessions: Vec<_> = stores.into_iter().map(open).collect::<Result<_>>()?;
        let mut results = Vec::new();
        println!("{}", RunLine::HEAD);
        for work in &works {
            let states: &[bool] = if arguments.cold_only {
                &[false]
            } else {
                &[false, true]
            };
            for &cached in states {
                let rounds = arguments.rounds;
                let result = rounds::measure(&runtime, &sessions, &data, work, cached, rounds)?;
                println!("{}", RunLine(&result));
                results.push(result);
            }
        }
        println!(
            "\nthe store of all sessions over KaioFileSystem, and its prefetches:\n{}",
            files.metrics()
        );
        results
    };
    let limited = match arguments.passes {
        0 => None,
        _ => limited(arguments, partitions)?,
    };
    let mut place = Place::of(&arguments.dir)?;
    place.dir = ".".into(); // where a machine keeps its data means nothing to readers
    let results = Results {
        machine,
        place,
        data: DataSet {
            scale: arguments.scale,
            form: form.to_string(),
            bytes: data.bytes(),
            files: data.count(),
        },
        debug_build: cfg!(debug_assertions),
        rounds: arguments.rounds,
        partitions,
        works,
        limited,
    };
    print_means(&results);
    if let Some(path) = &arguments.json {
        results.write(path)?;
    }
    Ok(())
}

/// Less memory is not enough for DataFusion and the buffers of the store.
const LEAST_LIMIT: u64 = 256 << 20;

fn limited(arguments: &RunArguments, partitions: usize) -> Result<Option<LimitedResult>> {
    let scale = arguments.limited_scale.unwrap_or(4.0 * arguments.scale);
    if let Err(error) = MemoryCgroup::create(LEAST_LIMIT) {
        eprintln!("skipped: passes with a limit of memory, which need root: {error}");
        return Ok(None);
    }
    let dir = kaio_tpch::data_set(&arguments.dir, scale, arguments.form())?;
    let data = DataFiles::open(&dir)?;
    let limit = match arguments.limit {
        Some(mib) => mib << 20,
        None => (data.bytes() / 3).max(LEAST_LIMIT),
    };
    eprintln!(
        "{}: {} MiB, with a limit of {} MiB",
        dir.display(),
        data.bytes() >> 20,
        limit >> 20
    );
    let limited = limited_passes::measure(&data, &dir, limit, arguments.passes, partitions)?;
    Ok(Some(limited))
}

fn chosen(only: &[String]) -> Result<Vec<Work>> {
    let works = all();
    if let Some(name) = only
        .iter()
        .find(|name| works.iter().all(|work| work.name != **name))
    {
        return Err(format!("there is no work {name:?}: see --list").into());
    }
    let is_wanted = |work: &Work| only.is_empty() || only.contains(&work.name);
    Ok(works.into_iter().filter(is_wanted).collect())
}

fn print_means(results: &Results) {
    for cached in [false, true] {
        let mean = |quantity| {
            let works = results.works(Kind::Query, cached);
            let ratios = works.filter_map(|work| work.ratio(Store::Kaio, quantity));
            geometric_mean(ratios.map(|ratio| ratio.median))
        };
        if let (Some(wall), Some(cpu)) = (mean(Quantity::Wall), mean(Quantity::Cpu)) {
            let state = if cached { "cached" } else { "cold" };
            println!("\nqueries, {state}: geometric means: wall {wall:.2}, CPU {cpu:.2}");
        }
    }
    let Some(limited) = &results.limited else {
        return;
    };
    let mib = limited.limit_bytes >> 20;
    for index in 0..limited.pass_count() {
        let of = |quantity| ratio(limited.ratio(index, quantity));
        let (wall, cpu) = (of(Quantity::Wall), of(Quantity::Cpu));
        println!("\npass {} in {mib} MiB: wall {wall}, CPU {cpu}", index + 1);
        for store in [Store::Local, Store::Kaio] {
            for pass in limited.passes(store, index) {
                println!(
                    "  {store:8} {:.0} ms, CPU {:.0} ms, read {} MiB, page cache {} MiB, process {} MiB",
                    pass.wall_ms,
                    pass.cpu_ms,
                    pass.read_bytes >> 20,
                    pass.cached_bytes >> 20,
                    pass.process_bytes >> 20
                );
            }
        }
    }
}
