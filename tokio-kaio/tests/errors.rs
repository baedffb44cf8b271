//! What goes wrong and what is answered: every way in which a context, a buffer or a request can
//! fail, with the exact variant and errno, and that nothing else suffers from it.
#![allow(unsafe_code)]

#[allow(clippy::undocumented_unsafe_blocks, clippy::unnecessary_cast)]
mod common;

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use common::{BLOCK, LONG, buffer, in_child, is_pattern, open_rw, patterned};
use futures::future::join_all;
use futures::{FutureExt, poll};
use tokio::task::JoinSet;
use tokio_kaio::{
    AioCommandError, AioContextError, AioContextHandle, AioOpenOptionsExt, EventFd, File,
    LockedBuf, LockedBufError, RawCommand, ReadFlags, WriteFlags, aio_context, local_aio_context,
};

const LEN: u64 = BLOCK as u64;

async fn guarded<T>(test: impl Future<Output = T>) -> T {
    let guard = tokio::time::timeout(Duration::from_secs(60), test);
    guard.await.expect("hangs")
}

/// For tests that change their process before there is a runtime.
fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(guarded(test))
}

fn setup_error<T>(made: Result<T, AioContextError>) -> io::Error {
    match made {
        Err(AioContextError::IoSetup(error)) => error,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("a context was made"),
    }
}

fn submit_errno<T: std::fmt::Debug>(result: Result<T, AioCommandError>) -> Option<i32> {
    match &result {
        Err(error @ AioCommandError::IoSubmit(_)) => error.raw_os_error(),
        other => panic!("{other:?}"),
    }
}

fn result_errno<T: std::fmt::Debug>(result: Result<T, AioCommandError>) -> Option<i32> {
    match &result {
        Err(error @ AioCommandError::BadResult(_)) => error.raw_os_error(),
        other => panic!("{other:?}"),
    }
}

/// Descriptors of this process, and completion rings in its memory.
fn held() -> (usize, usize) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let rings = maps.lines().filter(|line| line.contains("/[aio]")).count();
    (fs::read_dir("/proc/self/fd").unwrap().count(), rings)
}

fn sysctl(name: &str) -> usize {
    let text = fs::read_to_string(format!("/proc/sys/fs/{name}")).unwrap();
    text.trim().parse().unwrap()
}

fn is_root() -> bool {
    // SAFETY: asks for a number.
    unsafe { libc::geteuid() == 0 }
}

/// Sets the soft limit `resource` of this process.
fn limit(resource: libc::__rlimit_resource_t, value: u64) {
    let mut limits = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes to a structure of ours.
    assert_eq!(unsafe { libc::getrlimit(resource, &raw mut limits) }, 0);
    limits.rlim_cur = value;
    // SAFETY: the kernel reads a structure of ours.
    assert_eq!(unsafe { libc::setrlimit(resource, &raw const limits) }, 0);
}

/// From now on system call `number` fails with `errno` in every thread of this process. `false`,
/// and a line that says so, where no filter can be installed.
fn forbid(number: libc::c_long, errno: i32) -> bool {
    let line = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut lines = [
        line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0), // the number
        line(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            number as u32,
        ),
        line(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | errno as u32,
        ),
        line(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: lines.len() as u16,
        filter: lines.as_mut_ptr(),
    };
    // SAFETY: numbers only.
    let code = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(code, 0);
    // SAFETY: `program` and its lines live through the call.
    let code = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            &raw const program,
        )
    };
    if code != 0 {
        eprintln!(
            "skipped: no seccomp filter can be installed: {}",
            io::Error::last_os_error()
        );
    }
    code == 0
}

/// Memory and offset alignment that direct I/O on `file` wants, if the system tells.
fn wanted_alignment(file: &impl AsRawFd) -> Option<(u32, u32)> {
    // SAFETY: all zeroes is a valid value.
    let mut status: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes to a structure of ours.
    let code = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &raw mut status,
        )
    };
    let told = code == 0 && status.stx_mask & libc::STATX_DIOALIGN != 0;
    told.then_some((status.stx_dio_mem_align, status.stx_dio_offset_align))
}

async fn read(
    handle: &AioContextHandle,
    file: &File,
    block: u64,
    bytes: &mut LockedBuf,
) -> Result<u64, AioCommandError> {
    file.read_at(
        handle,
        block * LEN,
        bytes,
        bytes.size() as u64,
        ReadFlags::empty(),
    )
    .await
}

async fn write(
    handle: &AioContextHandle,
    file: &File,
    block: u64,
    bytes: &LockedBuf,
) -> Result<u64, AioCommandError> {
    file.write_at(
        handle,
        block * LEN,
        bytes,
        bytes.size() as u64,
        WriteFlags::empty(),
    )
    .await
}

/// Reads block `i`, which must hold pattern `i`.
async fn read_is_served(handle: &AioContextHandle, file: &File, block: u64) {
    let mut bytes = buffer(BLOCK);
    assert_eq!(read(handle, file, block, &mut bytes).await.unwrap(), LEN);
    assert!(is_pattern(block, bytes.as_ref()));
}

// ---- contexts that can't be made ----

#[test]
fn an_nr_that_the_kernel_does_not_take_is_an_error_and_leaves_nothing() {
    if !in_child("an_nr_that_the_kernel_does_not_take_is_an_error_and_leaves_nothing") {
        return;
    }
    run(async {
        let before = held();
        let past_u32 = usize::try_from((1_u64 << 32) + 8).unwrap_or(usize::MAX);
        for nr in [
            0,
            usize::MAX,
            past_u32,
            isize::MAX as usize,
            u32::MAX as usize,
        ] {
            for use_semaphore in [true, false] {
                let error = setup_error(aio_context(nr, use_semaphore));
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "nr {nr}");
                let text = AioContextError::IoSetup(error).to_string();
                assert!(text.contains("`nr`"), "{text}");
                let error = setup_error(local_aio_context(nr, use_semaphore));
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "nr {nr}");
            }
        }
        // The kernel's own arithmetic overflows here; it says EAGAIN.
        for nr in [1 << 31, (1 << 31) + 1] {
            setup_error(aio_context(nr, true));
        }
        assert_eq!(held(), before);
        let (context, handle) = aio_context(1, true).unwrap();
        assert_eq!(
            handle.available_slots(),
            Some(1),
            "a reasonable one is made after all that"
        );
        context.close().await;
        assert_eq!(held(), before);
    });
}

