//! What the integration tests share.
#![allow(dead_code, unused_imports, unused_macros, unreachable_pub, unsafe_code)] // each test binary uses its part

mod limits;

pub use limits::*;

use std::env;
use std::ffi::{CStr, CString, c_void};
use std::fs::{self, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::runtime::{self, Runtime};
use tokio::task::JoinSet;
use tokio_kaio::{
    AioCommandError, AioContext, AioContextBuilder, AioContextHandle, AioOpenOptionsExt, Backend,
    File, LockedBuf, ReadFlags, SubmitPolicy, WriteFlags,
};

/// A block that every file system takes for direct I/O.
pub const BLOCK: usize = 4096;

/// Directories to test in instead of the build's disk and tmpfs, with colons between them.
const DIRS: &str = "KAIO_TEST_DIRS";

/// The directories that were given, each with one of its own made in it.
pub fn given() -> Vec<TempDir> {
    let dirs = env::var_os(DIRS).unwrap_or_default();
    env::split_paths(&dirs)
        .filter(|dir| !dir.as_os_str().is_empty())
        .map(|dir| {
            let made = tempfile::tempdir_in(&dir);
            made.unwrap_or_else(|error| panic!("{DIRS}: {}: {error}", dir.display()))
        })
        .collect()
}

/// A directory on the disk that the build is on: direct I/O completes later, as on a real device.
/// Or in the first directory that was given.
pub fn on_disk() -> TempDir {
    let given = given().into_iter().next();
    given.unwrap_or_else(|| tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
}

/// A directory on tmpfs, where direct I/O completes inside the submission. `None`, and a line that
/// says so, where there is none that does direct I/O (Linux before 6.6).
pub fn on_tmpfs() -> Option<TempDir> {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    let shm = Path::new("/dev/shm");
    let usable = file_system(shm) == Some(TMPFS_MAGIC);
    let dir = usable.then(|| tempfile::tempdir_in(shm).ok()).flatten();
    let direct = dir.filter(|dir| {
        let mut options = OpenOptions::new();
        options
            .write(true)
            .create(true)
            .custom_flags(libc::O_DIRECT);
        options.open(dir.path().join("probe")).is_ok()
    });
    if direct.is_none() {
        eprintln!("skipped on tmpfs: /dev/shm is none, or can't do direct I/O");
    }
    direct
}

/// All directories that were given; else both of the above, as far as they are there.
pub fn everywhere() -> Vec<TempDir> {
    let given = given();
    if !given.is_empty() {
        return given;
    }
    [Some(on_disk()), on_tmpfs()]
        .into_iter()
        .flatten()
        .collect()
}

/// How often this thread has given up its CPU by itself.
pub fn times_slept() -> libc::c_long {
    // SAFETY: plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: a structure of ours to write to.
    let code = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) };
    assert_eq!(code, 0);
    usage.ru_nvcsw
}

/// What [`file_system`] finds on ext4.
pub const EXT4_MAGIC: i64 = 0xef53;

pub fn file_system(path: &Path) -> Option<i64> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: plain numbers, for which zero is a value.
    let mut status: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a string that ends with 0, and a structure of ours to write to.
    let code = unsafe { libc::statfs(path.as_ptr(), &mut status) };
    #[allow(clippy::useless_conversion)] // its width differs between targets
    (code == 0).then(|| status.f_type.into())
}

/// Makes a file whose data are journaled, for which ext4 takes `O_DIRECT` and does without. Where
/// the mount (`data=journal`) does that for all of them, it is one anyway.
pub fn journaled(path: &Path) -> Result<(), String> {
    if file_system(path.parent().unwrap()) != Some(EXT4_MAGIC) {
        return Err(format!(
            "data are journaled on ext4, which {path:?} is not on"
        ));
    }
    fs::write(path, []).unwrap();
    if told_alignment(&fs::File::open(path).unwrap()) == Some(0) {
        return Ok(());
    }
    let chattr = Command::new("chattr").arg("+j").arg(path).output();
    match chattr {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().into()),
        Err(error) => Err(format!("chattr: {error}")),
    }
}

