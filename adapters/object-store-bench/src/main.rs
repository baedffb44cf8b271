//! Compares `KaioFileSystem` with `LocalFileSystem`, in rounds that alternate between them.

mod library_reads;
mod memory_limit;
mod paired_rounds;
mod result_tables;
mod store_work;

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use kaio_bench::{Machine, Place};
use kaio_object_store::v0_14::KaioFileSystem;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio_kaio::{AioContextBuilder, SizeClassPoolBuilder};

use library_reads::LibraryFile;
use memory_limit::MemoryLimit;
use paired_rounds::{Cache, Compared, Stores, measure};
use result_tables::{markdown, replace_tables};
use store_work::{LOCAL_OBJECT, OBJECT, Round, WORKS, Work};

/// Compares KaioFileSystem with LocalFileSystem: medians of rounds that alternate between them.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct CommandLine {
    /// Directory to create the objects in; use one on the device to be measured
    #[arg(long, default_value = ".")]
    dir: PathBuf,

    /// Size of the object that is read, in MiB
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(16..))]
    size: u64,

    /// Rounds of each store
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Work to measure, by a part of its name: may be given more than once
    #[arg(long = "only", value_name = "NAME")]
    only: Vec<String>,

    /// Part of the requests of each round, in per cent
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..=100))]
    share: u64,

    /// Memory of the store's pool, in MiB, on huge pages
    #[arg(long, default_value_t = 256)]
    buffers: usize,

    /// Chunk of streams and uploads, in KiB
    #[arg(long, default_value_t = 1024)]
    chunk: u64,

    /// Chunks in flight
    #[arg(long, default_value_t = 8)]
    depth: usize,

    /// Read cached data with direct I/O, too
    #[arg(long)]
    no_cached_reads: bool,

    /// Use a context of the runtime that reads, instead of the shared one with a thread of its own
    #[arg(long)]
    runtime_contexts: bool,

    /// Memory of the process and its page cache, in MiB, while objects larger than that are read; as root, or
    /// in a control group that has a limit; 0: skip this
    #[arg(long, value_name = "MIB", default_value_t = 192)]
    memory_limit: u64,

    /// Run only this store, for strace, perf and valgrind, and compare nothing: one round of each work, cold
    #[arg(long, value_name = "STORE")]
    once: Option<OnceStore>,

    /// Replace the tables in this page, between the lines that say so
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,

    /// Write the results to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// List the work
    #[arg(long)]
    list: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OnceStore {
    Local,
    Kaio,
    Library,
}

