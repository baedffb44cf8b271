//! What an operation costs on top of the bare system calls: CPU an operation, as a ratio to a loop
//! of `io_submit` and `io_getevents` in the same process.
//!
//! `cargo bench --bench cost [-- FILTER]`. Rounds of the two alternate, and the figure is the
//! median of the ratios of neighbouring rounds: drift of the machine hits both alike. System calls
//! an operation are counted by `tests/system_calls.rs`, allocations by `tests/allocations.rs`.
#![allow(unsafe_code)]

use std::error::Error;
use std::fs::OpenOptions;
use std::future::Future;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::runtime::{Builder, Runtime};
use tokio::task::{LocalSet, spawn_local};
use tokio_kaio::{AioContextHandle, File, LockedBuf, ReadFlags, aio_context, local_aio_context};

const BLOCK: usize = 4096;
const BLOCKS: u64 = 16 * 1024;
const ROUNDS: usize = 15;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// One way to read. `run` makes at least `ops` random reads of a block, `depth` at a time.
trait Engine {
    fn run(&mut self, ops: usize, depth: usize) -> usize;
}

fn main() -> Result<()> {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    println!("CPU an operation, 4 KiB O_DIRECT reads; ratio to the bare loop, median of {ROUNDS}");
    println!(
        "{:<8} {:>5}  {:<28} {:>9} {:>9} {:>7}",
        "where", "depth", "engine", "bare ns", "ns", "ratio"
    );
    for (place, dir, ops) in [
        ("tmpfs", Path::new("/dev/shm"), 64 * 1024),
        ("disk", Path::new(env!("CARGO_TARGET_TMPDIR")), 8 * 1024),
    ] {
        let dir = tempfile::tempdir_in(dir)?;
        let path = dir.path().join("blocks");
        std::fs::write(&path, vec![7; BLOCK * BLOCKS as usize])?;
        std::fs::File::open(&path)?.sync_all()?;
        for depth in [1, 32] {
            for (name, mut engine) in engines(&path)? {
                let label = format!("{place} {depth} {name}");
                if filter
                    .as_ref()
                    .is_some_and(|filter| !label.contains(filter.as_str()))
                {
                    continue;
                }
                let mut bare = Bare::new(&path)?;
                let (mut ratios, mut ours, mut theirs) = (vec![], vec![], vec![]);
                for _ in 0..ROUNDS {
                    let base = cpu_per_op(&mut bare, ops, depth);
                    let cost = cpu_per_op(&mut *engine, ops, depth);
                    ratios.push(cost / base);
                    theirs.push(base);
                    ours.push(cost);
                }
                println!(
                    "{place:<8} {depth:>5}  {name:<28} {:>9.0} {:>9.0} {:>7.2}",
                    median(theirs),
                    median(ours),
                    median(ratios)
                );
            }
        }
    }
    Ok(())
}

fn engines(path: &Path) -> Result<Vec<(&'static str, Box<dyn Engine>)>> {
    Ok(vec![
        (
            "one task, current-thread",
            Box::new(Shared::new(path, 1, false)?) as Box<dyn Engine>,
        ),
        (
            "tasks, current-thread",
            Box::new(Shared::new(path, 1, true)?),
        ),
        ("one task, local context", Box::new(Local::new(path)?)),
        (
            "one task, 2 workers",
            Box::new(Shared::new(path, 2, false)?),
        ),
        ("tasks, 2 workers", Box::new(Shared::new(path, 2, true)?)),
    ])
}

fn cpu_per_op(engine: &mut dyn Engine, ops: usize, depth: usize) -> f64 {
    let before = cpu_ns();
    let ops = engine.run(ops, depth);
    (cpu_ns() - before) / ops as f64
}

/// CPU time of the process, user and system.
fn cpu_ns() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes to a structure of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Offsets of blocks, the same for every engine.
struct Offsets(u64);

impl Offsets {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % BLOCKS * BLOCK as u64
    }
}

// --- tokio-kaio ---------------------------------------------------------------------------------

/// Reads in waves of `depth`, from one task, without allocating.
macro_rules! waves {
    ($handle:expr, $file:expr, $ops:expr, $depth:expr) => {{
        let mut buffers: Vec<_> = (0..$depth)
            .map(|_| LockedBuf::with_size(BLOCK).unwrap())
            .collect();
        let mut offsets = Offsets(1);
        let waves = $ops / $depth;
        for _ in 0..waves {
            let reads = buffers.iter_mut().map(|buffer| {
                $file.read_at(
                    $handle,
                    offsets.next(),
                    buffer,
                    BLOCK as u64,
                    ReadFlags::empty(),
                )
            });
            join(reads, $depth).await;
        }
        waves * $depth
    }};
}

/// An [`aio_context`] on a runtime with one thread or several.
struct Shared {
    runtime: Runtime,
    handle: AioContextHandle,
    file: Arc<File>,
    /// A task a request, or one task for all.
    tasks: bool,
}

impl Shared {
    fn new(path: &Path, threads: usize, tasks: bool) -> Result<Shared> {
        let runtime = match threads {
            1 => Builder::new_current_thread().enable_all().build()?,
            n => Builder::new_multi_thread()
                .worker_threads(n)
                .enable_all()
                .build()?,
        };
        let (context, handle) = runtime.block_on(async { aio_context(128, true) })?;
        std::mem::forget(context); // for the life of the process
        let file = Arc::new(runtime.block_on(File::open(path, false))?);
        Ok(Shared {
            runtime,
            handle,
            file,
            tasks,
        })
    }
}

