//! One way to read and nothing else, for counting its instructions.
//!
//! `hot_path PATH DIR READS` makes that many reads of 4 KiB with `O_DIRECT`, from a file that it
//! makes in `DIR` and removes again; `hot_path --list` names the paths. `instructions.sh` runs it
//! under callgrind. On tmpfs, where a read is done before its submission returns, each path goes
//! the same way every time.
#![allow(unsafe_code)]

use std::error::Error;
use std::fs::OpenOptions;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::ptr;
use std::sync::Arc;
use std::task::Poll;

use tokio::runtime::{Builder, Runtime};
use tokio::task::{LocalSet, spawn_local};
use tokio_kaio::{
    AioCommandError, AioContextHandle, File, LocalAioContextHandle, LockedBuf, ReadFlags,
    aio_context, local_aio_context,
};

const BLOCK: usize = 4096;
const BLOCKS: u64 = 256;
/// Tasks, or reads of a wave.
const DEPTH: usize = 32;
const SLOTS: usize = 128;

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type HotPath = fn(&Path, usize) -> Result<()>;

/// `one`: each read waits for the one before it. `waves`: one task starts as many as the depth,
/// then waits for all of them. `tasks`: as many tasks as the depth, each with one read at a time.
const PATHS: [(&str, HotPath); 7] = [
    ("bare/one", |file, reads| bare::<1>(file, reads)),
    ("bare/waves-32", |file, reads| bare::<DEPTH>(file, reads)),
    ("current-thread/one", current_thread_one),
    ("current-thread/waves-32", current_thread_waves),
    ("current-thread/tasks-32", current_thread_tasks),
    ("local/one", local_one),
    ("local/waves-32", local_waves),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hot_path: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<()> {
    match args {
        ["--list"] => PATHS.iter().for_each(|(name, _)| println!("{name}")),
        [name, dir, reads] => {
            let path = PATHS.iter().find(|path| path.0 == *name);
            let (_, path) = path.ok_or_else(|| format!("no path {name}: see --list"))?;
            let dir = tempfile::tempdir_in(dir)?;
            let file = dir.path().join("blocks");
            std::fs::write(&file, vec![7; BLOCK * BLOCKS as usize])?;
            std::fs::File::open(&file)?.sync_all()?;
            path(&file, reads.parse()?)?;
        }
        _ => return Err("usage: hot_path PATH DIR READS, or hot_path --list".into()),
    }
    Ok(())
}

/// Offsets of blocks, drawn with a few instructions.
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

fn current_thread_one(path: &Path, reads: usize) -> Result<()> {
    let runtime = runtime()?;
    runtime.block_on(async {
        let (context, reader) = shared(path).await?;
        tokio::spawn(async move { one(&*reader, reads, 1).await }).await?;
        context.close().await;
        Ok(())
    })
}

fn current_thread_waves(path: &Path, reads: usize) -> Result<()> {
    let runtime = runtime()?;
    runtime.block_on(async {
        let (context, reader) = shared(path).await?;
        tokio::spawn(async move { waves(&*reader, reads).await }).await?;
        context.close().await;
        Ok(())
    })
}

fn current_thread_tasks(path: &Path, reads: usize) -> Result<()> {
    let runtime = runtime()?;
    runtime.block_on(async {
        let (context, reader) = shared(path).await?;
        let tasks: Vec<_> = (0..DEPTH as u64)
            .map(|seed| {
                let reader = Arc::clone(&reader);
                tokio::spawn(async move { one(&*reader, reads / DEPTH, seed).await })
            })
            .collect();
        for task in tasks {
            task.await?;
        }
        context.close().await;
        Ok(())
    })
}

fn local_one(path: &Path, reads: usize) -> Result<()> {
    LocalSet::new().block_on(&runtime()?, async {
        let (context, handle, background) = local_aio_context(SLOTS, true)?;
        spawn_local(background);
        let file = File::open(path, false).await?;
        let reader = Local { handle, file };
        spawn_local(async move { one(&reader, reads, 1).await }).await?;
        context.close().await;
        Ok(())
    })
}

fn local_waves(path: &Path, reads: usize) -> Result<()> {
    LocalSet::new().block_on(&runtime()?, async {
        let (context, handle, background) = local_aio_context(SLOTS, true)?;
        spawn_local(background);
        let file = File::open(path, false).await?;
        let reader = Local { handle, file };
        spawn_local(async move { waves(&reader, reads).await }).await?;
        context.close().await;
        Ok(())
    })
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

async fn shared(path: &Path) -> Result<(tokio_kaio::AioContext, Arc<Shared>)> {
    let (context, handle) = aio_context(SLOTS, true)?;
    let file = File::open(path, false).await?;
    Ok((context, Arc::new(Shared { handle, file })))
}

/// Stands for a context of either flavour, with the file to read.
trait Reader {
    fn read<'a>(
        &'a self,
        offset: u64,
        buffer: &'a mut LockedBuf,
    ) -> impl Future<Output = std::result::Result<u64, AioCommandError>> + 'a;
}

struct Shared {
    handle: AioContextHandle,
    file: File,
}

impl Reader for Shared {
    #[inline]
    fn read<'a>(
        &'a self,
        offset: u64,
        buffer: &'a mut LockedBuf,
    ) -> impl Future<Output = std::result::Result<u64, AioCommandError>> + 'a {
        let (file, handle) = (&self.file, &self.handle);
        file.read_at(handle, offset, buffer, BLOCK as u64, ReadFlags::empty())
    }
}

