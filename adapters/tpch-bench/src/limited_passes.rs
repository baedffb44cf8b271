//! [`measure`]: passes over the data in a process whose memory, page cache included, is smaller than the data.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use kaio_datafusion::{KaioFiles, Prefetch};
use kaio_object_store::v0_13::KaioFileSystem;
use tokio_kaio::SizeClassPoolBuilder;

use crate::Result;
use crate::bench_options::PassesArguments;
use crate::bench_session::BenchSession;
use crate::data_files::DataFiles;
use crate::memory_cgroup::{MemoryCgroup, join, memory};
use crate::query_work::of_pass;
use crate::results::{LimitedResult, LimitedRun, Pass, Store};
use crate::run_usage::UsageAt;

/// Buffers of the store: where memory is scarce, less than by default.
const BUFFERS: usize = 64 << 20;

/// Memory for row groups that are read ahead.
const PREFETCH: u64 = 32 << 20;

const ROUNDS: usize = 2;

/// Runs a process for each store and round, with `limit` bytes of memory.
pub(crate) fn measure(
    data: &DataFiles,
    dir: &Path,
    limit: u64,
    passes: u32,
    partitions: usize,
) -> Result<LimitedResult> {
    let mut runs = Vec::new();
    for round in 0..ROUNDS {
        let mut stores = [Store::Local, Store::Kaio];
        stores.rotate_left(round % 2);
        for store in stores {
            let cgroup = MemoryCgroup::create(limit)?;
            data.evict()?;
            runs.push(run(store, dir, &cgroup, passes, partitions)?);
        }
    }
    Ok(LimitedResult {
        works: of_pass().into_iter().map(|work| work.name).collect(),
        data_bytes: data.bytes(),
        limit_bytes: limit,
        runs,
    })
}

fn run(
    store: Store,
    data: &Path,
    cgroup: &MemoryCgroup,
    passes: u32,
    partitions: usize,
) -> Result<LimitedRun> {
    let output = Command::new(std::env::current_exe()?)
        .arg("passes")
        .args(["--store", &store.to_string()])
        .args(["--passes", &passes.to_string()])
        .args(["--partitions", &partitions.to_string()])
        .arg("--data")
        .arg(data)
        .arg("--cgroup")
        .arg(cgroup.dir())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!(
            "the passes over {store} failed ({}): if the kernel killed the process for want of memory, raise \
             --limit",
            output.status
        )
        .into());
    }
    Ok(LimitedRun {
        store,
        passes: serde_json::from_slice(&output.stdout)?,
    })
}

/// Runs the passes in this process, and prints them as JSON.
pub(crate) fn run_in_cgroup(arguments: &PassesArguments) -> Result<()> {
    join(&arguments.cgroup)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let pool = SizeClassPoolBuilder::new(BUFFERS).build()?;
    let store = KaioFileSystem::builder().with_buffers(&pool).build()?;
    let files = KaioFiles::with_store(Arc::new(store))
        .with_prefetch(Prefetch::default().with_memory(PREFETCH));
    let session = BenchSession::open(
        &runtime,
        arguments.store,
        &files,
        &arguments.data,
        arguments.partitions,
    )?;
    let works = of_pass();
    let mut passes = Vec::new();
    for _ in 0..arguments.passes {
        let start = UsageAt::now()?;
        for work in &works {
            session.run(&runtime, work)?;
        }
        let usage = start.elapsed()?;
        let memory = memory(&arguments.cgroup)?;
        passes.push(Pass {
            wall_ms: usage.wall_ms,
            cpu_ms: usage.cpu_ms,
            read_bytes: usage.read_bytes,
            cached_bytes: memory.cached_bytes,
            process_bytes: memory.process_bytes,
        });
    }
    println!("{}", serde_json::to_string(&passes)?);
    Ok(())
}