/// The results, as JSON.
#[derive(Debug, Serialize)]
struct Results {
    machine: Machine,
    place: Place,
    rounds: u32,
    size_mib: u64,
    memory_limit_mib: Option<u64>,
    runtime_contexts: bool,
    works: Vec<Compared>,
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let line = CommandLine::parse();
    let is_wanted = |work: &&Work| {
        line.only.is_empty() || line.only.iter().any(|part| work.name.contains(&**part))
    };
    let works: Vec<&Work> = WORKS.iter().filter(is_wanted).collect();
    if line.list {
        for work in works {
            println!("{:28} {}", work.name, work.about);
        }
        return Ok(());
    }
    if works.is_empty() {
        return Err("no work has such a name: see --list".into());
    }
    let dir = tempfile::tempdir_in(&line.dir)?;
    let object = dir.path().join(OBJECT);
    create_object(&object, line.size << 20)?;
    let small = dir.path().join("small");
    fs::create_dir(&small)?;
    for index in 0..1_000 {
        fs::write(small.join(index.to_string()), [7; 8 << 10])?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let pool = SizeClassPoolBuilder::new(line.buffers << 20)
        .huge_pages(true)
        .populate(true)
        .build()?;
    let kaio = KaioFileSystem::builder()
        .with_prefix(dir.path())
        .with_buffers(&pool)
        .with_runtime_contexts(line.runtime_contexts)
        .with_cached_reads(!line.no_cached_reads)
        .with_chunk_size(line.chunk << 10)
        .with_depth(line.depth)
        .with_fsync(true)
        .build()?;
    let local = LocalFileSystem::new_with_prefix(dir.path())?.with_fsync(true);
    let library = {
        let _runtime = runtime.enter();
        let builder = AioContextBuilder::new(256).automatic_backend();
        LibraryFile {
            file: tokio_kaio::File::open_blocking(&object, false)?,
            handle: builder.buffers(&pool).build_detached()?,
        }
    };
    let stores = Stores {
        local: Arc::new(local) as Arc<dyn ObjectStore>,
        kaio: Arc::new(kaio.clone()),
        library,
        dir: dir.path(),
    };
    if let Some(store) = line.once {
        return once(&runtime, &stores, &works, store, line.share);
    }
    println!(
        "{:34} {:>14} {:>14} {:>17} {:>17}  library",
        "", "LocalFileSystem", "KaioFileSystem", "wall", "CPU"
    );
    println!(
        "{:34} {:>14} {:>14} {:>17} {:>17}  wall / CPU",
        "work", "wall/CPU ms", "wall/CPU ms", "ratio (quartiles)", "ratio (quartiles)"
    );
    let mut compared = Vec::new();
    let mut measure_all = |with: &dyn Fn(Cache) -> bool| {
        for work in &works {
            for &cache in work.caches.iter().filter(|cache| with(**cache)) {
                let result = measure(&runtime, &stores, work, cache, line.rounds, line.share)?;
                println!("{result}");
                compared.push(result);
            }
        }
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    };
    measure_all(&|cache| cache != Cache::Limited)?;
    let limit = match line.memory_limit {
        0 => None,
        mebibytes => match MemoryLimit::set(mebibytes << 20) {
            Ok(limit) => Some(limit),
            Err(error) => {
                eprintln!("skipped: objects larger than memory: {error}");
                None
            }
        },
    };
    if limit.is_some() {
        create_object(&dir.path().join(LOCAL_OBJECT), line.size << 20)?;
        for name in [OBJECT, LOCAL_OBJECT] {
            let file = File::open(dir.path().join(name))?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
        measure_all(&|cache| cache == Cache::Limited)?;
    }
    let memory_limit = limit.as_ref().map(|limit| limit.bytes);
    drop(limit);
    println!("\n{}", kaio.metrics());
    if let Some(path) = &line.page {
        replace_tables(path, &markdown(&compared, memory_limit))?;
    }
    if let Some(path) = &line.json {
        let mut place = Place::of(&line.dir)?;
        place.dir = ".".into(); // where a machine keeps its data means nothing to readers
        let results = Results {
            machine: Machine::detect(),
            place,
            rounds: line.rounds,
            size_mib: line.size,
            memory_limit_mib: memory_limit.map(|bytes| bytes >> 20),
            runtime_contexts: line.runtime_contexts,
            works: compared,
        };
        fs::write(path, serde_json::to_string_pretty(&results)? + "\n")?;
    }
    Ok(())
}

/// Runs one round of each work on one store, with the object evicted.
fn once(
    runtime: &Runtime,
    stores: &Stores<'_>,
    works: &[&Work],
    store: OnceStore,
    share: u64,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let object = File::open(stores.dir.join(OBJECT))?;
    for work in works {
        rustix::fs::fadvise(&object, 0, None, rustix::fs::Advice::DontNeed)?;
        let round = Round {
            store: match store {
                OnceStore::Local => Arc::clone(&stores.local),
                OnceStore::Kaio | OnceStore::Library => Arc::clone(&stores.kaio),
            },
            object: OBJECT,
            len: object.metadata()?.len(),
            scans_all: false,
            seed: 1,
            share,
        };
        let task = match (store, work.library) {
            (OnceStore::Library, Some(read)) => read(stores.library.clone(), &round),
            (OnceStore::Library, None) => continue,
            _ => (work.run)(round),
        };
        runtime.block_on(runtime.spawn(task))??;
    }
    Ok(())
}

/// Creates a file of `len` random bytes, durably.
fn create_object(path: &Path, len: u64) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut random = SmallRng::seed_from_u64(1);
    let mut file = File::create(path)?;
    let mut piece = vec![0; 1 << 20];
    for _ in 0..len >> 20 {
        random.fill_bytes(&mut piece);
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    Ok(())
}
