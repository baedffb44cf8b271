//! Byte ranges: merged reads, and streams of ranges that are dropped.

use std::ops::Range;

use futures_util::StreamExt;
use tokio_kaio::{Coalesce, File};

use crate::soak_job::{Result, SoakJob};
use crate::verified_content::{content, verify};

const LEN: usize = 3_000_001;

pub(crate) async fn read_ranges(mut job: SoakJob) -> Result<()> {
    let path = job.dir.join("ranges");
    let seed = job.random.u64(..);
    tokio::fs::write(&path, content(LEN, seed, 0)).await?;
    let file = File::open(path, false).await?;
    while job.goes_on() {
        let ranges: Vec<Range<u64>> = (0..job.random.usize(1..40))
            .map(|_| range(&mut job))
            .collect();
        let is_at_once = job.random.bool();
        let check = |index: usize, bytes: &[u8]| -> Result<()> {
            let range = &ranges[index];
            verify(bytes, seed, range.start, "a range")?;
            job.count().verified(bytes.len());
            match bytes.len() as u64 == range.end - range.start {
                true => Ok(()),
                false => Err(format!("{range:?} has {} bytes", bytes.len()).into()),
            }
        };
        if is_at_once {
            let all = file.read_ranges(&job.handle, &ranges).await?;
            all.iter()
                .enumerate()
                .try_for_each(|(index, bytes)| check(index, bytes))?;
        } else {
            let coalesce = Coalesce::new().max_in_flight(100_000);
            let mut stream = file.stream_ranges(&job.handle, &ranges, coalesce);
            let mut left = ranges.len() / 2;
            while let Some(item) = stream.next().await {
                let (index, bytes) = item?;
                check(index, &bytes)?;
                if left == 0 {
                    job.count().cancelled();
                    break;
                }
                left -= 1;
            }
        }
    }
    Ok(())
}

/// A range within the file: mostly short.
fn range(job: &mut SoakJob) -> Range<u64> {
    let max = if job.random.u8(..8) == 0 {
        200_000
    } else {
        5000
    };
    let len = job.random.usize(..max);
    let start = job.random.usize(..LEN - len) as u64;
    start..start + len as u64
}