/// The alignment of offsets that `statx` tells; 0: there is no direct I/O; `None`: it doesn't tell.
pub fn told_alignment(file: &fs::File) -> Option<u32> {
    // SAFETY: plain numbers, for which zero is a value.
    let mut status: libc::statx = unsafe { std::mem::zeroed() };
    let (fd, flags, wanted) = (file.as_raw_fd(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN);
    // SAFETY: an empty string, and a structure of ours to write to.
    let code = unsafe { libc::statx(fd, c"".as_ptr(), flags, wanted, &mut status) };
    let told = code == 0 && status.stx_mask & libc::STATX_DIOALIGN != 0;
    told.then_some(status.stx_dio_offset_align)
}

/// Opens (and makes) `name` in `dir` for reading and writing.
pub async fn open_rw(dir: &TempDir, name: &str) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    options
        .aio_open(dir.path().join(name), false)
        .await
        .unwrap()
}

/// A file of `blocks` blocks, block `i` filled with [`pattern`] `i`.
pub fn write_patterned(path: &Path, blocks: usize) {
    let mut bytes = vec![0; blocks * BLOCK];
    for (i, block) in bytes.chunks_mut(BLOCK).enumerate() {
        pattern(i as u64, block);
    }
    fs::write(path, bytes).unwrap();
    fs::File::open(path).unwrap().sync_all().unwrap();
}

/// Fills `block` with bytes that tell `seed` and their place.
pub fn pattern(seed: u64, block: &mut [u8]) {
    for (i, word) in block.chunks_mut(8).enumerate() {
        let value = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i as u64;
        word.copy_from_slice(&value.to_le_bytes()[..word.len()]);
    }
}

/// Whether `block` is what [`pattern`] makes of `seed`.
pub fn is_pattern(seed: u64, block: &[u8]) -> bool {
    let mut expected = vec![0; block.len()];
    pattern(seed, &mut expected);
    expected == block
}

pub fn buffer(size: usize) -> LockedBuf {
    LockedBuf::with_size(size).unwrap()
}

pub fn patterned(seed: u64, size: usize) -> LockedBuf {
    let mut buffer = buffer(size);
    pattern(seed, buffer.as_mut());
    buffer
}

/// Descriptors of this process, and completion rings in its memory.
pub fn held() -> (usize, usize) {
    assert_alone();
    // With its first runtime, tokio opens two for signals that stay as long as the process.
    if runtime::Handle::try_current().is_err() {
        drop(one_thread());
    }
    (fs::read_dir("/proc/self/fd").unwrap().count(), rings())
}

/// Whether nothing is left of what came after `before` was held. Less may be held than that: a
/// thread that gave a context back has its runtime's waker for a moment longer.
pub fn is_back(before: (usize, usize)) -> bool {
    let now = held();
    now.0 <= before.0 && now.1 <= before.1
}

/// Eventfds of this process: one a shard, and those of its runtimes.
pub fn eventfds() -> usize {
    assert_alone();
    let entries = fs::read_dir("/proc/self/fd").unwrap();
    let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links
        .filter(|link| link.to_str() == Some("anon_inode:[eventfd]"))
        .count()
}

/// Completion rings in the memory of this process.
pub fn rings() -> usize {
    assert_alone();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("/[aio]")).count()
}

/// Requests of all contexts on the machine.
pub fn aio_nr() -> u64 {
    let text = fs::read_to_string("/proc/sys/fs/aio-nr").unwrap();
    text.trim().parse().unwrap()
}

/// Set in the environment of a test's child process.
const CHILD: &str = "TOKIO_KAIO_TEST_CHILD";

/// Runs the rest of the test in a child process, for tests that change or count something
/// process-wide: limits, filters, forks, descriptors, mappings.
///
/// Evaluates to `true` in the child. In the parent it checks that the child has passed and
/// evaluates to `false`.
macro_rules! in_child {
    () => {{
        fn here() {}
        $crate::common::is_child_of(std::any::type_name_of_val(&here))
    }};
}
pub(crate) use in_child;

