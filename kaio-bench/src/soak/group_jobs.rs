//! Groups with shares and limits that change while requests wait for them.

use futures_util::future::join_all;
use tokio_kaio::{AlignedBuf, IoGroup, ReadFlags};

use crate::block_jobs::{BlockFile, expect};
use crate::soak_job::{BLOCK, Result, SoakJob};

const BLOCKS: usize = 64;

pub(crate) async fn read_in_groups(mut job: SoakJob) -> Result<()> {
    let blocks = BlockFile::create(&mut job, BLOCKS).await?;
    while job.goes_on() {
        let heavy = IoGroup::new("heavy").with_weight(job.random.u32(2..100));
        let limited = IoGroup::new("limited").with_max_iops(job.random.u64(500..5000));
        for _ in 0..10 {
            let handles = [&heavy, &limited].map(|group| job.handle.with_group(group));
            let wanted: Vec<usize> = (0..32).map(|_| job.random.usize(..BLOCKS)).collect();
            let reads = wanted.iter().enumerate().map(|(index, &block)| {
                let (handle, file) = (&handles[index % 2], &blocks.file);
                async move {
                    let mut bytes = AlignedBuf::new(BLOCK)?;
                    let (at, len) = ((block * BLOCK) as u64, BLOCK as u64);
                    let read = file.read_at(handle, at, &mut bytes, len, ReadFlags::empty());
                    expect(read.await?, BLOCK)?;
                    Result::Ok((block, bytes))
                }
            });
            for read in join_all(reads).await {
                let (block, bytes) = read?;
                blocks.verify(block, &bytes)?;
                job.count().verified(BLOCK);
            }
            // Some are withdrawn while they wait for the limit.
            let mut bytes = AlignedBuf::new(BLOCK)?;
            let read =
                blocks
                    .file
                    .read_at(&handles[1], 0, &mut bytes, BLOCK as u64, ReadFlags::empty());
            let limit = std::time::Duration::from_micros(job.random.u64(..200));
            match tokio::time::timeout(limit, read).await {
                Ok(read) => expect(read?, BLOCK)?,
                Err(_) => job.count().cancelled(),
            }
            limited.set_max_iops(job.random.u64(500..5000));
            heavy.set_max_bandwidth(job.random.u64(10 << 20..100 << 20));
        }
    }
    Ok(())
}
