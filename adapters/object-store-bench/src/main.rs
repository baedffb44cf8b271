//! Compares `KaioFileSystem` with `LocalFileSystem`, in rounds that alternate between them.

mod paired_rounds;
mod store_work;

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use kaio_bench::{Machine, Place};
use kaio_object_store::v0_14::KaioFileSystem;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use serde::Serialize;
use tokio_kaio::{AioContextBuilder, SizeClassPoolBuilder};

use paired_rounds::{Compared, Stores, measure};
use store_work::{OBJECT, WORKS, Work};

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

    /// Part of the reads of each round, in per cent
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100))]
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

    /// Read what is cached with direct I/O, too
    #[arg(long)]
    no_cached_reads: bool,

    /// Use a context of the runtime that reads, instead of the shared one with a thread of its own
    #[arg(long)]
    runtime_context: bool,

    /// Write the results to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// List the work
    #[arg(long)]
    list: bool,
}

/// The results, as JSON.
#[derive(Debug, Serialize)]
struct Results {
    machine: Machine,
    place: Place,
    rounds: u32,
    size_mib: u64,
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
    let mut kaio = KaioFileSystem::builder()
        .with_prefix(dir.path())
        .with_buffers(&pool);
    let _context = match line.runtime_context {
        true => {
            let _runtime = runtime.enter();
            let builder = AioContextBuilder::new(256).automatic_backend();
            let (context, handle) = builder.build()?;
            kaio = kaio.with_context(&handle);
            Some(context)
        }
        false => None,
    };
    let kaio = kaio
        .with_cached_reads(!line.no_cached_reads)
        .with_chunk_size(line.chunk << 10)
        .with_depth(line.depth)
        .with_fsync(true)
        .build()?;
    let local = LocalFileSystem::new_with_prefix(dir.path())?.with_fsync(true);
    let stores = Stores {
        local: Arc::new(local) as Arc<dyn ObjectStore>,
        kaio: Arc::new(kaio.clone()),
        object: &object,
    };
    println!(
        "{:36} {:>20} {:>20} {:>18} {:>18}",
        "", "LocalFileSystem", "KaioFileSystem", "wall", "CPU"
    );
    println!(
        "{:36} {:>20} {:>20} {:>18} {:>18}",
        "work", "wall/CPU ms", "wall/CPU ms", "ratio (quartiles)", "ratio (quartiles)"
    );
    let mut compared = Vec::new();
    for work in works {
        for &is_cached in work.with_cache {
            let result = measure(&runtime, &stores, work, is_cached, line.rounds, line.share)?;
            println!("{result}");
            compared.push(result);
        }
    }
    println!("\n{}", kaio.metrics());
    if let Some(path) = &line.json {
        let results = Results {
            machine: Machine::detect(),
            place: Place::of(&line.dir)?,
            rounds: line.rounds,
            size_mib: line.size,
            works: compared,
        };
        fs::write(path, serde_json::to_string_pretty(&results)? + "\n")?;
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
