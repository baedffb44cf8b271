//! I/O priorities of operations reach the kernel, from whichever thread, and the block device.
#![allow(unsafe_code)] // gives up capabilities, mounts

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::*;
use crate::interposer::WatchedFile;
use tokio_kaio::{
    AioCommandError, AioContextHandle, File, IoClass, IoPriority, PartMut, ReadFlags, WriteFlags,
};

const READ: ReadFlags = ReadFlags::empty();
const WRITE: WriteFlags = WriteFlags::empty();

/// `IOPRIO_PRIO_VALUE` of `<linux/ioprio.h>`.
const fn value(class: u16, level: u16) -> Option<u16> {
    Some(class << 13 | level)
}

async fn read(handle: &AioContextHandle, file: &File) -> Result<u64, AioCommandError> {
    let mut target = buffer(BLOCK);
    let read = with_hang_guard(read_block(handle, file, 0, &mut target)).await;
    assert!(read.is_err() || is_pattern(0, &target));
    assert_eq!(target.size(), BLOCK);
    read
}

#[test]
fn priorities_have_the_kernels_values() {
    let best = IoPriority::best_effort(3);
    assert_eq!((best.class(), best.level()), (IoClass::BestEffort, 3));
    assert_eq!(best, IoPriority::new(IoClass::BestEffort, 3));
    let first = IoPriority::real_time(0);
    assert_eq!((first.class(), first.level()), (IoClass::RealTime, 0));
    assert_eq!(IoPriority::idle().class(), IoClass::Idle);
    for level in [8, 9, 255] {
        catch_unwind(|| IoPriority::best_effort(level)).unwrap_err();
        catch_unwind(|| IoPriority::new(IoClass::Idle, level)).unwrap_err();
    }
}

#[test]
fn every_priority_reaches_the_kernel() {
    Fixture::new(8).everywhere().blocks(8).run(async |case| {
        let (file, handle, mode) = (case.file, case.handle, case.mode);
        for (priority, expected) in (0..8)
            .map(|level| (IoPriority::best_effort(level), value(2, level.into())))
            .chain([(IoPriority::idle(), value(3, 0))])
        {
            let watched = WatchedFile::new(&file);
            let handle = handle.with_priority(priority);
            assert_eq!(read(&handle, &file).await.unwrap(), LEN);
            let seen: Vec<_> = watched
                .transfers()
                .iter()
                .map(|seen| seen.priority)
                .collect();
            assert_eq!(seen, [expected], "{mode:?}: {priority:?}");
        }
        // No thread keeps the priority of a request.
        let watched = WatchedFile::new(&file);
        for _ in 0..20 {
            assert_eq!(read(&handle, &file).await.unwrap(), LEN);
        }
        assert!(
            watched
                .transfers()
                .iter()
                .all(|seen| seen.priority.is_none()),
            "{mode:?}"
        );
    });
}

#[test]
fn every_kind_of_transfer_has_a_priority() {
    Fixture::new(8).everywhere().blocks(8).run(async |case| {
        let (file, handle, mode) = (case.file, case.handle, case.mode);
        let handle = handle.with_priority(IoPriority::best_effort(6));
        let handle = handle.with_timeout(Duration::from_secs(3600));
        let watched = WatchedFile::new(&file);
        watched.shorten_to(BLOCK);
        let mut bytes = patterned_buffer(1, 2 * BLOCK);
        let write = file.write_at(&handle, 0, &bytes, LEN, WRITE);
        assert_eq!(write.await.unwrap(), LEN);
        let write = file.write_all_at(&handle, 0, &bytes, 2 * LEN, WRITE);
        write.await.unwrap();
        let read = file.read_exact_at(&handle, 0, &mut bytes, 2 * LEN, READ);
        read.await.unwrap();
        let parts = [bytes.part(..512), bytes.part(512..BLOCK)];
        let write = file.write_vectored_at(&handle, 0, &parts, WRITE);
        assert_eq!(write.await.unwrap(), LEN);
        let mut parts = [PartMut::from(&mut bytes)];
        let read = file.read_vectored_at(&handle, 0, &mut parts, READ);
        assert_eq!(read.await.unwrap(), LEN);
        let (read, bytes) = file.read_owned_at(&handle, 0, bytes, READ).await;
        assert_eq!(read.unwrap(), LEN);
        let write = file.write_vectored_owned_at(&handle, 0, vec![bytes], WRITE);
        assert_eq!(write.await.0.unwrap(), LEN);
        let seen = watched.transfers();
        assert_eq!(seen.len(), 9, "{mode:?}: {seen:?}");
        assert!(
            seen.iter().all(|seen| seen.priority == value(2, 6)),
            "{mode:?}: {seen:?}"
        );
        // Operations that move no data accept it, too.
        file.sync_all(&handle).await.unwrap();
        file.sync_data(&handle).await.unwrap();
    });
}