/// The function of [`in_child!`]; `place` is the path of an item in the test's body.
pub fn is_child_of(place: &str) -> bool {
    if is_child() {
        return true;
    }
    let test = place
        .trim_end_matches("::here")
        .trim_end_matches("::{{closure}}");
    let (_crate, name) = test.split_once("::").unwrap();
    let output = run_child(name);
    let ran = String::from_utf8_lossy(&output.stdout).contains("test result: ok. 1 passed");
    assert!(
        output.status.success() && ran,
        "child process of {name}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let said = String::from_utf8_lossy(&output.stderr);
    said.lines()
        .filter(|line| line.starts_with("skipped"))
        .for_each(|line| eprintln!("{line}"));
    false
}

fn is_child() -> bool {
    env::var_os(CHILD).is_some()
}

/// Fails where other tests run in the same process, whose descriptors and mappings would be counted.
fn assert_alone() {
    assert!(is_child(), "this counts the whole process: use in_child!()");
}

fn run_child(name: &str) -> Output {
    Command::new(env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap()
}

/// Waits for `what`; a hang fails the test instead of hanging it. So does one that is cured by
/// being polled again, which a plain timeout would do.
pub async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        () = tokio::time::sleep(Duration::from_secs(60)) => panic!("it hangs"),
        value = what => value,
    }
}

/// Waits until `done`; fails if that does not come, with what `state` says then.
pub async fn until<S: std::fmt::Debug>(mut done: impl FnMut() -> bool, state: impl Fn() -> S) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "still {:?}",
            state()
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A read of this many bytes is in flight long enough to be seen there, mostly. Small enough for
/// the memlock limit that users have.
pub const LONG: usize = 1 << 20;

/// Waits until no request of `handle`'s waits for a thread of the blocking pool, from where it could
/// be taken back.
pub async fn all_have_threads(handle: &AioContextHandle) {
    while handle.metrics().waiting_for_thread > 0 {
        tokio::task::yield_now().await;
    }
}

/// Tries until `attempt` has seen what it waits for: a request that is still in flight can't be
/// had for certain.
pub async fn until_seen<T>(mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..1000 {
        if let Some(seen) = attempt().await {
            return seen;
        }
    }
    panic!("not seen in 1000 attempts");
}

/// After so many requests that were done at once, further ones go out without a signal.
pub const FAST_ONES: usize = 20_000;