#[test]
fn a_used_up_aio_max_nr_is_eagain_that_names_it_with_its_value_and_use() {
    if !in_child("a_used_up_aio_max_nr_is_eagain_that_names_it_with_its_value_and_use") {
        return;
    }
    run(async {
        let limit = sysctl("aio-max-nr");
        let (mine, _handle) = aio_context(8, true).unwrap();
        let before = held();
        // What this process has leaves no room for all of it; nobody else is starved.
        let error = setup_error(aio_context(limit, true));
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
        let text = AioContextError::IoSetup(error).to_string();
        assert!(text.contains("fs.aio-max-nr"), "{text}");
        assert!(text.contains(&format!("is {limit},")), "{text}");
        let used = text.split(" of it are in use").next().unwrap();
        let used: usize = used.rsplit(' ').next().unwrap().parse().expect("a number");
        assert!((8..=limit).contains(&used), "{text}");
        let error = setup_error(local_aio_context(limit + 1, true));
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
        assert_eq!(held(), before);
        mine.close().await;
    });
}

#[test]
fn forbidden_aio_is_eperm_that_says_so() {
    if !in_child("forbidden_aio_is_eperm_that_says_so") || !forbid(libc::SYS_io_setup, libc::EPERM)
    {
        return;
    }
    run(async {
        let before = held();
        let error = setup_error(aio_context(8, true));
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        let text = AioContextError::IoSetup(error).to_string();
        assert!(
            text.contains("forbidden") && text.contains("seccomp"),
            "{text}"
        );
        setup_error(local_aio_context(8, true));
        assert_eq!(held(), before);
    });
}

#[test]
fn absent_aio_is_enosys_that_says_so() {
    if !in_child("absent_aio_is_enosys_that_says_so") || !forbid(libc::SYS_io_setup, libc::ENOSYS) {
        return;
    }
    run(async {
        let before = held();
        let error = setup_error(aio_context(8, true));
        assert_eq!(error.raw_os_error(), Some(libc::ENOSYS));
        let text = AioContextError::IoSetup(error).to_string();
        assert!(
            text.contains("no AIO") && text.contains("CONFIG_AIO"),
            "{text}"
        );
        assert_eq!(held(), before);
    });
}

#[test]
fn a_context_without_a_descriptor_left_is_an_event_fd_error() {
    if !in_child("a_context_without_a_descriptor_left_is_an_event_fd_error") {
        return;
    }
    run(async {
        limit(libc::RLIMIT_NOFILE, 0);
        let error = aio_context(8, true).unwrap_err();
        assert!(matches!(error, AioContextError::EventFd(_)), "{error:?}");
        assert!(error.to_string().contains("os error 24"), "EMFILE: {error}");
    });
}

#[test]
fn outside_a_runtime_a_context_is_an_error_that_names_the_cause() {
    for error in [
        aio_context(8, true).map(drop).unwrap_err(),
        local_aio_context(8, true).map(drop).unwrap_err(),
        EventFd::new(0, false)
            .map(drop)
            .map_err(AioContextError::EventFd)
            .unwrap_err(),
    ] {
        assert!(matches!(error, AioContextError::EventFd(_)), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("Tokio") && text.contains("runtime"), "{text}");
    }
}

#[test]
fn outside_a_runtime_opening_a_file_panics_and_names_the_cause() {
    let open = AssertUnwindSafe(File::open("/dev/null", false)).catch_unwind();
    let panic = futures::executor::block_on(open).unwrap_err();
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap();
    assert!(text.contains("Tokio") && text.contains("runtime"), "{text}");
}

#[test]
#[should_panic = "IO is disabled"]
fn in_a_runtime_without_io_a_context_panics_and_names_the_cause() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime
        .block_on(async { aio_context(8, true).map(drop) })
        .unwrap();
}

// ---- buffers that can't be made ----

#[test]
fn a_buffer_of_no_bytes_is_an_error() {
    let error = LockedBuf::with_size(0).unwrap_err();
    assert!(matches!(error, LockedBufError::MapAnon(_)), "{error:?}");
    assert!(error.to_string().contains("0 bytes"), "{error}");
}

#[test]
fn a_buffer_of_absurd_size_is_an_error() {
    let most = usize::MAX;
    for size in [
        most,
        most - 1,
        most - 4095,
        most / 2 + 1,
        most / 2,
        most / 16,
    ] {
        let error = LockedBuf::with_size(size).unwrap_err();
        let LockedBufError::MapAnon(source) = &error else {
            panic!("{size}: {error:?}");
        };
        assert_eq!(source.raw_os_error(), Some(libc::ENOMEM), "{size}");
        assert!(error.to_string().contains("memory"), "{error}");
    }
}

/// Gives up what allows a process to lock memory past the limit. `false`: could not.
fn obey_memlock() -> bool {
    const NOBODY: libc::uid_t = 65534;
    // SAFETY: changes who this process is.
    if is_root() && unsafe { libc::setuid(NOBODY) } != 0 {
        eprintln!(
            "skipped: can't give up root: {}",
            io::Error::last_os_error()
        );
        return false;
    }
    true
}

