//! What file systems do with direct I/O that is submitted with kernel AIO, class of request by class
//! of request: whether the submission waits, what `RWF_NOWAIT` is answered, and what the submit
//! policies make of it. Prints Markdown.
//!
//! ```sh
//! cargo run --release --example file_systems -- /mnt/data "the log's disk=/mnt/log"
//! ```
//!
//! An argument is a directory, or a name for it, `=`, and the directory. Files of a few MiB are made
//! there, and removed. Requests are of 4 KiB, one at a time, on one thread. What the columns mean,
//! and what to do about it, is in `docs/file-systems.md`.
#![allow(unsafe_code)] // for two system calls that the standard library has not

use std::env;
use std::error::Error;
use std::fmt;
use std::fs::OpenOptions;
use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::poll;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tokio_kaio::{
    AioCommandError, AioContext, AioContextBuilder, AioContextHandle, AioOpenOptionsExt, File,
    LockedBuf, ReadFlags, SubmitPolicy, WriteFlags,
};

const BLOCK: u64 = 4096;
const REQUESTS: u64 = 1024;
/// Of what takes longer.
const FEW: u64 = 128;
/// Longer than the kernel's clock ticks, by which file systems set time stamps.
const PAUSE: Duration = Duration::from_millis(11);

/// A class blocks if at least this share of its submissions slept, or if more of its time went by
/// inside of them, unless it is done then.
const MOST: f64 = 0.5;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let places: Vec<_> = env::args().skip(1).collect();
    if places.is_empty() || places.iter().any(|place| place.starts_with('-')) {
        eprintln!("usage: file_systems [NAME=]DIRECTORY...");
        return ExitCode::from(2);
    }
    let mut tables = vec![];
    let mut failed = false;
    for place in &places {
        let (name, dir) = place.split_once('=').unwrap_or((place, place));
        match Table::measure(name, Path::new(dir)).await {
            Ok(table) => tables.push(table),
            Err(error) => {
                eprintln!("file_systems: {name}: {error}");
                failed = true;
            }
        }
    }
    print_summary(&tables);
    tables.iter().for_each(Table::print);
    ExitCode::from(u8::from(failed))
}

/// What is measured of one directory.
struct Table {
    name: String,
    rows: Vec<Row>,
}

struct Row {
    class: Class,
    bare: Bare,
    nowait: Answers,
    inline: Run,
    nowait_first: Run,
    offload: Run,
}

impl Table {
    async fn measure(name: &str, dir: &Path) -> Result<Table> {
        eprintln!("measuring: {name}");
        let dir = tempfile::tempdir_in(dir)?;
        let mut rows = vec![];
        for class in Class::ALL {
            rows.push(Row {
                class,
                bare: Bare::measure(dir.path(), class).await?,
                nowait: Answers::measure(dir.path(), class).await?,
                inline: Run::measure(dir.path(), class, SubmitPolicy::Inline).await?,
                nowait_first: Run::measure(dir.path(), class, SubmitPolicy::NoWaitFirst).await?,
                offload: Run::measure(dir.path(), class, SubmitPolicy::Offload).await?,
            });
        }
        let name = name.to_owned();
        Ok(Table { name, rows })
    }

    fn print(&self) {
        println!("\n### {}\n", self.name);
        println!(
            "| request | submission | slept | in `io_submit` | with `NOWAIT` | slow, `Inline` \
             | refused | offloaded | slow | in `io_submit` | `Inline`, µs | `NoWaitFirst` | `Offload` |\n\
             |---|---|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|"
        );
        for row in &self.rows {
            let Row { bare, inline, .. } = row;
            let default = &row.nowait_first;
            println!(
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {:.0} | {:.2} | {:.2} |",
                row.class.name(),
                bare.verdict(),
                percent(bare.slept, bare.seen),
                percent_of(bare.share_inside()),
                row.nowait,
                percent(inline.slow, inline.requests),
                percent(default.refused, default.requests),
                percent(default.offloaded, default.requests),
                percent(default.slow, default.requests),
                percent_of(default.share_inside()),
                inline.median.as_secs_f64() * 1e6,
                default.median.as_secs_f64() / inline.median.as_secs_f64(),
                row.offload.median.as_secs_f64() / inline.median.as_secs_f64(),
            );
        }
    }
}

