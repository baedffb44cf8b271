//! How many system calls an operation takes, counted one by one.
//!
//! This binary defines the C library's functions through which system calls are made, so that the
//! library, tokio and mio call these instead: they count on the thread that asks for it, then call
//! the real ones. What counts is every call between the start and the end of a long row of reads.
#![allow(unsafe_code)]

mod common;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_int, c_long, c_void};
use std::fs;
use std::future::Future;
use std::pin::Pin;
use std::process::Command;
use std::task::Poll;

use common::*;
use tokio::task::{LocalSet, spawn_local};
use tokio_kaio::{
    AioCommandError, File, GenericAioContextHandle, LockedBuf, ReadFlags, aio_context,
    local_aio_context,
};

thread_local! {
    /// System calls of this thread.
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    CALLS.with(|calls| calls.set(calls.get() + 1));
}

/// Defines a function of the C library's that counts and goes on to the real one.
macro_rules! counted {
    ($name:ident($($arg:ident: $type:ty),*) -> $result:ty) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($arg: $type),*) -> $result {
            type Function = unsafe extern "C" fn($($type),*) -> $result;
            static REAL: std::sync::OnceLock<Function> = std::sync::OnceLock::new();
            count();
            let real = REAL.get_or_init(|| {
                let name = concat!(stringify!($name), "\0");
                let name = CStr::from_bytes_with_nul(name.as_bytes()).unwrap();
                // SAFETY: this binary's function has the real one's type.
                unsafe { real_function(name) }
            });
            // SAFETY: the caller's arguments, passed on.
            unsafe { real($($arg),*) }
        }
    };
}

// `io_*` and, from the standard library, futexes.
counted!(syscall(number: c_long, a: c_long, b: c_long, c: c_long, d: c_long, e: c_long, f: c_long) -> c_long);
counted!(epoll_wait(epoll: c_int, events: *mut libc::epoll_event, room: c_int, timeout: c_int) -> c_int);
counted!(epoll_ctl(epoll: c_int, op: c_int, fd: c_int, event: *mut libc::epoll_event) -> c_int);
counted!(read(fd: c_int, buffer: *mut c_void, len: usize) -> isize);
counted!(write(fd: c_int, buffer: *const c_void, len: usize) -> isize);
counted!(close(fd: c_int) -> c_int);
counted!(fcntl(fd: c_int, command: c_int, argument: c_long) -> c_int);
counted!(mlock(start: *const c_void, len: usize) -> c_int);
counted!(munmap(start: *mut c_void, len: usize) -> c_int);
counted!(madvise(start: *mut c_void, len: usize, advice: c_int) -> c_int);
counted!(sched_yield() -> c_int);

const BLOCKS: u64 = 256;

/// The median of the calls per operation of several rounds. Other load on the machine and on the disk adds calls to
/// some rounds, a fault of the library adds them to all.
fn median_per_op(mut rounds: Vec<u64>, ops_per_round: u64) -> f64 {
    rounds.sort_unstable();
    rounds[rounds.len() / 2] as f64 / ops_per_round as f64
}

/// A handle of any kind of context.
trait Reads {
    fn read<'a>(
        &'a self,
        file: &'a File,
        block: u64,
        target: &'a mut LockedBuf,
    ) -> impl Future<Output = Result<u64, AioCommandError>> + 'a;
}

impl<M, A, L> Reads for GenericAioContextHandle<M, A, L>
where
    M: lock_api::RawMutex,
    A: tokio_kaio::IntrusiveAdapter<M, L>,
    A::LinkOps: intrusive_collections::linked_list::LinkedListOps + Default,
    L: intrusive_collections::DefaultLinkOps<Ops = A::LinkOps> + Default,
{
    fn read<'a>(
        &'a self,
        file: &'a File,
        block: u64,
        target: &'a mut LockedBuf,
    ) -> impl Future<Output = Result<u64, AioCommandError>> + 'a {
        let offset = block % BLOCKS * BLOCK as u64;
        file.read_at(self, offset, target, BLOCK as u64, ReadFlags::empty())
    }
}

async fn one_after_another(handle: &impl Reads, file: &File, ops: u64) {
    let mut target = buffer(BLOCK);
    for block in 0..ops {
        assert_eq!(
            handle.read(file, block, &mut target).await.unwrap(),
            BLOCK as u64
        );
    }
}