/// Address space of this process, and what of it is locked, in KiB.
fn memory() -> Vec<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let wanted = |line: &&str| line.starts_with("VmSize:") || line.starts_with("VmLck:");
    status.lines().filter(wanted).map(String::from).collect()
}

#[test]
fn past_the_memlock_limit_a_buffer_is_an_error_that_names_the_limit() {
    if !in_child("past_the_memlock_limit_a_buffer_is_an_error_that_names_the_limit")
        || !obey_memlock()
    {
        return;
    }
    limit(libc::RLIMIT_MEMLOCK, 65536);
    let first = LockedBuf::with_size(61440).unwrap();
    memory(); // its own allocations are made
    let before = memory();
    for size in [8192, 65537, 1 << 20] {
        let error = LockedBuf::with_size(size).unwrap_err();
        let LockedBufError::MemLock(source) = &error else {
            panic!("{error:?}");
        };
        assert_eq!(source.raw_os_error(), Some(libc::ENOMEM));
        let text = error.to_string();
        assert!(text.contains("RLIMIT_MEMLOCK is 65536 bytes"), "{text}");
        assert!(text.contains("ulimit -l"), "what to do: {text}");
    }
    assert_eq!(memory(), before, "what was mapped for them is unmapped");
    let second = LockedBuf::with_size(4096).unwrap();
    assert!(first.is_locked() && second.is_locked());
    drop(first);
    LockedBuf::with_size(61440).unwrap();
}

#[test]
fn with_a_memlock_limit_of_zero_a_buffer_is_an_error_that_names_the_limit() {
    if !in_child("with_a_memlock_limit_of_zero_a_buffer_is_an_error_that_names_the_limit")
        || !obey_memlock()
    {
        return;
    }
    limit(libc::RLIMIT_MEMLOCK, 0);
    let error = LockedBuf::with_size(1).unwrap_err();
    let LockedBufError::MemLock(source) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(source.raw_os_error(), Some(libc::EPERM));
    assert!(
        error.to_string().contains("RLIMIT_MEMLOCK is 0 bytes"),
        "{error}"
    );
}

// ---- requests that are wrong ----

#[tokio::test]
async fn a_len_larger_than_the_buffer_panics_before_anything_is_submitted() {
    for dir in common::everywhere() {
        let (context, handle) = aio_context(2, true).unwrap();
        let file = open_rw(&dir, "data").await;
        let mut bytes = patterned(4, BLOCK);
        for len in [LEN + 1, 2 * LEN, u64::MAX] {
            let write = file.write_at(&handle, 0, &bytes, len, WriteFlags::empty());
            panics_about_len(write).await;
            let read = file.read_at(&handle, 0, &mut bytes, len, ReadFlags::empty());
            panics_about_len(read).await;
            let (flags, offset) = (ReadFlags::empty(), 0);
            let command = RawCommand::Pread {
                offset,
                buffer: &mut bytes,
                flags,
                len,
            };
            panics_about_len(handle.submit_request(&file, command)).await;
            let flags = WriteFlags::empty();
            let command = RawCommand::Pwrite {
                offset,
                buffer: &bytes,
                flags,
                len,
            };
            panics_about_len(handle.submit_request(&file, command)).await;
        }
        assert_eq!(handle.available_slots(), Some(2));
        assert_eq!(
            file.metadata().await.unwrap().len(),
            0,
            "nothing was written"
        );
        assert!(is_pattern(4, bytes.as_ref()), "the buffer is as it was");
        assert_eq!(
            guarded(write(&handle, &file, 4, &bytes)).await.unwrap(),
            LEN
        );
        guarded(read_is_served(&handle, &file, 4)).await;
        guarded(context.close()).await;
    }
}

async fn panics_about_len(request: impl Future<Output = Result<u64, AioCommandError>>) {
    let panic = AssertUnwindSafe(request).catch_unwind().await.unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains("len should be <= buffer.size()"), "{text}");
}

#[tokio::test]
async fn misaligned_requests_are_einval_that_names_the_alignment() {
    let dir = common::on_disk();
    common::write_patterned(&dir.path().join("data"), 8);
    let (context, handle) = aio_context(8, true).unwrap();
    let file = open_rw(&dir, "data").await;
    let mut bytes = buffer(BLOCK);
    let probe = file
        .read_at(&handle, 1, &mut bytes, 511, ReadFlags::empty())
        .await;
    if probe.is_ok() {
        eprintln!("skipped: the file system takes any alignment");
        return;
    }
    for (offset, len) in [(1, LEN), (0, LEN - 1), (511, 511), (LEN - 1, 1)] {
        let reading = file
            .read_at(&handle, offset, &mut bytes, len, ReadFlags::empty())
            .await;
        let writing = file
            .write_at(&handle, offset, &bytes, len, WriteFlags::empty())
            .await;
        for result in [reading, writing] {
            let Err(error @ AioCommandError::BadResult(_)) = &result else {
                panic!("{len} at {offset}: {result:?}");
            };
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
            let text = error.to_string();
            let Some((memory, multiple)) = wanted_alignment(&file) else {
                eprintln!("skipped: statx does not tell the alignment here");
                continue;
            };
            assert!(
                text.contains(&format!("{len} bytes at offset {offset}")),
                "{text}"
            );
            assert!(
                text.contains(&format!("multiples of {multiple} bytes")),
                "{text}"
            );
            assert!(
                text.contains(&format!("memory aligned to {memory}")),
                "{text}"
            );
        }
    }
    let untouched = fs::read(dir.path().join("data")).unwrap();
    assert!(
        (0..)
            .zip(untouched.chunks(BLOCK))
            .all(|(i, block)| is_pattern(i, block))
    );
    guarded(read_is_served(&handle, &file, 3)).await;
    assert_eq!(handle.available_slots(), Some(8));
    context.close().await;
}