fn print_summary(tables: &[Table]) {
    let names = Class::ALL.map(Class::name).join(" | ");
    println!("| file system | {names} |");
    println!("|---{}|", "|---".repeat(Class::ALL.len()));
    for table in tables {
        print!("| {} |", table.name);
        for row in &table.rows {
            let Row { bare, nowait, .. } = row;
            print!(" {}{}; {nowait} |", bare.verdict(), bare.exceptions());
        }
        println!();
    }
}

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Read,
    Overwrite,
    /// An overwrite after a pause.
    Rare,
    Hole,
    Preallocated,
    Extending,
    Append,
    Sync,
}

impl Class {
    const ALL: [Class; 8] = [
        Class::Read,
        Class::Overwrite,
        Class::Rare,
        Class::Hole,
        Class::Preallocated,
        Class::Extending,
        Class::Append,
        Class::Sync,
    ];

    fn name(self) -> &'static str {
        match self {
            Class::Read => "read",
            Class::Overwrite => "overwrite",
            Class::Rare => "overwrite after a pause",
            Class::Hole => "into a hole",
            Class::Preallocated => "preallocated",
            Class::Extending => "extending",
            Class::Append => "append",
            Class::Sync => "fdatasync",
        }
    }

    fn requests(self) -> u64 {
        match self {
            Class::Sync | Class::Rare => FEW,
            _ => REQUESTS,
        }
    }

    /// Makes a file for it.
    fn lay_out(self, path: &Path) -> Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        // Past the page cache: pages that are there would be in the way of the requests.
        let file = options.custom_flags(libc::O_DIRECT).open(path)?;
        let len = BLOCK * REQUESTS;
        match self {
            Class::Read | Class::Overwrite | Class::Rare | Class::Sync => {
                let bytes = block(1 << 20)?;
                for at in (0..len).step_by(bytes.size()) {
                    file.write_all_at(bytes.as_ref(), at)?;
                }
            }
            Class::Hole => file.set_len(len)?,
            Class::Preallocated => {
                // SAFETY: numbers, of which the first is an open file.
                let code = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len as libc::off_t) };
                if code != 0 {
                    return Err(format!("fallocate: {}", io::Error::last_os_error()).into());
                }
            }
            Class::Extending | Class::Append => {}
        }
        file.sync_all()?;
        Ok(())
    }
}

fn block(size: usize) -> Result<LockedBuf> {
    let mut block = LockedBuf::with_size(size)?;
    block.as_mut().fill(b'k');
    Ok(block)
}

/// A file with requests of one class still to be made.
struct Subject {
    class: Class,
    file: File,
    buffer: LockedBuf,
    /// Offsets: each block once, in random order.
    places: Vec<u64>,
    context: AioContext,
    handle: AioContextHandle,
}

impl Subject {
    async fn new(dir: &Path, class: Class, policy: SubmitPolicy) -> Result<Subject> {
        let path = dir.join("file");
        class.lay_out(&path)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = options.aio_open(path, false).await?;
        let mut places: Vec<_> = (0..REQUESTS).map(|i| i * BLOCK).collect();
        if class != Class::Extending {
            places.shuffle(&mut StdRng::seed_from_u64(1));
        }
        let (context, handle) = AioContextBuilder::new(4).submit_policy(policy).build()?;
        Ok(Subject {
            class,
            file,
            buffer: block(BLOCK as usize)?,
            places,
            context,
            handle,
        })
    }

    /// What has to be done before request `i`, and is no part of it.
    async fn prepare(&self, i: u64) -> Result<()> {
        if self.class == Class::Rare {
            tokio::time::sleep(PAUSE).await;
        }
        if self.class == Class::Sync {
            let (at, flags) = (self.places[i as usize], WriteFlags::empty());
            let written = self
                .file
                .write_at(&self.handle, at, &self.buffer, BLOCK, flags);
            written.await?;
        }
        Ok(())
    }