/// One task makes all reads of a wave and waits for all of them.
async fn in_waves(handle: &impl Reads, file: &File, waves: u64, targets: &mut [LockedBuf]) {
    for wave in 0..waves {
        let mut reads: Vec<_> = targets
            .iter_mut()
            .zip(wave * 32..)
            .map(|(target, block)| Some(Box::pin(handle.read(file, block, target))))
            .collect();
        std::future::poll_fn(|cx| {
            for slot in &mut reads {
                let Some(read) = slot else { continue };
                if let Poll::Ready(read) = Pin::new(read).poll(cx) {
                    assert_eq!(read.unwrap(), BLOCK as u64);
                    *slot = None;
                }
            }
            if reads.iter().all(Option::is_none) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

/// Number of reads of [`check`], each way.
const OPS: u64 = 2048;
/// Number of all its reads.
const READS: u64 = 200 + OPS + 16 * 32 + OPS;

/// Most system calls a read in a wave.
const MOST_IN_WAVES: f64 = 0.3;
/// The same under a tracer, whose stops take so long that the disk completes reads one by one.
const MOST_IN_TRACED_WAVES: f64 = 1.0;

/// The device decides how many completions come between two waits. If it has completed a batch before the next one is
/// collected, as beside a program that takes the CPU, it was idle, and the next batch is small too. So some wave has to
/// take few calls.
async fn check(handle: &impl Reads, file: &File, flavour: &str) {
    let start = std::time::Instant::now();
    loop {
        let together = fewest_calls(handle, file, flavour).await;
        if together <= MOST_IN_WAVES {
            break;
        }
        assert!(
            start.elapsed() < HANG,
            "{flavour}: {together} calls a read in the best wave"
        );
    }
}

/// Makes [`READS`] reads. Returns the system calls a read in the wave that takes fewest.
async fn fewest_calls(handle: &impl Reads, file: &File, flavour: &str) -> f64 {
    const ALONE: u64 = 128;
    const TOGETHER: u64 = 32;
    one_after_another(handle, file, 200).await;
    let mut rounds = Vec::new();
    for _ in 0..OPS / ALONE {
        let before = CALLS.get();
        one_after_another(handle, file, ALONE).await;
        rounds.push(CALLS.get() - before);
    }
    let alone = median_per_op(rounds, ALONE);

    let mut targets: Vec<_> = (0..TOGETHER).map(|_| buffer(BLOCK)).collect();
    in_waves(handle, file, 16, &mut targets).await; // until it is seen that they are waves
    let mut fewest = u64::MAX;
    for _ in 0..OPS / TOGETHER {
        let before = CALLS.get();
        in_waves(handle, file, 1, &mut targets).await;
        fewest = fewest.min(CALLS.get() - before);
    }
    let together = fewest as f64 / TOGETHER as f64;

    println!("{flavour}: {alone:.3} calls a read alone, {together:.3} in the best wave of 32");
    assert!(
        alone <= 2.1,
        "{flavour}: {alone} system calls a read, one after another"
    );
    together
}

#[test]
fn the_counter_counts() {
    let before = CALLS.get();
    std::thread::yield_now();
    assert_eq!(CALLS.get() - before, 1);
}

#[test]
fn a_read_takes_two_system_calls_alone_and_fewer_in_a_batch() {
    if !is_kernel_aio_build() {
        return;
    }
    if cfg!(kaio_force_getevents) {
        println!("skipped: without the ring in user space, each reap is a system call");
        return;
    }
    for dir in test_dirs() {
        write_patterned(&dir.path().join("blocks"), BLOCKS as usize);
        // As the future of `block_on`.
        current_thread().block_on(async {
            let file = open_rw(&dir, "blocks").await;
            let (context, handle) = aio_context(64, true).unwrap();
            check(&handle, &file, "block_on").await;
            context.close().await;
        });
        // As a task.
        current_thread().block_on(async {
            let file = open_rw(&dir, "blocks").await;
            let (context, handle) = aio_context(64, true).unwrap();
            let task = async move { check(&handle, &file, "task").await };
            tokio::spawn(task).await.unwrap();
            context.close().await;
        });
        // As a local task, with a local context.
        LocalSet::new().block_on(&current_thread(), async {
            let file = open_rw(&dir, "blocks").await;
            let (context, handle, background) = local_aio_context(64, true).unwrap();
            spawn_local(background);
            spawn_local(async move { check(&handle, &file, "local").await })
                .await
                .unwrap();
            context.close().await;
        });
    }
}

/// Calls by name of all threads of `name`, as a child process under `strace`. `None`, and a line that says so,
/// where nothing can be traced.
fn traced_calls(name: &str) -> Option<BTreeMap<String, u64>> {
    let dir = tempfile::tempdir().unwrap();
    let table = dir.path().join("calls");
    let strace = ["strace", "-f", "-c", "-o", table.to_str().unwrap()];
    let can_trace = Command::new(strace[0])
        .args(&strace[1..])
        .arg("true")
        .output();
    if !can_trace.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: strace is missing, or ptrace is forbidden");
        return None;
    }
    let output = child_command(&strace, name).output().unwrap();
    let said = [&*output.stdout, &*output.stderr].map(String::from_utf8_lossy);
    assert!(output.status.success(), "{}", said.concat());
    print!("{}", said[0]);
    // Columns: share, seconds, microseconds a call, calls, perhaps errors, name.
    let table = fs::read_to_string(&table).unwrap();
    let rows = table.lines().filter_map(|line| {
        let cells: Vec<_> = line.split_whitespace().collect();
        let calls = cells.get(3)?.parse().ok()?;
        Some((cells.last()?.to_string(), calls))
    });
    Some(rows.collect())
}

#[test]
fn under_strace_reads_make_the_same_system_calls() {
    if !is_kernel_aio_build() || cfg!(kaio_force_getevents) {
        return;
    }
    if is_child() {
        for dir in test_dirs() {
            write_patterned(&dir.path().join("blocks"), BLOCKS as usize);
            current_thread().block_on(async {
                let file = open_rw(&dir, "blocks").await;
                let (context, handle) = aio_context(64, true).unwrap();
                let together = fewest_calls(&handle, &file, "traced").await;
                assert!(together <= MOST_IN_TRACED_WAVES, "{together} calls a read");
                let offloads = handle.metrics().offloads;
                assert!(
                    offloads <= READS / 20,
                    "{offloads} of {READS} reads offloaded"
                );
                context.close().await;
            });
        }
        return;
    }
    let Some(calls) = traced_calls("under_strace_reads_make_the_same_system_calls") else {
        return;
    };
    let reads = READS * test_dirs().len() as u64;
    let of = |name: &str| calls.get(name).copied().unwrap_or_default();
    let submissions = of("io_submit");
    assert!(
        (reads / 64..=reads * 9 / 10).contains(&submissions),
        "half of the reads are alone, the others in batches: {calls:?}"
    );
    // A read that goes to the blocking pool takes several.
    assert!(of("futex") <= reads / 4, "{calls:?}");
}
