//! Scans `lineitem` of TPC-H from a cold cache: over `LocalFileSystem`, and over `KaioFiles` with and without
//! prefetching, by turns. Prints wall and CPU time, and the ratios of the medians.
//!
//! ```sh
//! cargo run --release -p kaio-datafusion --example scan -- DIRECTORY [SCALE] [FILES] [ROUNDS] [PARTITIONS]
//! ```
//!
//! It writes the data to the directory if it is not there yet, and leaves it there.

use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use datafusion::prelude::{SessionConfig, SessionContext};
use futures_util::TryStreamExt;
use kaio_datafusion::{KaioFiles, Prefetch};
use kaio_tpch::{Codec, ParquetOptions};
use rustix::fs::{Advice, fadvise};
use rustix::time::{ClockId, clock_gettime};

const QUERIES: [(&str, &str); 4] = [
    ("all columns", "select * from lineitem"),
    ("one column", "select sum(l_extendedprice) from lineitem"),
    (
        "three columns, filter",
        "select sum(l_extendedprice * l_discount) from lineitem where l_quantity < 24",
    ),
    (
        "selective",
        "select count(l_comment) from lineitem where l_orderkey between 1000000 and 1100000",
    ),
];

#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let dir = PathBuf::from(args.next().ok_or("give a directory for the data")?);
    let mut number = |default: f64| args.next().map_or(Ok(default), |text| text.parse::<f64>());
    let (scale, files, rounds) = (number(1.0)?, number(1.0)?, number(5.0)?);
    let partitions = number(2.0)?;
    let options = ParquetOptions::default()
        .with_codec(Codec::Snappy)
        .with_files(files as u32);
    let dir = kaio_tpch::data_set(&dir, scale, options)?;
    let table = dir.join("lineitem");
    println!("{} bytes, {} partitions", size(&table)?, partitions);

    let stores = [
        ("local", None),
        (
            "kaio, no prefetch",
            Some(KaioFiles::new().with_prefetch(Prefetch::off())),
        ),
        ("kaio", Some(KaioFiles::new())),
    ];
    for (name, query) in QUERIES {
        let mut costs = vec![Vec::new(); stores.len()];
        for _ in 0..rounds as usize {
            for ((_, files), costs) in stores.iter().zip(&mut costs) {
                evict(&table)?;
                costs.push(scan(files.as_ref(), &table, query, partitions as usize).await?);
            }
        }
        let local = median(&mut costs[0]);
        println!("{name}");
        for ((store, _), costs) in stores.iter().zip(&mut costs) {
            let Cost { wall, cpu } = median(costs);
            println!(
                "  {store:20} {wall:>10.1?} ({:.2})   CPU {cpu:>10.1?} ({:.2})",
                wall.div_duration_f64(local.wall),
                cpu.div_duration_f64(local.cpu)
            );
        }
    }
    if let (_, Some(files)) = &stores[2] {
        println!("{}", files.metrics());
    }
    Ok(())
}

async fn scan(
    files: Option<&KaioFiles>,
    table: &Path,
    query: &str,
    partitions: usize,
) -> Result<Cost, Box<dyn Error>> {
    let config = SessionConfig::new().with_target_partitions(partitions);
    let session = SessionContext::new_with_config(config);
    if let Some(files) = files {
        files.register(&session);
    }
    let (start, cpu) = (Instant::now(), process_cpu());
    let table = table.join("");
    let table = table.to_str().ok_or("the directory is not UTF-8")?;
    session
        .register_parquet("lineitem", table, Default::default())
        .await?;
    let stream = session.sql(query).await?.execute_stream().await?;
    stream.try_for_each(|_| async { Ok(()) }).await?;
    Ok(Cost {
        wall: start.elapsed(),
        cpu: process_cpu() - cpu,
    })
}

fn process_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn median(costs: &mut [Cost]) -> Cost {
    costs.sort_by_key(|cost| cost.wall);
    costs[costs.len() / 2]
}

fn files_in(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
}

fn size(dir: &Path) -> std::io::Result<u64> {
    let files = files_in(dir)?.into_iter();
    files.map(|path| Ok(fs::metadata(path)?.len())).sum()
}

/// Evicts the files from the page cache.
fn evict(dir: &Path) -> std::io::Result<()> {
    for path in files_in(dir)? {
        let file = File::open(path)?;
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}