#[test]
fn batched_requests_keep_their_own_priorities() {
    Fixture::new(64).everywhere().blocks(8).run(async |case| {
        let (file, handle, mode) = (case.file, case.handle, case.mode);
        let watched = WatchedFile::new(&file);
        let handles: Vec<_> = (0..8_u8)
            .map(|level| handle.with_priority(IoPriority::best_effort(level)))
            .chain([handle.clone()])
            .collect();
        let mut targets: Vec<_> = handles.iter().map(|_| buffer(BLOCK)).collect();
        let reads = (0..).zip(&handles).zip(&mut targets);
        let reads = reads
            .map(|((block, handle), target)| read_block(handle, &file, block % 8 * LEN, target));
        for read in futures::future::join_all(reads).await {
            assert_eq!(read.unwrap(), LEN);
        }
        let seen = watched.transfers();
        let mut levels: Vec<_> = seen
            .iter()
            .map(|seen| (seen.priority, seen.offset))
            .collect();
        levels.sort_unstable();
        levels.dedup(); // tried twice
        let mut expected = vec![(None, 0)];
        expected.extend((0..8).map(|level| (value(2, level), u64::from(level) * LEN)));
        assert_eq!(levels, expected, "{mode:?}");
    });
}

#[tokio::test]
async fn the_last_priority_counts_for_its_handle_alone() {
    let dir = disk_dir();
    let (context, handle) = context_in(modes().next().unwrap(), 8);
    let file = patterned_file(&dir, 8).await;
    let idle = handle.with_priority(IoPriority::idle());
    let best = idle.with_priority(IoPriority::best_effort(0));
    for (handle, expected) in [
        (&handle, None),
        (&idle, value(3, 0)),
        (&best.clone(), value(2, 0)),
    ] {
        let watched = WatchedFile::new(&file);
        assert_eq!(read(handle, &file).await.unwrap(), LEN);
        assert_eq!(watched.transfers()[0].priority, expected);
    }
    with_hang_guard(context.close()).await;
}

// ---- What the kernel makes of them ------------------------------------------------------------

/// Gives up all capabilities of this thread, and of those that it starts from now on.
fn give_up_capabilities() {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let none = [0_u32; 6];
    // SAFETY: a header and two sets, as the version wants them.
    let code = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    assert_eq!(code, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn real_time_priority_without_the_capability_is_refused() {
    if !in_child!() {
        return;
    }
    let urgent = IoPriority::real_time(4);
    if is_root() {
        current_thread().block_on(async {
            for mode in modes() {
                let (context, handle) = context_in(mode, 8);
                let file = patterned_file(&disk_dir(), 8).await;
                let watched = WatchedFile::new(&file);
                let handle = handle.with_priority(urgent);
                match read(&handle, &file).await {
                    Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                        eprintln!("skipped: this root has no CAP_SYS_NICE");
                    }
                    read => {
                        assert_eq!(read.unwrap(), LEN);
                        assert_eq!(watched.transfers()[0].priority, value(1, 4), "{mode:?}");
                    }
                }
                with_hang_guard(context.close()).await;
            }
        });
    }
    give_up_capabilities();
    current_thread().block_on(async {
        for dir in test_dirs() {
            for mode in modes() {
                let (context, handle) = context_in(mode, 8);
                let file = patterned_file(&dir, 8).await;
                let error = read(&handle.with_priority(urgent), &file)
                    .await
                    .unwrap_err();
                assert!(
                    matches!(error, AioCommandError::IoSubmit(_)),
                    "{mode:?}: {error:?}"
                );
                assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{mode:?}");
                // Other requests are not affected, and no thread keeps the refused priority.
                for allowed in [IoPriority::idle(), IoPriority::best_effort(0)] {
                    let handle = handle.with_priority(allowed);
                    assert_eq!(read(&handle, &file).await.unwrap(), LEN, "{mode:?}");
                }
                assert_eq!(read(&handle, &file).await.unwrap(), LEN, "{mode:?}");
                assert_idle(&handle, 8).await;
                with_hang_guard(context.close()).await;
            }
        }
    });
}

/// An instance of kernel tracing, in a mount that only this process sees.
struct Trace(PathBuf);

impl Trace {
    fn of_issued_requests(mount: &Path) -> Result<Trace, String> {
        let what = |what: &str| format!("{what}: {}", std::io::Error::last_os_error());
        // SAFETY: this process gets a table of mounts of its own.
        if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
            return Err(what("unshare"));
        }
        let private = libc::MS_REC | libc::MS_PRIVATE;
        mount_at(c"none", Path::new("/"), c"", private)
            .map_err(|()| what("mount --make-rprivate"))?;
        mount_at(c"tracefs", mount, c"tracefs", 0).map_err(|()| what("mount -t tracefs"))?;
        let instance = mount.join(format!("instances/kaio-{}", std::process::id()));
        fs::create_dir(&instance).map_err(|error| format!("an instance: {error}"))?;
        let trace = Trace(instance);
        let event = trace.0.join("events/block/block_rq_issue");
        let format = fs::read_to_string(event.join("format")).unwrap_or_default();
        if !format.contains("ioprio") {
            return Err("block_rq_issue does not tell priorities (Linux before 6.5)".into());
        }
        fs::write(event.join("enable"), "1").map_err(|error| format!("block_rq_issue: {error}"))?;
        Ok(trace)
    }

    /// Records requests of this priority only: the others of a busy machine would fill up the buffer of the
    /// trace. Forgets what is recorded.
    fn restart(&self, priority: u16) {
        let filter = self.0.join("events/block/block_rq_issue/filter");
        fs::write(filter, format!("ioprio == {priority}")).unwrap();
        fs::write(self.0.join("trace"), "").unwrap();
    }

    fn text(&self) -> String {
        fs::read_to_string(self.0.join("trace")).unwrap()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("events/block/block_rq_issue/enable"), "0");
        fs::remove_dir(&self.0).unwrap();
    }
}

