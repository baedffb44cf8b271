//! [`BackendReads`]: reads at a depth of 8 on each backend.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use rustix::time::{ClockId, clock_gettime};
use tokio_kaio::{AioContextBuilder, AioContextHandle, AlignedBuf, Backend, File, ReadFlags};

use super::request_class::block;
use super::request_runner::open_target;
use super::{MeasureSettings, MeasureTarget, RequestClass, Result};

/// How fast a backend reads, and at which cost.
#[derive(Clone, Copy, Debug)]
pub struct BackendReads {
    /// The backend.
    pub backend: Backend,
    /// Reads per second: median over the rounds.
    pub per_second: f64,
    /// CPU time of the process per read: median over the rounds.
    pub cpu: Duration,
}

/// The backends, in the order in which `kaio doctor` prefers them.
pub const BACKENDS: [Backend; 3] = [Backend::IoUring, Backend::KernelAio, Backend::ThreadPool];

/// Reads in flight.
const DEPTH: usize = 8;

/// Rounds of each backend. An odd number, so that there is a median.
const ROUNDS: usize = 5;

/// Time after which no further read of a round is issued.
const ROUND_LIMIT: Duration = Duration::from_millis(100);

impl BackendReads {
    /// Reads the blocks of the target in random order, on each of `backends` in turn. The result has the
    /// backends in the same order, without those that are not available.
    ///
    /// # Errors
    ///
    /// The file can't be opened or created, or a read fails.
    pub async fn measure(
        target: &MeasureTarget,
        backends: &[Backend],
        settings: MeasureSettings,
    ) -> Result<Vec<BackendReads>> {
        let (file, offsets) = open_target(target, RequestClass::Read, settings).await?;
        let buffers = (0..DEPTH).map(|_| block(settings.block, settings));
        let mut buffers = buffers.collect::<Result<Vec<_>>>()?;
        let mut contexts = Vec::new();
        for &backend in backends {
            let built = AioContextBuilder::new(DEPTH).backend(backend).build();
            contexts.extend(built.ok().map(|made| (backend, made, Vec::new())));
        }
        let mut failed = None;
        'rounds: for round in 0..=ROUNDS {
            for (_, (_, handle), rounds) in &mut contexts {
                match read_all(handle, &file, &offsets, &mut buffers, settings.block).await {
                    Ok(_) if round == 0 => {} // threads start, and caches fill
                    Ok(read) => rounds.push(read),
                    Err(error) => {
                        failed = Some(error);
                        break 'rounds;
                    }
                }
            }
        }
        let mut measured = Vec::new();
        for (backend, (context, _), rounds) in contexts {
            context.close().await;
            measured.push(BackendReads {
                backend,
                per_second: median(rounds.iter().map(|round| round.0)),
                cpu: Duration::from_secs_f64(median(rounds.iter().map(|round| round.1))),
            });
        }
        failed.map_or(Ok(measured), Err)
    }
}

/// Reads blocks at `offsets`, [`DEPTH`] at a time. Returns reads per second, and CPU seconds per read.
async fn read_all(
    handle: &AioContextHandle,
    file: &File,
    offsets: &[u64],
    buffers: &mut [AlignedBuf],
    block: u64,
) -> Result<(f64, f64)> {
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let lanes = buffers.iter_mut().enumerate().map(async |(lane, buffer)| {
        let mut made = 0_u32;
        for &at in offsets.iter().skip(lane).step_by(DEPTH) {
            file.read_at(handle, at, buffer, block, ReadFlags::empty())
                .await?;
            made += 1;
            if began.elapsed() >= ROUND_LIMIT {
                break;
            }
        }
        Result::Ok(made)
    });
    let made: u32 = try_join_all(lanes).await?.iter().sum();
    let reads = f64::from(made.max(1));
    Ok((
        reads / began.elapsed().as_secs_f64(),
        (cpu_seconds() - cpu) / reads,
    ))
}

/// CPU time of all threads of the process, those of the kernel's workers included.
fn cpu_seconds() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([].into_iter()), 0.0);
    }
}
