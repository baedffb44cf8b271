//! [`SoakTurn`]: all workloads at the same time, on one backend and one runtime.

use std::fmt;
use std::fs;
use std::future::Future;
use std::path::Path;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio_kaio::{AioContextBuilder, Backend, BufferPool, SizeClassPool};

use crate::fault_jobs::FaultPlaces;
use crate::soak_job::{BLOCK, Result, SoakJob};
use crate::work_counts::{WorkCounts, Workload};
use crate::{
    block_jobs, cancel_jobs, context_jobs, fault_jobs, group_jobs, range_jobs, staged_jobs,
    stream_jobs, unaligned_jobs,
};

/// Slots of the context: fewer than there are operations, so that some wait.
const SLOTS: usize = 32;

/// A future that takes this long hangs. Only time in which this process runs counts: it may be stopped, or may
/// get little time on a busy machine.
const HANG: Duration = Duration::from_secs(1200);

/// The runtime of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TurnRuntime {
    CurrentThread,
    MultiThread,
}

impl TurnRuntime {
    pub(crate) fn build(self) -> Result<Runtime> {
        let mut builder = match self {
            TurnRuntime::CurrentThread => Builder::new_current_thread(),
            TurnRuntime::MultiThread => Builder::new_multi_thread(),
        };
        Ok(builder.worker_threads(2).enable_all().build()?)
    }
}

/// One turn.
pub(crate) struct SoakTurn {
    pub(crate) backend: Backend,
    pub(crate) runtime: TurnRuntime,
    pub(crate) time: Duration,
    pub(crate) seed: u64,
    pub(crate) number: u64,
}

impl fmt::Display for SoakTurn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SoakTurn {
            backend,
            runtime,
            seed,
            ..
        } = self;
        write!(
            f,
            "turn {} on {backend}, {runtime:?}, --seed {seed}",
            self.number
        )
    }
}

/// Checks that a backend is available.
pub(crate) fn probe(backend: Backend) -> Result<()> {
    let runtime = TurnRuntime::CurrentThread.build()?;
    runtime.block_on(async {
        let (context, _) = AioContextBuilder::new(SLOTS).backend(backend).build()?;
        context.close().await;
        Ok(())
    })
}

type Job = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// A workload and the function that runs it, once for each job.
fn jobs(job: impl Fn(Workload) -> SoakJob, places: &FaultPlaces) -> Vec<(Workload, Job)> {
    let mut jobs: Vec<(Workload, Job)> = Vec::new();
    for _ in 0..4 {
        let workload = Workload::Blocks;
        jobs.push((
            workload,
            Box::pin(block_jobs::read_and_write_blocks(job(workload))),
        ));
    }
    for _ in 0..3 {
        let workload = Workload::Cancellation;
        jobs.push((
            workload,
            Box::pin(cancel_jobs::cancel_operations(job(workload))),
        ));
    }
    for _ in 0..2 {
        let workload = Workload::Streams;
        jobs.push((
            workload,
            Box::pin(stream_jobs::grow_and_read_a_file(job(workload))),
        ));
    }
    let workload = Workload::Ranges;
    jobs.push((workload, Box::pin(range_jobs::read_ranges(job(workload)))));
    let workload = Workload::Unaligned;
    jobs.push((
        workload,
        Box::pin(unaligned_jobs::read_and_write_bytes(job(workload))),
    ));
    let workload = Workload::Groups;
    jobs.push((
        workload,
        Box::pin(group_jobs::read_in_groups(job(workload))),
    ));
    let workload = Workload::StagedFiles;
    jobs.push((
        workload,
        Box::pin(staged_jobs::replace_files(job(workload))),
    ));
    let workload = Workload::Contexts;
    jobs.push((
        workload,
        Box::pin(context_jobs::make_and_end_contexts(job(workload))),
    ));
    if let Some(full) = &places.full {
        let workload = Workload::FullFileSystem;
        jobs.push((
            workload,
            Box::pin(fault_jobs::fill_up(job(workload), full.clone())),
        ));
    }
    if let Some(broken) = &places.broken {
        let workload = Workload::BrokenDevice;
        jobs.push((
            workload,
            Box::pin(fault_jobs::read_errors(job(workload), broken.clone())),
        ));
    }
    jobs
}