fn mount_at(
    source: &std::ffi::CStr,
    target: &Path,
    kind: &std::ffi::CStr,
    flags: libc::c_ulong,
) -> Result<(), ()> {
    let target = CString::new(target.as_os_str().as_bytes()).unwrap();
    let (source, kind, target) = (source.as_ptr(), kind.as_ptr(), target.as_ptr());
    // SAFETY: strings that end with 0, and no data.
    let code = unsafe { libc::mount(source, target, kind, flags, std::ptr::null()) };
    if code == 0 { Ok(()) } else { Err(()) }
}

#[test]
fn the_block_device_sees_the_priorities() {
    if !in_child!() {
        return;
    }
    if !is_root() {
        eprintln!("skipped: only root may trace the kernel");
        return;
    }
    let dir = disk_dir();
    let mount = dir.path().join("tracefs");
    fs::create_dir(&mount).unwrap();
    let trace = match Trace::of_issued_requests(&mount) {
        Ok(trace) => trace,
        Err(why) => {
            eprintln!("skipped: {why}");
            unmount(&mount);
            return;
        }
    };
    const SIZE: usize = 4 * BLOCK;
    fs::write(dir.path().join("data"), vec![7; SIZE]).unwrap();
    current_thread().block_on(async {
        for mode in modes() {
            let (context, handle) = context_in(mode, 8);
            let file = open_rw(&dir, "data").await;
            file.sync_all(&handle).await.unwrap();
            for (priority, value, reported) in [
                (IoPriority::real_time(5), value(1, 5), "rt,0,5"),
                (IoPriority::best_effort(1), value(2, 1), "be,0,1"),
                (IoPriority::idle(), value(3, 0), "idle,0,0"),
            ] {
                trace.restart(value.unwrap());
                let handle = handle.with_priority(priority);
                let mut target = buffer(SIZE);
                let read = file.read_at(&handle, 0, &mut target, SIZE as u64, READ);
                match with_hang_guard(read).await {
                    Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                        eprintln!("skipped: this root has no CAP_SYS_NICE");
                    }
                    read => {
                        assert_eq!(read.unwrap(), SIZE as u64);
                        let text = trace.text();
                        let bytes = issued(&text, reported);
                        assert!(bytes >= SIZE, "{mode:?}: {priority:?}\n{text}");
                    }
                }
            }
            with_hang_guard(context.close()).await;
        }
    });
    drop(trace);
    unmount(&mount);
}

/// Bytes of the reads with this priority in a trace. Hardly any other program uses one of these.
fn issued(trace: &str, priority: &str) -> usize {
    let of_line = |line: &str| {
        let (_, event) = line.split_once("block_rq_issue: ")?;
        let mut fields = event.split(' ').skip(1);
        let reads = fields.next()?.starts_with('R') && event.contains(priority);
        reads.then(|| fields.next()?.parse::<usize>().ok())?
    };
    trace.lines().filter_map(of_line).sum()
}

fn unmount(mount: &Path) {
    let mount = CString::new(mount.as_os_str().as_bytes()).unwrap();
    // SAFETY: a string that ends with 0. Nothing is there if it was not mounted.
    unsafe { libc::umount2(mount.as_ptr(), libc::MNT_DETACH) };
}
