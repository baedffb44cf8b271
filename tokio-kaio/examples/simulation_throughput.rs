//! Measures how fast a simulated disk is: operations a second of CPU time on one core, with a paused clock, and
//! power cuts a second of an `Explorer`.
//!
//! `cargo run --release --features simulation --example simulation_throughput`
//!
//! `-- reads DEPTH` and `-- writes DEPTH` run one measurement only, for a profiler. So does `-- cuts`.

use std::cell::Cell;
use std::env;
use std::error::Error;
use std::fs;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio_kaio::simulation::{Explorer, Latency, SimDisk};
use tokio_kaio::{AioContextBuilder, AlignedBuf, File, ReadFlags, WriteFlags, sync_dir};

const BLOCK: u64 = 4096;

/// Blocks of the file.
const BLOCKS: u64 = 4096;

/// Operations of a measurement.
const OPERATIONS: u64 = 400_000;

/// Operations of the workload under power cuts: three writes and a sync, again and again.
const WORKLOAD: u64 = 200;

const SEEDS: u64 = 50;
const CUTS_PER_SEED: u64 = 200;

type AnyError = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), AnyError> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => {}
        ["cuts"] => return measure_cuts(),
        [kind @ ("reads" | "writes"), depth] => {
            let rate = measure(depth.parse()?, kind == "writes", Latency::default())?;
            println!("{kind} at depth {depth}: {rate:.0} a second");
            return Ok(());
        }
        _ => {
            return Err(
                "the arguments are: nothing, `cuts`, `reads DEPTH` or `writes DEPTH`".into(),
            );
        }
    }
    println!("4 KiB operations a second of CPU time, on one core:\n");
    println!("                no latency               latency of 100 µs");
    println!("  depth      reads     writes           reads     writes");
    for depth in [1, 8, 32, 128] {
        print!("{depth:>7}");
        for latency in [Duration::ZERO, Duration::from_micros(100)] {
            for writes in [false, true] {
                let rate = measure(depth, writes, Latency::constant(latency))?;
                print!(" {rate:>10.0}");
            }
            print!("     ");
        }
        println!();
    }
    println!();
    measure_cuts()
}

/// Returns the operations a second of `depth` tasks, each with one operation at a time.
fn measure(depth: u64, writes: bool, latency: Latency) -> Result<f64, AnyError> {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    runtime.block_on(async {
        let disk = SimDisk::builder()
            .read_latency(latency.clone())
            .write_latency(latency)
            .queue_depth(256)
            .trace_events(0)
            .build();
        let (context, handle) = AioContextBuilder::new(256).simulated(&disk).build()?;
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true);
        let file = File::open_with(&options, disk.path().join("file"), false).await?;
        let block = AlignedBuf::new(BLOCK as usize)?;
        for index in 0..BLOCKS {
            let write = file.write_at(&handle, index * BLOCK, &block, BLOCK, WriteFlags::empty());
            write.await?;
        }
        file.sync_all(&handle).await?;

        let start = cpu_time();
        let tasks = (0..depth).map(|task| {
            let (file, handle) = (file.clone(), handle.clone());
            tokio::spawn(async move {
                let mut buffer = AlignedBuf::new(BLOCK as usize)?;
                for index in 0..OPERATIONS / depth {
                    let offset = (index * depth + task) * 7919 % BLOCKS * BLOCK;
                    let done = match writes {
                        true => {
                            let flags = WriteFlags::empty();
                            file.write_at(&handle, offset, &buffer, BLOCK, flags)
                                .await?
                        }
                        false => {
                            let flags = ReadFlags::empty();
                            file.read_at(&handle, offset, &mut buffer, BLOCK, flags)
                                .await?
                        }
                    };
                    assert_eq!(done, BLOCK);
                }
                Ok::<_, AnyError>(())
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await??;
        }
        let time = cpu_time() - start;
        context.close().await;
        Ok((OPERATIONS / depth * depth) as f64 / time.as_secs_f64())
    })
}

/// Prints how long the power cuts take, each with a run of the workload and a verification.
fn measure_cuts() -> Result<(), AnyError> {
    let start = cpu_time();
    let explored = Explorer::new()
        .seeds(0..SEEDS)
        .random_cuts(CUTS_PER_SEED)
        .run(append, verify)?;
    let time = (cpu_time() - start).as_secs_f64();
    println!("{explored}, of {WORKLOAD} operations: {time:.1} s of CPU time");
    Ok(())
}

/// Appends blocks, and syncs after each third. `synced` counts the blocks that were.
async fn append(disk: SimDisk, synced: &Cell<u64>) -> Result<(), AnyError> {
    let (_context, handle) = AioContextBuilder::new(8).simulated(&disk).build()?;
    let log = File::create(disk.path().join("log"), false).await?;
    sync_dir(disk.path()).await?;
    let mut block = AlignedBuf::new(BLOCK as usize)?;
    let mut written = 0;
    for operation in 1..=WORKLOAD {
        if operation % 4 == 0 {
            log.sync_data(&handle).await?;
            synced.set(written);
            continue;
        }
        block[..].fill(written as u8);
        let flags = WriteFlags::empty();
        log.write_at(&handle, written * BLOCK, &block, BLOCK, flags)
            .await?;
        written += 1;
    }
    Ok(())
}

/// Every synced block is there.
async fn verify(disk: SimDisk, synced: &Cell<u64>) -> Result<(), AnyError> {
    if synced.get() == 0 {
        return Ok(());
    }
    let (_context, handle) = AioContextBuilder::new(8).simulated(&disk).build()?;
    let log = File::open(disk.path().join("log"), false).await?;
    let mut block = AlignedBuf::new(BLOCK as usize)?;
    for index in 0..synced.get() {
        let flags = ReadFlags::empty();
        log.read_at(&handle, index * BLOCK, &mut block, BLOCK, flags)
            .await?;
        if block[..].iter().any(|&byte| byte != index as u8) {
            return Err(format!("block {index} is lost").into());
        }
    }
    Ok(())
}

/// Returns the CPU time of this thread; where the kernel does not count it, the time since the first call.
fn cpu_time() -> Duration {
    thread_local!(static FIRST_CALL: Instant = Instant::now());
    let times = fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = times.and_then(|times| times.split(' ').next()?.parse().ok());
    match nanos {
        Some(nanos) => Duration::from_nanos(nanos),
        None => FIRST_CALL.with(Instant::elapsed),
    }
}