    /// Request `i`.
    async fn request(&mut self, i: u64, nowait: bool) -> std::result::Result<(), AioCommandError> {
        let (file, handle, at) = (&self.file, &self.handle, self.places[i as usize]);
        let done = match self.class {
            Class::Sync => return file.sync_data(handle).await,
            Class::Read => {
                let mut flags = ReadFlags::empty();
                flags.set(ReadFlags::NOWAIT, nowait);
                let read = file.read_at(handle, at, &mut self.buffer, BLOCK, flags);
                read.await?
            }
            _ => {
                let mut flags = WriteFlags::empty();
                flags.set(WriteFlags::NOWAIT, nowait);
                flags.set(WriteFlags::APPEND, self.class == Class::Append);
                let at = if self.class == Class::Append { 0 } else { at };
                let written = file.write_at(handle, at, &self.buffer, BLOCK, flags);
                written.await?
            }
        };
        assert_eq!(done, BLOCK);
        Ok(())
    }

    async fn close(self) {
        self.context.close().await;
    }
}

/// What single submissions without a flag did.
#[derive(Default)]
struct Bare {
    seen: u64,
    /// The thread gave up its CPU by itself while it submitted.
    slept: u64,
    /// Requests that were done when the submission returned, without that.
    done: u64,
    inside: Duration,
    total: Duration,
}

impl Bare {
    async fn measure(dir: &Path, class: Class) -> Result<Bare> {
        let mut subject = Subject::new(dir, class, SubmitPolicy::Inline).await?;
        let mut bare = Bare::default();
        for i in 0..class.requests() {
            subject.prepare(i).await?;
            let handle = subject.handle.clone();
            let watched = watch(&handle, subject.request(i, false)).await;
            watched.result?;
            // One in 61 waits a moment for company instead of being submitted where it is polled.
            if watched.submitted {
                bare.seen += 1;
                bare.slept += u64::from(watched.slept);
                bare.done += u64::from(watched.done && !watched.slept);
                bare.inside += watched.inside;
                bare.total += watched.time;
            }
        }
        subject.close().await;
        Ok(bare)
    }

    fn share_inside(&self) -> f64 {
        share(self.inside, self.total)
    }

    fn verdict(&self) -> &'static str {
        let of_all = |n: u64| n as f64 / self.seen as f64;
        if of_all(self.slept) >= MOST {
            "**blocks**"
        } else if of_all(self.done) >= MOST {
            "inline"
        } else if self.share_inside() > MOST {
            "**blocks**"
        } else {
            "async"
        }
    }

    /// The share of the submissions that slept, where that is not told by the verdict.
    fn exceptions(&self) -> String {
        match self.slept as f64 / self.seen as f64 {
            0.01..MOST => format!(" ({} slept)", percent(self.slept, self.seen)),
            _ => String::new(),
        }
    }
}

/// One request, and its submission.
struct Watched<T> {
    result: T,
    /// The first poll submitted it. What follows is of no meaning otherwise.
    submitted: bool,
    slept: bool,
    done: bool,
    /// Time in `io_submit`.
    inside: Duration,
    /// Time until it was done.
    time: Duration,
}

async fn watch<T>(handle: &AioContextHandle, request: impl Future<Output = T>) -> Watched<T> {
    let mut request = pin!(request);
    let (before, slept) = (handle.metrics(), times_slept());
    let began = Instant::now();
    let first = poll!(request.as_mut());
    let at_once = began.elapsed();
    let (after, slept) = (handle.metrics(), times_slept() - slept);
    let done = first.is_ready();
    let (result, time) = match first {
        Poll::Ready(result) => (result, at_once),
        Poll::Pending => (request.await, began.elapsed()),
    };
    Watched {
        result,
        submitted: after.timed_submits == before.timed_submits + 1,
        slept: slept != 0,
        done,
        inside: after.submit_time - before.submit_time,
        time,
    }
}