#[tokio::test]
async fn an_offset_past_the_largest_is_einval_without_advice_on_alignment() {
    let dir = common::on_disk();
    let (context, handle) = aio_context(2, true).unwrap();
    let file = open_rw(&dir, "data").await;
    let mut bytes = patterned(6, BLOCK);
    let past = u64::MAX - LEN + 1;
    let reading = file
        .read_at(&handle, past, &mut bytes, LEN, ReadFlags::empty())
        .await;
    let writing = file
        .write_at(&handle, past, &bytes, LEN, WriteFlags::empty())
        .await;
    for result in [reading, writing] {
        assert!(
            !result
                .as_ref()
                .unwrap_err()
                .to_string()
                .contains("multiples"),
            "{result:?}"
        );
        assert_eq!(submit_errno(result), Some(libc::EINVAL));
    }
    assert!(is_pattern(6, bytes.as_ref()), "the buffer is as it was");
    assert_eq!(handle.available_slots(), Some(2));
    context.close().await;
}

/// Nobody's descriptor: past every limit, or what used to be one.
struct Raw(RawFd);

impl AsRawFd for Raw {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl Raw {
    /// A number that was a descriptor of `file`'s. High, so that nobody else gets it meanwhile.
    fn closed(file: &impl AsRawFd) -> Raw {
        // SAFETY: makes a duplicate.
        let fd = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 900) };
        assert!(fd >= 900);
        // SAFETY: closes the duplicate, which nobody else has.
        assert_eq!(unsafe { libc::close(fd) }, 0);
        Raw(fd)
    }
}

#[tokio::test]
async fn a_wrong_descriptor_is_ebadf() {
    for dir in common::everywhere() {
        let (context, handle) = aio_context(2, true).unwrap();
        let file = open_rw(&dir, "data").await;
        let mut bytes = patterned(7, BLOCK);
        for wrong in [Raw(-1), Raw(-100), Raw(i32::MAX), Raw::closed(&file)] {
            let (flags, offset, len) = (ReadFlags::empty(), 0, LEN);
            let command = RawCommand::Pread {
                offset,
                buffer: &mut bytes,
                flags,
                len,
            };
            assert_eq!(
                submit_errno(handle.submit_request(&wrong, command).await),
                Some(libc::EBADF)
            );
            let flags = WriteFlags::empty();
            let command = RawCommand::Pwrite {
                offset,
                buffer: &bytes,
                flags,
                len,
            };
            assert_eq!(
                submit_errno(handle.submit_request(&wrong, command).await),
                Some(libc::EBADF)
            );
            for sync in [RawCommand::Fsync, RawCommand::Fdsync] {
                let synced = handle.submit_request(&wrong, sync).await;
                assert_eq!(submit_errno(synced), Some(libc::EBADF));
            }
        }
        assert!(is_pattern(7, bytes.as_ref()), "the buffer is as it was");
        assert_eq!(handle.available_slots(), Some(2));
        assert_eq!(write(&handle, &file, 7, &bytes).await.unwrap(), LEN);
        read_is_served(&handle, &file, 7).await;
        context.close().await;
    }
}

#[tokio::test]
async fn a_wrong_descriptor_is_ebadf_also_where_no_slot_is_free() {
    let dir = common::on_disk();
    common::write_patterned(&dir.path().join("data"), LONG / BLOCK);
    let (context, handle) = aio_context(1, true).unwrap();
    let file = open_rw(&dir, "data").await;
    let (mut long, mut bytes) = (buffer(LONG), patterned(7, BLOCK));
    for wrong in [Raw(-1), Raw(-100), Raw(i32::MAX), Raw::closed(&file)] {
        let test = common::until_seen(async || {
            let mut running = pin!(read(&handle, &file, 0, &mut long));
            if poll!(running.as_mut()).is_ready() || handle.available_slots() != Some(0) {
                return None;
            }
            let (flags, offset, len) = (ReadFlags::empty(), 0, LEN);
            let command = RawCommand::Pread {
                offset,
                buffer: &mut bytes,
                flags,
                len,
            };
            let refused = handle.submit_request(&wrong, command).await;
            assert_eq!(submit_errno(refused), Some(libc::EBADF));
            assert!(is_pattern(7, bytes.as_ref()), "the buffer is as it was");
            assert_eq!(running.await.unwrap(), LONG as u64);
            Some(())
        });
        guarded(test).await;
    }
    context.close().await;
}

#[tokio::test]
async fn files_that_can_not_do_it_are_errors() {
    let dir = common::on_disk();
    let (context, handle) = aio_context(2, true).unwrap();
    let directory = fs::File::open(dir.path()).unwrap();
    let mut bytes = patterned(8, BLOCK);
    let (flags, offset, len) = (ReadFlags::empty(), 0, LEN);
    let command = RawCommand::Pread {
        offset,
        buffer: &mut bytes,
        flags,
        len,
    };
    let refused = handle.submit_request(&directory, command).await;
    assert_eq!(submit_errno(refused), Some(libc::EINVAL));
    let command = RawCommand::Pwrite {
        offset,
        buffer: &bytes,
        flags: WriteFlags::empty(),
        len,
    };
    let refused = handle.submit_request(&directory, command).await;
    assert_eq!(
        submit_errno(refused),
        Some(libc::EBADF),
        "a directory is open for reading only"
    );
    let (pipe, _writer) = io::pipe().unwrap();
    let refused = handle.submit_request(&pipe, RawCommand::Fsync).await;
    assert_eq!(
        submit_errno(refused),
        Some(libc::EINVAL),
        "a pipe has no fsync"
    );
    assert!(is_pattern(8, bytes.as_ref()), "the buffer is as it was");
    assert_eq!(handle.available_slots(), Some(2));
    context.close().await;
}