/// The result of `future`. `None` if it hangs.
async fn unless_it_hangs<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..HANG.as_secs() {
        tokio::select! {
            result = &mut future => return Some(result),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
    None
}

/// Where each thread of this process waits in the kernel, and the state of its rings of io_uring: what is needed
/// to explain a hang.
fn kernel_waits() -> String {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let entries = |folder| fs::read_dir(folder).into_iter().flatten().flatten();
    let threads = entries("/proc/self/task").map(|thread| {
        let of = |name| read(&thread.path().join(name)).trim().replace('\n', ", ");
        format!("{} waits in {}: {}", of("comm"), of("wchan"), of("stack"))
    });
    let descriptors = entries("/proc/self/fdinfo").map(|descriptor| read(&descriptor.path()));
    let rings = descriptors.filter(|info| info.contains("SqMask"));
    threads.chain(rings).collect::<Vec<_>>().join("\n")
}

impl SoakTurn {
    /// Runs the workloads in `dir`, and ends everything that they have made.
    ///
    /// # Errors
    ///
    /// The first error of a workload that it does not expect, wrong data among them, and a context that has
    /// requests left.
    pub(crate) fn run(&self, dir: &Path, places: &FaultPlaces, counts: &WorkCounts) -> Result<()> {
        let dir = dir.join(self.number.to_string());
        fs::create_dir(&dir)?;
        let runtime = self.runtime.build()?;
        runtime.block_on(self.run_jobs(&dir, places, counts))?;
        drop(runtime);
        fs::remove_dir_all(&dir)?;
        Ok(())
    }

    async fn run_jobs(&self, dir: &Path, places: &FaultPlaces, counts: &WorkCounts) -> Result<()> {
        let pool = BufferPool::new(16, 4 * BLOCK)?;
        let buffers = SizeClassPool::new(16 << 20)?;
        let mut builder = AioContextBuilder::new(SLOTS)
            .backend(self.backend)
            .buffers(&buffers);
        if self.number % 4 < 2 {
            builder = builder.register_buffers(&pool);
        }
        if self.number % 3 == 0 {
            builder = builder.shards(2);
        }
        let (context, handle) = builder.build()?;
        let free = context.available_slots();

        let end = Instant::now() + self.time;
        let random = std::cell::RefCell::new(Rng::with_seed(self.seed));
        let number = std::cell::Cell::new(0);
        let job = |workload| {
            number.set(number.get() + 1);
            SoakJob {
                handle: handle.clone(),
                backend: self.backend,
                pool: pool.clone(),
                dir: dir.join(number.get().to_string()),
                random: random.borrow_mut().fork(),
                end,
                workload,
                counts: counts.clone(),
            }
        };
        let jobs = jobs(job, places);
        for number in 1..=number.get() {
            fs::create_dir(dir.join(number.to_string()))?;
        }
        let mut running = JoinSet::new();
        for (workload, job) in jobs {
            running.spawn(async move {
                job.await
                    .map_err(|error| format!("{}: {error}", workload.name()))
            });
        }
        let all = async {
            while let Some(ended) = running.join_next().await {
                ended??;
            }
            Result::Ok(())
        };
        let hang = || {
            let (metrics, waits) = (handle.metrics(), kernel_waits());
            format!("it hangs: {metrics:?}\n{waits}")
        };
        unless_it_hangs(all).await.ok_or_else(hang)??;

        // Abandoned requests complete, and give their slots back.
        let idle = async {
            while handle.available_slots() != free || handle.metrics().in_flight > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        unless_it_hangs(idle).await.ok_or_else(hang)?;
        let metrics = handle.metrics();
        let is_idle = metrics.submitted == metrics.completed
            && (metrics.queued, metrics.waiting_for_thread) == (0, 0)
            && metrics.unmatched_completions == 0;
        if !is_idle {
            return Err(format!("the idle context has work left: {metrics:?}").into());
        }
        unless_it_hangs(context.close())
            .await
            .ok_or("close hangs")?;
        // A thread that has freed a slot drops the buffer of the request a moment later.
        let missing = || pool.capacity() - pool.available();
        let returned = async {
            while missing() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let is_returned = unless_it_hangs(returned).await;
        is_returned.ok_or_else(|| format!("{} buffers are missing", missing()).into())
    }
}