/// How often this thread has given up its CPU by itself.
fn times_slept() -> libc::c_long {
    // SAFETY: plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: a structure of ours to write to.
    let code = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) };
    assert_eq!(code, 0);
    usage.ru_nvcsw
}

/// What requests with `NOWAIT` came to. Each that is refused is made again without it, as under
/// `NoWaitFirst`, so that the file is what the next one wants.
#[derive(Default)]
struct Answers {
    taken: u64,
    slept: u64,
    would_wait: u64,
    unknown: u64,
}

impl Answers {
    async fn measure(dir: &Path, class: Class) -> Result<Answers> {
        let mut answers = Answers::default();
        if class == Class::Sync {
            return Ok(answers); // takes no flags
        }
        let mut subject = Subject::new(dir, class, SubmitPolicy::Inline).await?;
        for i in 0..class.requests() {
            subject.prepare(i).await?;
            let handle = subject.handle.clone();
            let watched = watch(&handle, subject.request(i, true)).await;
            match watched.result {
                Ok(()) => {
                    answers.taken += 1;
                    answers.slept += u64::from(watched.submitted && watched.slept);
                    continue;
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => answers.would_wait += 1,
                    Some(libc::EOPNOTSUPP) => answers.unknown += 1,
                    _ => return Err(error.into()),
                },
            }
            subject.request(i, false).await?;
        }
        subject.close().await;
        Ok(answers)
    }
}

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.taken + self.would_wait + self.unknown;
        let answers = [
            (self.taken - self.slept, "taken"),
            (self.slept, "taken, but slept"),
            (self.would_wait, "`EAGAIN`"),
            (self.unknown, "`EOPNOTSUPP`"),
        ];
        let answers: Vec<_> = answers
            .into_iter()
            .filter(|&(n, _)| n > 0)
            .map(|(n, answer)| match n == all {
                true => answer.to_owned(),
                false => format!("{answer} {}", percent(n, all)),
            })
            .collect();
        match answers.is_empty() {
            true => f.write_str("–"),
            false => f.write_str(&answers.join(", ")),
        }
    }
}

/// What came of requests under a policy.
struct Run {
    requests: u64,
    refused: u64,
    offloaded: u64,
    /// Submissions that held up the runtime's thread for more than a millisecond.
    slow: u64,
    /// The runtime's thread, in `io_submit`.
    inside: Duration,
    total: Duration,
    median: Duration,
}

impl Run {
    async fn measure(dir: &Path, class: Class, policy: SubmitPolicy) -> Result<Run> {
        let mut subject = Subject::new(dir, class, policy).await?;
        let mut times = vec![];
        let mut run = Run {
            requests: class.requests(),
            refused: 0,
            offloaded: 0,
            slow: 0,
            inside: Duration::ZERO,
            total: Duration::ZERO,
            median: Duration::ZERO,
        };
        for i in 0..class.requests() {
            subject.prepare(i).await?;
            let before = subject.handle.metrics();
            let began = Instant::now();
            subject.request(i, false).await?;
            times.push(began.elapsed());
            let after = subject.handle.metrics();
            run.refused += after.nowait_refusals - before.nowait_refusals;
            run.offloaded += after.offloads - before.offloads;
            run.slow += after.slow_submits - before.slow_submits;
            run.inside += after.submit_time - before.submit_time;
        }
        subject.close().await;
        times.sort_unstable();
        run.total = times.iter().sum();
        run.median = times[times.len() / 2];
        Ok(run)
    }

    fn share_inside(&self) -> f64 {
        share(self.inside, self.total)
    }
}

fn share(part: Duration, whole: Duration) -> f64 {
    part.as_secs_f64() / whole.as_secs_f64()
}

fn percent(n: u64, all: u64) -> String {
    match n {
        0 => "0".to_owned(),
        n if n == all => "100 %".to_owned(),
        n => percent_of(n as f64 / all as f64),
    }
}

fn percent_of(share: f64) -> String {
    match share * 100.0 {
        ..1.0 => "< 1 %".to_owned(),
        percent @ ..99.0 => format!("{percent:.0} %"),
        _ => "> 99 %".to_owned(),
    }
}