#[tokio::test]
async fn a_wrong_mode_is_ebadf() {
    for dir in common::everywhere() {
        common::write_patterned(&dir.path().join("data"), 2);
        let (context, handle) = aio_context(2, true).unwrap();
        let read_only = File::open(dir.path().join("data"), false).await.unwrap();
        let mut write_only = OpenOptions::new();
        write_only.write(true);
        let write_only = write_only
            .aio_open(dir.path().join("data"), false)
            .await
            .unwrap();
        let mut bytes = patterned(1, BLOCK);
        let refused = write(&handle, &read_only, 0, &bytes).await;
        assert_eq!(submit_errno(refused), Some(libc::EBADF));
        let refused = read(&handle, &write_only, 0, &mut bytes).await;
        assert_eq!(submit_errno(refused), Some(libc::EBADF));
        assert!(is_pattern(1, bytes.as_ref()), "the buffer is as it was");
        assert_eq!(write(&handle, &write_only, 1, &bytes).await.unwrap(), LEN);
        read_is_served(&handle, &read_only, 1).await;
        context.close().await;
    }
}

#[tokio::test]
async fn the_requests_beside_a_refused_one_are_served() {
    const TOGETHER: usize = 32;
    for dir in common::everywhere() {
        common::write_patterned(&dir.path().join("data"), TOGETHER);
        let (context, handle) = aio_context(64, true).unwrap();
        let file = File::open(dir.path().join("data"), false).await.unwrap();
        let bad_sets: [&[usize]; 5] = [&[0], &[31], &[7, 8], &[0, 1, 30, 31], &[5, 15, 25]];
        for bad in bad_sets {
            for _wave in 0..3 {
                let requests = (0..TOGETHER).map(|i| {
                    let (handle, file) = (&handle, &file);
                    async move {
                        if !bad.contains(&i) {
                            return read_is_served(handle, file, i as u64).await;
                        }
                        // Alternately by mode, refused at once; and by alignment, which runs.
                        if i % 2 == 0 {
                            let refused = write(handle, file, 0, &buffer(BLOCK)).await;
                            assert_eq!(submit_errno(refused), Some(libc::EBADF));
                        } else {
                            let past = u64::MAX - LEN + 1;
                            let mut bytes = buffer(BLOCK);
                            let flags = ReadFlags::empty();
                            let refused = file.read_at(handle, past, &mut bytes, LEN, flags).await;
                            assert_eq!(submit_errno(refused), Some(libc::EINVAL));
                        }
                    }
                });
                guarded(join_all(requests)).await;
                assert_eq!(handle.available_slots(), Some(64));
            }
        }
        context.close().await;
    }
}

#[tokio::test]
async fn a_batch_of_nothing_but_refused_requests_gives_every_slot_back() {
    let dir = common::on_disk();
    common::write_patterned(&dir.path().join("data"), 1);
    let (context, handle) = aio_context(3, true).unwrap();
    let file = File::open(dir.path().join("data"), false).await.unwrap();
    let bytes = buffer(BLOCK);
    for _wave in 0..3 {
        let refused = guarded(join_all((0..40).map(|_| write(&handle, &file, 0, &bytes)))).await;
        for result in refused {
            assert_eq!(submit_errno(result), Some(libc::EBADF));
        }
        assert_eq!(handle.available_slots(), Some(3));
    }
    guarded(read_is_served(&handle, &file, 0)).await;
    context.close().await;
}

// ---- the end of the file ----

#[tokio::test]
async fn a_read_at_or_past_the_end_returns_zero() {
    for dir in common::everywhere() {
        common::write_patterned(&dir.path().join("data"), 2);
        let (context, handle) = aio_context(2, true).unwrap();
        let file = open_rw(&dir, "data").await;
        let mut bytes = patterned(3, BLOCK);
        for block in [2, 3, 1 << 20] {
            assert_eq!(read(&handle, &file, block, &mut bytes).await.unwrap(), 0);
        }
        assert!(is_pattern(3, bytes.as_ref()), "the buffer is as it was");
        context.close().await;
    }
}

#[tokio::test]
async fn a_read_across_the_end_is_short() {
    for dir in common::everywhere() {
        common::write_patterned(&dir.path().join("data"), 2);
        let (context, handle) = aio_context(2, true).unwrap();
        let file = open_rw(&dir, "data").await;
        let mut bytes = patterned(3, 4 * BLOCK);
        let old = patterned(3, 4 * BLOCK);
        let read = file.read_at(&handle, LEN, &mut bytes, 2 * LEN, ReadFlags::empty());
        assert_eq!(read.await.unwrap(), LEN);
        assert!(is_pattern(1, &bytes.as_ref()[..BLOCK]));
        // What lies past the end but within `len` a file system may fill with zeroes.
        let past_end = &bytes.as_ref()[BLOCK..2 * BLOCK];
        let kept = past_end == &old.as_ref()[BLOCK..2 * BLOCK];
        assert!(kept || past_end.iter().all(|&byte| byte == 0));
        assert!(
            bytes.as_ref()[2 * BLOCK..] == old.as_ref()[2 * BLOCK..],
            "what lies past `len` is as it was"
        );
        context.close().await;
    }
}

#[tokio::test]
async fn a_read_across_an_end_within_a_block_counts_the_bytes_that_are_there() {
    for dir in common::everywhere() {
        let path = dir.path().join("data");
        common::write_patterned(&path, 2);
        OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(LEN + 100)
            .unwrap();
        let (context, handle) = aio_context(2, true).unwrap();
        let file = open_rw(&dir, "data").await;
        let mut bytes = buffer(2 * BLOCK);
        assert_eq!(
            read(&handle, &file, 0, &mut bytes).await.unwrap(),
            LEN + 100
        );
        let mut block = buffer(BLOCK);
        assert_eq!(read(&handle, &file, 1, &mut block).await.unwrap(), 100);
        let mut expected = vec![0; BLOCK];
        common::pattern(1, &mut expected);
        assert_eq!(&block.as_ref()[..100], &expected[..100]);
        assert_eq!(&bytes.as_ref()[BLOCK..BLOCK + 100], &expected[..100]);
        context.close().await;
    }
}