pub fn one_thread() -> Runtime {
    let mut builder = runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

pub fn two_workers() -> Runtime {
    let mut builder = runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

/// The C library's function of this name, for a binary that defines one of its own before it.
///
/// # Safety
///
/// `F` is the type of a pointer to it.
pub unsafe fn real_function<F: Copy>(name: &CStr) -> F {
    assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
    // SAFETY: asks for a symbol by its name.
    let symbol = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    assert!(!symbol.is_null());
    // SAFETY: the caller's word.
    unsafe { std::mem::transmute_copy(&symbol) }
}

/// A file of so many blocks, block `i` filled with [`pattern`] `i`, open for reading and writing.
pub async fn patterned_file(dir: &TempDir, blocks: u64) -> File {
    write_patterned(&dir.path().join("blocks"), blocks as usize);
    open_rw(dir, "blocks").await
}

/// Reads a block's worth of bytes at `offset`.
pub async fn read_block(
    handle: &AioContextHandle,
    file: &File,
    offset: u64,
    target: &mut LockedBuf,
) -> Result<u64, AioCommandError> {
    file.read_at(handle, offset, target, BLOCK as u64, ReadFlags::empty())
        .await
}

/// Whether contexts are the kernel's. Else the build has them all on threads, and a line says that a
/// test of what only the kernel's have is skipped.
pub fn on_kernel_aio() -> bool {
    let threads = cfg!(kaio_force_threads);
    if threads {
        eprintln!("skipped on threads: about the kernel's AIO");
    }
    !threads
}

pub const POLICIES: [SubmitPolicy; 3] = [
    SubmitPolicy::Inline,
    SubmitPolicy::NoWaitFirst,
    SubmitPolicy::Offload,
];

/// Those that this build has.
pub const BACKENDS: &[Backend] = match cfg!(kaio_force_threads) {
    true => &[Backend::ThreadPool],
    false => &[Backend::KernelAio, Backend::ThreadPool],
};

/// What runs requests, and where they are submitted.
pub type Way = (Backend, SubmitPolicy);

/// Every policy on every backend. Threads have no use for a policy.
pub fn ways() -> impl Iterator<Item = Way> {
    let of = |&backend| {
        let policies = match backend {
            Backend::KernelAio => &POLICIES[..],
            _ => &POLICIES[1..2],
        };
        policies.iter().map(move |&policy| (backend, policy))
    };
    BACKENDS.iter().flat_map(of)
}

/// A context with up to `nr` requests in flight, which go that way.
pub fn context_by((backend, policy): Way, nr: usize) -> (AioContext, AioContextHandle) {
    let builder = AioContextBuilder::new(nr).backend(backend);
    builder.submit_policy(policy).build().unwrap()
}

/// Writes all of `bytes` at a block.
pub async fn write(
    handle: &AioContextHandle,
    file: &File,
    block: u64,
    bytes: &LockedBuf,
) -> Result<u64, AioCommandError> {
    let (offset, len) = (block * BLOCK as u64, bytes.size() as u64);
    file.write_at(handle, offset, bytes, len, WriteFlags::empty())
        .await
}

/// Reads the first `blocks` of a patterned file, each in a task of its own.
pub async fn read_in_tasks(handle: &AioContextHandle, file: File, blocks: u64) {
    let file = Arc::new(file);
    let mut tasks = JoinSet::new();
    for block in 0..blocks {
        let (handle, file) = (handle.clone(), Arc::clone(&file));
        tasks.spawn(async move {
            let mut bytes = buffer(BLOCK);
            let read = read_block(&handle, &file, block * BLOCK as u64, &mut bytes).await;
            assert_eq!(read.unwrap(), BLOCK as u64);
            assert!(is_pattern(block, bytes.as_ref()));
        });
    }
    within(tasks.join_all()).await;
}

/// A context whose requests are submitted where they are made, for tests of how that is done.
pub fn inline_context(nr: usize) -> (AioContext, AioContextHandle) {
    let builder = AioContextBuilder::new(nr).submit_policy(SubmitPolicy::Inline);
    builder.build().unwrap()
}

/// Waits until all `slots` of a context are free.
pub async fn all_free(handle: &AioContextHandle, slots: usize) {
    let free = || handle.available_slots();
    until(|| free() == Some(slots), free).await;
}

/// Asserts that a context has nothing left to do, and that its counters say so.
pub async fn is_idle(handle: &AioContextHandle, slots: usize) {
    all_free(handle, slots).await;
    let metrics = handle.metrics();
    assert_eq!(metrics.submitted, metrics.completed, "{metrics:?}");
    assert_eq!(
        (
            metrics.queued,
            metrics.in_flight,
            metrics.waiting_for_thread
        ),
        (0, 0, 0),
        "{metrics:?}"
    );
    assert_eq!(metrics.abandoned_in_flight, 0, "{metrics:?}");
}

/// A runtime with one blocking thread.
pub fn one_blocking_thread() -> Runtime {
    runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// Keeps the runtime's only blocking thread busy until it is dropped.
pub struct Busy(pub mpsc::Sender<()>);

pub async fn busy() -> Busy {
    let (release, released) = mpsc::channel::<()>();
    let (began, begun) = tokio::sync::oneshot::channel();
    tokio::task::spawn_blocking(move || {
        began.send(()).unwrap();
        released.recv().unwrap_err();
    });
    begun.await.unwrap();
    Busy(release)
}

/// Waits without a runtime until `done`.
pub fn until_here<S: std::fmt::Debug>(done: impl Fn() -> bool, state: impl Fn() -> S) {
    let start = Instant::now();
    while !done() {
        let hangs = start.elapsed() > Duration::from_secs(60);
        assert!(!hangs, "still {:?}", state());
        std::thread::sleep(Duration::from_millis(1));
    }
}
