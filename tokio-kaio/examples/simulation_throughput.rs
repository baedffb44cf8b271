//! Measures how many operations a second a simulated disk does on one core, with a paused clock.
//!
//! `cargo run --release --features simulation --example simulation_throughput`

use std::time::Instant;

use tokio::runtime::Builder;
use tokio_kaio::simulation::SimDisk;
use tokio_kaio::{AioContextBuilder, AlignedBuf, File, ReadFlags, WriteFlags};

const BLOCK: u64 = 4096;

/// Blocks of the file.
const BLOCKS: u64 = 4096;

/// Operations of a measurement.
const OPERATIONS: u64 = 400_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("4 KiB operations a second, on one core:\n");
    println!("  depth      reads     writes");
    for depth in [1, 8, 32, 128] {
        let reads = measure(depth, false)?;
        let writes = measure(depth, true)?;
        println!("{depth:>7} {reads:>10.0} {writes:>10.0}");
    }
    Ok(())
}

/// Returns the operations a second of `depth` tasks, each with one operation at a time.
fn measure(depth: u64, writes: bool) -> Result<f64, Box<dyn std::error::Error>> {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    runtime.block_on(async {
        let disk = SimDisk::builder().trace_events(0).build();
        let (context, handle) = AioContextBuilder::new(256).simulated(&disk).build()?;
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create(true);
        let file = File::open_with(&options, disk.path().join("file"), false).await?;
        let block = AlignedBuf::new(BLOCK as usize)?;
        for index in 0..BLOCKS {
            let write = file.write_at(&handle, index * BLOCK, &block, BLOCK, WriteFlags::empty());
            write.await?;
        }
        file.sync_all(&handle).await?;

        let start = Instant::now();
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
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await?.map_err(|error| error.to_string())?;
        }
        let rate = (OPERATIONS / depth * depth) as f64 / start.elapsed().as_secs_f64();
        context.close().await;
        Ok(rate)
    })
}