// ---- contexts that have stopped ----

#[tokio::test]
async fn every_request_to_a_stopped_context_is_stopped() {
    let dir = common::on_disk();
    common::write_patterned(&dir.path().join("data"), 1);
    let file = open_rw(&dir, "data").await;
    for closed in [true, false] {
        let (context, handle) = aio_context(2, true).unwrap();
        if closed {
            guarded(context.close()).await;
        } else {
            drop(context);
        }
        let mut bytes = patterned(2, BLOCK);
        let stopped = [
            read(&handle, &file, 0, &mut bytes).await.map(drop),
            write(&handle, &file, 0, &bytes).await.map(drop),
            file.sync_all(&handle).await,
            file.sync_data(&handle).await,
            handle
                .submit_request(&file, RawCommand::Fsync)
                .await
                .map(drop),
        ];
        for result in stopped {
            assert!(
                matches!(result, Err(AioCommandError::AioStopped)),
                "{result:?}"
            );
        }
        assert_eq!(handle.available_slots(), None);
        assert!(is_pattern(2, bytes.as_ref()), "the buffer is as it was");
    }
    let untouched = fs::read(dir.path().join("data")).unwrap();
    assert!(is_pattern(0, &untouched));
}

async fn those_that_wait_for_a_slot_are_stopped(closed: bool) {
    const WAITING: u64 = 16;
    let dir = common::on_disk();
    common::write_patterned(&dir.path().join("data"), LONG / BLOCK);
    let file = Arc::new(open_rw(&dir, "data").await);
    let mut long = buffer(LONG);
    let test = common::until_seen(async || {
        let whole = LONG as u64;
        fs::File::options()
            .write(true)
            .open(dir.path().join("data"))
            .unwrap()
            .set_len(whole)
            .unwrap();
        let (context, handle) = aio_context(1, true).unwrap();
        let mut running = pin!(read(&handle, &file, 0, &mut long));
        if poll!(running.as_mut()).is_ready() {
            return None;
        }
        let mut waiting = JoinSet::new();
        for i in 0..WAITING {
            let (handle, file) = (handle.clone(), Arc::clone(&file));
            waiting.spawn(async move {
                let mut bytes = patterned(i, BLOCK);
                let result = match i % 3 {
                    0 => read(&handle, &file, i, &mut bytes).await.map(drop),
                    1 => write(&handle, &file, 1000 + i, &bytes).await.map(drop),
                    _ => handle
                        .submit_request(&*file, RawCommand::Fsync)
                        .await
                        .map(drop),
                };
                (result, is_pattern(i, bytes.as_ref()))
            });
        }
        tokio::task::yield_now().await; // they come to wait
        if context.available_slots() != Some(0) || poll!(running.as_mut()).is_ready() {
            return None; // too late: the first one is done
        }
        let mut close = pin!(async {
            if closed {
                context.close().await;
            } else {
                drop(context);
            }
        });
        assert_eq!(
            poll!(close.as_mut()).is_pending(),
            closed,
            "what runs is waited for"
        );
        assert_eq!(running.await.unwrap(), whole, "what ran has finished");
        if closed {
            close.await;
        }
        while let Some(task) = waiting.join_next().await {
            let (result, same) = task.unwrap();
            assert!(
                matches!(result, Err(AioCommandError::AioStopped)),
                "{result:?}"
            );
            assert!(same, "the buffer is as it was");
        }
        let len = file.metadata().await.unwrap().len();
        assert_eq!(len, whole, "nothing of what waited was written");
        Some(())
    });
    guarded(test).await;
}

#[tokio::test]
async fn closing_a_context_stops_those_that_wait_for_a_slot() {
    those_that_wait_for_a_slot_are_stopped(true).await;
}

#[tokio::test]
async fn dropping_a_context_stops_those_that_wait_for_a_slot() {
    those_that_wait_for_a_slot_are_stopped(false).await;
}

// ---- disks that can't ----

#[test]
fn a_write_past_the_file_size_limit_is_efbig_alone() {
    if !in_child("a_write_past_the_file_size_limit_is_efbig_alone") {
        return;
    }
    // SAFETY: the signal that comes along is ignored.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    run(async {
        for dir in common::everywhere() {
            common::write_patterned(&dir.path().join("data"), 8);
            limit(libc::RLIMIT_FSIZE, 16 * LEN);
            let (context, handle) = aio_context(32, true).unwrap();
            let file = open_rw(&dir, "data").await;
            let far = patterned(1, BLOCK);
            for _wave in 0..3 {
                let past = async {
                    assert_eq!(
                        result_errno(write(&handle, &file, 16, &far).await),
                        Some(libc::EFBIG)
                    );
                };
                let beside = join_all((0..8).map(|i| read_is_served(&handle, &file, i)));
                let after = async {
                    assert_eq!(
                        result_errno(write(&handle, &file, 99, &far).await),
                        Some(libc::EFBIG)
                    );
                };
                futures::future::join3(past, beside, after).await;
            }
            let across = write(&handle, &file, 15, &patterned(2, 2 * BLOCK)).await;
            assert_eq!(across.unwrap(), LEN, "a write across the limit is short");
            assert_eq!(handle.available_slots(), Some(32));
            context.close().await;
            limit(libc::RLIMIT_FSIZE, libc::RLIM_INFINITY);
        }
    });
}