impl Engine for Shared {
    fn run(&mut self, ops: usize, depth: usize) -> usize {
        let (handle, file) = (self.handle.clone(), Arc::clone(&self.file));
        if !self.tasks {
            // A task, so that with several workers it runs on one of them.
            let task = async move { waves!(&handle, &file, ops, depth) };
            return self
                .runtime
                .block_on(async { tokio::spawn(task).await.unwrap() });
        }
        let each = ops / depth;
        self.runtime.block_on(async {
            let tasks: Vec<_> = (0..depth)
                .map(|task| {
                    let (handle, file) = (handle.clone(), Arc::clone(&file));
                    tokio::spawn(async move {
                        let mut buffer = LockedBuf::with_size(BLOCK).unwrap();
                        let mut offsets = Offsets(task as u64);
                        for _ in 0..each {
                            let offset = offsets.next();
                            file.read_at(
                                &handle,
                                offset,
                                &mut buffer,
                                BLOCK as u64,
                                ReadFlags::empty(),
                            )
                            .await
                            .unwrap();
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
        each * depth
    }
}

/// Waits for all of `futures`.
async fn join<F, T, E: std::fmt::Debug>(futures: impl Iterator<Item = F>, expected: usize)
where
    F: Future<Output = std::result::Result<T, E>>,
{
    let mut waiting: Vec<Option<F>> = futures.map(Some).collect();
    let mut left = expected;
    std::future::poll_fn(|cx: &mut Context<'_>| {
        for slot in &mut waiting {
            let Some(future) = slot else { continue };
            // SAFETY: the vector neither grows nor moves its elements until they are done, and
            // they are dropped in place.
            if let Poll::Ready(result) = unsafe { Pin::new_unchecked(future) }.poll(cx) {
                result.unwrap();
                *slot = None;
                left -= 1;
            }
        }
        if left == 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// A [`local_aio_context`] in a `LocalSet`.
struct Local {
    runtime: Runtime,
    path: std::path::PathBuf,
}

impl Local {
    fn new(path: &Path) -> Result<Local> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Local {
            runtime,
            path: path.into(),
        })
    }
}

impl Engine for Local {
    fn run(&mut self, ops: usize, depth: usize) -> usize {
        let path = self.path.clone();
        LocalSet::new().block_on(&self.runtime, async move {
            let (context, handle, background) = local_aio_context(128, true).unwrap();
            spawn_local(background);
            let file = File::open(path, false).await.unwrap();
            let done = waves!(&handle, &file, ops, depth);
            drop(context);
            done
        })
    }
}

// --- the bare loop ------------------------------------------------------------------------------

/// `struct iocb`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Iocb {
    data: u64,
    key_and_flags: u64,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    len: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    eventfd: u32,
}

/// `io_submit` of a wave, then `io_getevents` until it is back.
struct Bare {
    context: libc::c_ulong,
    file: std::fs::File,
    buffers: Vec<LockedBuf>,
}

impl Bare {
    fn new(path: &Path) -> Result<Bare> {
        let mut options = OpenOptions::new();
        let file = options.read(true).custom_flags(libc::O_DIRECT).open(path)?;
        let mut context: libc::c_ulong = 0;
        // SAFETY: the kernel writes the id to a word of ours.
        let code = unsafe { libc::syscall(libc::SYS_io_setup, 128, &raw mut context) };
        if code != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        let buffers = (0..128)
            .map(|_| LockedBuf::with_size(BLOCK).unwrap())
            .collect();
        Ok(Bare {
            context,
            file,
            buffers,
        })
    }

    fn iocb(fd: RawFd, buffer: &mut LockedBuf, offset: u64) -> Iocb {
        Iocb {
            data: 0,
            key_and_flags: 0,
            opcode: 0,
            priority: 0,
            fd: fd as u32,
            buffer: buffer.as_mut().as_mut_ptr() as u64,
            len: BLOCK as u64,
            offset: offset as i64,
            reserved: 0,
            flags: 0,
            eventfd: 0,
        }
    }
}

impl Engine for Bare {
    fn run(&mut self, ops: usize, depth: usize) -> usize {
        let mut offsets = Offsets(1);
        let fd = self.file.as_raw_fd();
        let mut events = [[0_u64; 4]; 128];
        let waves = ops / depth;
        for _ in 0..waves {
            let mut iocbs: Vec<Iocb> = self.buffers[..depth]
                .iter_mut()
                .map(|buffer| Bare::iocb(fd, buffer, offsets.next()))
                .collect();
            let mut pointers: Vec<*mut Iocb> =
                iocbs.iter_mut().map(|iocb| &raw mut *iocb).collect();
            let (mut sent, mut back) = (0, 0);
            while sent < depth {
                let rest = pointers[sent..].as_mut_ptr();
                // SAFETY: valid iocbs over buffers that live as long as `self`, which waits for
                // all events below.
                let n =
                    unsafe { libc::syscall(libc::SYS_io_submit, self.context, depth - sent, rest) };
                assert!(n > 0, "{}", std::io::Error::last_os_error());
                sent += n as usize;
            }
            while back < depth {
                // SAFETY: room for 128 events.
                let n = unsafe {
                    libc::syscall(
                        libc::SYS_io_getevents,
                        self.context,
                        (depth - back) as libc::c_long,
                        128 as libc::c_long,
                        events.as_mut_ptr(),
                        std::ptr::null_mut::<libc::timespec>(),
                    )
                };
                assert!(n > 0, "{}", std::io::Error::last_os_error());
                assert!(
                    events[..n as usize]
                        .iter()
                        .all(|event| event[2] == BLOCK as u64)
                );
                back += n as usize;
            }
        }
        waves * depth
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // SAFETY: nothing is in flight, and nobody else uses the context.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}