struct Local {
    handle: LocalAioContextHandle,
    file: File,
}

impl Reader for Local {
    #[inline]
    fn read<'a>(
        &'a self,
        offset: u64,
        buffer: &'a mut LockedBuf,
    ) -> impl Future<Output = std::result::Result<u64, AioCommandError>> + 'a {
        let (file, handle) = (&self.file, &self.handle);
        file.read_at(handle, offset, buffer, BLOCK as u64, ReadFlags::empty())
    }
}

/// Panics where a read fails or falls short, as do [`waves`] and [`bare`].
async fn one(reader: &impl Reader, reads: usize, seed: u64) {
    let mut buffer = buffer();
    let mut offsets = Offsets(seed);
    for _ in 0..reads {
        let read = reader.read(offsets.next(), &mut buffer).await;
        assert_eq!(read.expect("a read"), BLOCK as u64);
    }
}

async fn waves(reader: &impl Reader, reads: usize) {
    let mut buffers: Vec<_> = (0..DEPTH).map(|_| buffer()).collect();
    let mut offsets = Offsets(1);
    for _ in 0..reads / DEPTH {
        let wave = buffers
            .iter_mut()
            .map(|buffer| Some(reader.read(offsets.next(), buffer)));
        join(wave.collect()).await;
    }
}

/// Waits for all of a wave: the least that can do it.
async fn join<F>(mut wave: Vec<Option<F>>)
where
    F: Future<Output = std::result::Result<u64, AioCommandError>>,
{
    let mut left = wave.len();
    poll_fn(move |cx| {
        for slot in &mut wave {
            let Some(read) = slot else { continue };
            // SAFETY: the vector is not touched but here, where its elements stay in their places
            // until they are dropped there.
            let read = unsafe { Pin::new_unchecked(read) };
            if let Poll::Ready(read) = read.poll(cx) {
                assert_eq!(read.expect("a read"), BLOCK as u64);
                *slot = None;
                left -= 1;
            }
        }
        match left {
            0 => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
}

fn buffer() -> LockedBuf {
    LockedBuf::with_size(BLOCK).expect("memory for a block")
}

// --- the bare loop ------------------------------------------------------------------------------

/// `struct iocb`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
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

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    iocb: u64,
    res: i64,
    res2: i64,
}

/// `io_submit` of `depth` reads, then `io_getevents` until they are back: what nothing that is
/// built on these calls can go below.
fn bare<const DEPTH: usize>(path: &Path, reads: usize) -> Result<()> {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_DIRECT).open(path)?;
    let fd = file.as_raw_fd();
    // For the life of the process, so that an error leaves nothing to the kernel that is gone.
    let buffers = Box::leak(Box::new(std::array::from_fn::<_, DEPTH, _>(|_| buffer())));
    let mut offsets = Offsets(1);
    let mut events = [Event::default(); DEPTH];

    let mut context: libc::c_ulong = 0;
    // SAFETY: the kernel writes the id to a word of ours.
    let made = unsafe { libc::syscall(libc::SYS_io_setup, SLOTS, &raw mut context) };
    done(made)?;
    for _ in 0..reads / DEPTH {
        let mut iocbs = buffers.each_mut().map(|buffer| Iocb {
            fd: fd as u32,
            buffer: buffer.as_mut().as_mut_ptr() as u64,
            len: BLOCK as u64,
            offset: offsets.next() as i64,
            ..Iocb::default()
        });
        let mut pointers = iocbs.each_mut().map(ptr::from_mut);
        let mut sent = 0;
        while sent < DEPTH {
            let rest = pointers[sent..].as_mut_ptr();
            // SAFETY: iocbs that are valid for the call, over buffers that are never dropped.
            let n = unsafe { libc::syscall(libc::SYS_io_submit, context, DEPTH - sent, rest) };
            sent += done(n)?;
        }
        let mut back = 0;
        while back < DEPTH {
            let left = (DEPTH - back) as libc::c_long;
            let room = events.as_mut_ptr();
            let timeout = ptr::null_mut::<libc::timespec>();
            // SAFETY: there is room for `left` events.
            let n = unsafe {
                libc::syscall(libc::SYS_io_getevents, context, left, left, room, timeout)
            };
            let n = done(n)?;
            for event in &events[..n] {
                assert_eq!(event.res, BLOCK as i64);
            }
            back += n;
        }
    }
    // SAFETY: nothing is in flight, and nobody else uses the context.
    let gone = unsafe { libc::syscall(libc::SYS_io_destroy, context) };
    done(gone)?;
    Ok(())
}

/// What a system call returned.
fn done(code: libc::c_long) -> io::Result<usize> {
    usize::try_from(code).map_err(|_| io::Error::last_os_error())
}