/// A tmpfs of `blocks` blocks over `at`, which only this process sees. `false`, and a line that
/// says so, where it can't be had.
fn mount_small(at: &Path, blocks: usize) -> bool {
    let at = CString::new(at.as_os_str().as_bytes()).unwrap();
    let options = CString::new(format!("size={}", blocks * BLOCK)).unwrap();
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: this thread, and those that it starts from now on, get mounts of their own.
    let unshared = unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0;
    let none = std::ptr::null();
    // SAFETY: strings that live through the call; null where it takes none.
    let kept_apart =
        unshared && unsafe { libc::mount(none, c"/".as_ptr(), none, private, none.cast()) } == 0;
    let name = c"tmpfs".as_ptr();
    // SAFETY: as above.
    let mounted = kept_apart
        && unsafe { libc::mount(name, at.as_ptr(), name, 0, options.as_ptr().cast()) } == 0;
    if !mounted {
        eprintln!(
            "skipped: can't mount a small tmpfs: {}",
            io::Error::last_os_error()
        );
    }
    mounted
}

#[test]
fn a_full_disk_is_enospc_alone() {
    if !in_child("a_full_disk_is_enospc_alone") {
        return;
    }
    let dir = common::on_disk();
    let small = dir.path().join("small");
    fs::create_dir(&small).unwrap();
    if !mount_small(&small, 16) {
        return;
    }
    run(async {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true);
        let file = match options.aio_open(small.join("data"), false).await {
            Ok(file) => file,
            Err(error) => {
                eprintln!("skipped: tmpfs can't do direct I/O: {error}");
                return;
            }
        };
        let (context, handle) = aio_context(32, true).unwrap();
        for i in 0..8 {
            assert_eq!(
                write(&handle, &file, i, &patterned(i, BLOCK))
                    .await
                    .unwrap(),
                LEN
            );
        }
        let rest = buffer(64 * BLOCK);
        let rest = write(&handle, &file, 8, &rest).await.unwrap();
        assert!(
            rest > 0 && rest < 64 * LEN,
            "the write that fills the disk is short: {rest}"
        );
        let more = patterned(5, BLOCK);
        for _wave in 0..3 {
            let full = async {
                let refused = write(&handle, &file, 100, &more).await;
                let text = format!("{refused:?}");
                assert_eq!(result_errno(refused), Some(libc::ENOSPC));
                assert!(text.contains("No space left"), "{text}");
            };
            let beside = join_all((0..8).map(|i| read_is_served(&handle, &file, i)));
            let overwrite = async {
                assert_eq!(write(&handle, &file, 5, &more).await.unwrap(), LEN);
            };
            futures::future::join3(full, beside, overwrite).await;
        }
        assert_eq!(handle.available_slots(), Some(32));
        context.close().await;
    });
    let small = CString::new(small.as_os_str().as_bytes()).unwrap();
    // SAFETY: a string that lives through the call.
    unsafe { libc::umount2(small.as_ptr(), libc::MNT_DETACH) }; // so that `dir` can go
}

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    /// `lo_device` to `lo_sizelimit`.
    places: [u64; 5],
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    /// Names, key and the rest.
    rest: [u64; 22],
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopConfig>() == 304);

/// A loop device over `file`, as an open descriptor and its path. It ends with the descriptor.
/// `None`, and a line that says so, where it can't be had.
fn loop_device(file: &fs::File) -> Option<(fs::File, std::path::PathBuf)> {
    const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
    const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
    const LO_FLAGS_AUTOCLEAR: u32 = 4;
    let skipped = |why: &dyn std::fmt::Display| eprintln!("skipped: no loop device: {why}");
    if !is_root() {
        skipped(&"needs root");
        return None;
    }
    let open = |path: &str| OpenOptions::new().read(true).write(true).open(path);
    let control = open("/dev/loop-control")
        .map_err(|error| skipped(&error))
        .ok()?;
    // Another process may take the free one first.
    for _attempt in 0..10 {
        // SAFETY: returns a number.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
        let path = format!("/dev/loop{number}");
        let device = open(&path).map_err(|error| skipped(&error)).ok()?;
        let config = LoopConfig {
            fd: file.as_raw_fd() as u32,
            block_size: 0,
            places: [0; 5],
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: LO_FLAGS_AUTOCLEAR,
            rest: [0; 22],
            reserved: [0; 8],
        };
        // SAFETY: the kernel reads a structure of ours.
        let code =
            unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) };
        if code == 0 {
            return Some((device, path.into()));
        }
    }
    skipped(&io::Error::last_os_error());
    None
}

#[test]
fn an_io_error_of_the_device_is_eio_alone() {
    // In a process of its own: its end is the device's end, whatever happens.
    if !in_child("an_io_error_of_the_device_is_eio_alone") {
        return;
    }
    let dir = common::on_disk();
    let path = dir.path().join("backing");
    common::write_patterned(&path, 64);
    let backing = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let Some((device, name)) = loop_device(&backing) else {
        return;
    };
    run(async {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = options.aio_open(name, false).await.unwrap();
        let (context, handle) = aio_context(64, true).unwrap();
        join_all((0..64).map(|i| read_is_served(&handle, &file, i))).await;
        backing.set_len(32 * LEN).unwrap(); // the device loses its second half
        for _wave in 0..3 {
            let requests = (0..64).map(|i| {
                let (handle, file) = (&handle, &file);
                async move {
                    if i < 32 {
                        return read_is_served(handle, file, i).await;
                    }
                    let mut bytes = buffer(BLOCK);
                    let lost = read(handle, file, i, &mut bytes).await;
                    assert_eq!(result_errno(lost), Some(libc::EIO), "block {i}");
                    assert_eq!(bytes.size(), BLOCK, "the buffer is back");
                }
            });
            join_all(requests).await;
            assert_eq!(handle.available_slots(), Some(64));
        }
        let past = write(&handle, &file, 64, &buffer(BLOCK)).await;
        assert_eq!(
            result_errno(past),
            Some(libc::ENOSPC),
            "past the end of the device"
        );
        assert_eq!(
            read(&handle, &file, 64, &mut buffer(BLOCK)).await.unwrap(),
            0
        );
        context.close().await;
    });
    drop(device);
}

// ---- a sandbox that closes later, and a kernel that is short of something ----

#[test]
fn io_submit_that_fails_later_is_an_error_to_every_request() {
    if !in_child("io_submit_that_fails_later_is_an_error_to_every_request") {
        return;
    }
    run(async {
        let dir = common::on_disk();
        common::write_patterned(&dir.path().join("data"), 32);
        let file = open_rw(&dir, "data").await;
        let (context, handle) = aio_context(4, true).unwrap();
        // Each filter is asked before the ones that were there.
        for errno in [
            libc::EPERM,
            libc::ENOMEM,
            libc::EINTR,
            libc::EAGAIN,
            libc::EIO,
        ] {
            read_or_refusal(&handle, &file).await;
            if !forbid(libc::SYS_io_submit, errno) {
                return;
            }
            let mut bytes = patterned(1, BLOCK);
            let alone = submit_errno(read(&handle, &file, 0, &mut bytes).await).unwrap();
            assert!(
                alone == errno || alone == libc::EPERM,
                "{alone} for {errno}"
            );
            assert!(is_pattern(1, bytes.as_ref()), "the buffer is as it was");
            for _wave in 0..2 {
                let reads = (0..32).map(|i| {
                    let (handle, file) = (&handle, &file);
                    async move { read(handle, file, i, &mut buffer(BLOCK)).await }
                });
                for result in join_all(reads).await {
                    assert_eq!(submit_errno(result), Some(alone));
                }
                assert_eq!(handle.available_slots(), Some(4));
            }
        }
        context.close().await;
    });
}

/// What a request comes to before and after the first filter.
async fn read_or_refusal(handle: &AioContextHandle, file: &File) {
    match read(handle, file, 0, &mut buffer(BLOCK)).await {
        Ok(read) => assert_eq!(read, LEN),
        Err(AioCommandError::IoSubmit(_)) => {}
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn io_getevents_that_fails_later_leaves_nobody_waiting() {
    if !in_child("io_getevents_that_fails_later_leaves_nobody_waiting") {
        return;
    }
    run(async {
        let mut prepared = Vec::new();
        for dir in common::everywhere() {
            common::write_patterned(&dir.path().join("data"), 16);
            let file = open_rw(&dir, "data").await;
            let (context, handle) = aio_context(4, true).unwrap();
            read_is_served(&handle, &file, 3).await;
            prepared.push((dir, file, context, handle));
        }
        if !forbid(libc::SYS_io_getevents, libc::EPERM) {
            return;
        }
        for (_dir, file, context, handle) in prepared {
            // Served from the ring; an error where there is no ring. But an end.
            let reads = (0..16).map(|i| {
                let (handle, file) = (&handle, &file);
                async move { (i, read(handle, file, i, &mut buffer(BLOCK)).await) }
            });
            for (i, result) in join_all(reads).await {
                assert!(matches!(result, Ok(LEN) | Err(_)), "read {i}: {result:?}");
            }
            context.close().await;
        }
    });
}

#[test]
fn waiting_for_a_slot_without_a_descriptor_left_is_emfile() {
    if !in_child("waiting_for_a_slot_without_a_descriptor_left_is_emfile") {
        return;
    }
    run(async {
        let dir = common::on_disk();
        common::write_patterned(&dir.path().join("data"), LONG / BLOCK);
        let file = open_rw(&dir, "data").await;
        let plain = fs::File::open(dir.path().join("data")).unwrap();
        let (context, handle) = aio_context(1, true).unwrap();
        let (mut long, mut bytes, mut queued) = (buffer(LONG), patterned(1, BLOCK), buffer(BLOCK));
        limit(libc::RLIMIT_NOFILE, 4); // past the standard ones, all in use
        common::until_seen(async || {
            let mut running = pin!(read(&handle, &file, 0, &mut long));
            if poll!(running.as_mut()).is_ready() {
                return None;
            }
            common::pattern(1, bytes.as_mut());
            let (flags, offset, len) = (ReadFlags::empty(), 0, LEN);
            let command = RawCommand::Pread {
                offset,
                buffer: &mut bytes,
                flags,
                len,
            };
            let one_more = handle.submit_request(&plain, command).await;
            let queued = read(&handle, &file, 2, &mut queued);
            let (first, second) = futures::future::join(running, queued).await;
            assert_eq!(first.unwrap(), LONG as u64);
            assert_eq!(second.unwrap(), LEN, "a `File` needs no further descriptor");
            if one_more.is_ok() {
                return None; // the first one was done already
            }
            assert_eq!(submit_errno(one_more), Some(libc::EMFILE));
            assert!(is_pattern(1, bytes.as_ref()), "the buffer is as it was");
            Some(())
        })
        .await;
        limit(libc::RLIMIT_NOFILE, 64);
        context.close().await;
    });
}

#[tokio::test]
async fn an_error_leaves_other_contexts_and_plain_files_alone() {
    let dir = common::on_disk();
    common::write_patterned(&dir.path().join("data"), 4);
    let (one, bad) = aio_context(1, true).unwrap();
    let (two, good) = aio_context(1, true).unwrap();
    let file = File::open(dir.path().join("data"), false).await.unwrap();
    let bytes = buffer(BLOCK);
    let failing = join_all((0..8).map(|_| write(&bad, &file, 0, &bytes)));
    let fine = join_all((0..4).map(|i| read_is_served(&good, &file, i)));
    let (failed, _) = guarded(futures::future::join(failing, fine)).await;
    for result in failed {
        assert_eq!(submit_errno(result), Some(libc::EBADF));
    }
    let mut block = vec![0; BLOCK];
    fs::File::open(dir.path().join("data"))
        .unwrap()
        .read_exact_at(&mut block, LEN)
        .unwrap();
    assert!(is_pattern(1, &block));
    one.close().await;
    two.close().await;
}
