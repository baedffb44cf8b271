//! What io_uring alone does.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libc::{POLLIN, POLLRDNORM};

use super::contract_fixture::{
    Fixture, content, file_with, in_forked_child, pipe, poll, read, sync, write,
};
use crate::backend::{
    Completions, GIVEN_BACK, IoBackend, MAX_BATCH, Notify, OpCode, Sqe, SubmitError, Submitter,
    refusal,
};
use crate::buf::{BufferPool, PathToOpen, RegisteredPool};
use crate::sys::create_eventfd;

const READ: i16 = POLLIN | POLLRDNORM;
const IN: i64 = READ as i64;

/// The time after which a test counts as hanging.
const HANG: Duration = Duration::from_secs(300);

/// Submits `entries` from a thread that ends before this returns.
fn submit_from_ended_thread(fixture: &Fixture, entries: &[Sqe]) {
    let submitter = fixture.submitter.clone();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            // SAFETY: the callers keep the memory until the completions.
            let answer = unsafe { submitter.submit(entries, Notify::Signal) };
            assert_eq!(answer, Ok(entries.len()));
        });
        thread.join().unwrap(); // the end of the scope does not wait for the end of the thread
    });
}

#[test]
fn an_entry_that_fails_does_not_stop_those_behind_it() {
    let Some(mut fixture) = Fixture::uring(4) else {
        return;
    };
    let file = file_with(b"");
    let batch = [sync(&file, 1), sync(&-1, 2), sync(&file, 3)];
    // SAFETY: they have no memory.
    unsafe { fixture.submit(&batch) }.unwrap();
    let expected = [(1, 0), (2, refusal(libc::EBADF)), (3, 0)];
    assert_eq!(fixture.completions(3), expected);
}

#[test]
fn a_poll_outlives_the_thread_that_submitted_it() {
    let Some(mut fixture) = Fixture::uring(4) else {
        return;
    };
    for _ in 0..20 {
        let (reader, mut writer) = pipe();
        submit_from_ended_thread(&fixture, &[poll(&reader, READ, 7)]);
        assert!(fixture.is_quiet());
        writer.write_all(b"!").unwrap();
        assert_eq!(fixture.next_completion(), (7, IN));
    }
}

#[test]
fn a_poll_of_a_thread_that_has_ended_is_cancelled() {
    let Some(mut fixture) = Fixture::uring(4) else {
        return;
    };
    let (reader, _writer) = pipe();
    submit_from_ended_thread(&fixture, &[poll(&reader, READ, 7)]);
    assert!(fixture.cancel(7));
    assert_eq!(fixture.next_completion(), (7, 0));
}

#[test]
fn syncs_and_writes_of_threads_that_have_ended_are_performed() {
    let Some(mut fixture) = Fixture::uring(64) else {
        return;
    };
    for round in 0..20 {
        let file = file_with(&[0; 1 << 16]);
        let blocks = [[round as u8 + 1; 4096]; 16];
        let mut entries: Vec<_> = (0..16).map(|user_data| sync(&file, user_data)).collect();
        entries.extend(blocks.iter().zip(16..).map(|(block, user_data)| Sqe {
            offset: (user_data as i64 - 16) * 4096,
            ..write(&file, block, user_data)
        }));
        submit_from_ended_thread(&fixture, &entries);
        for (user_data, result) in fixture.completions(32) {
            let expected = if user_data < 16 { 0 } else { 4096 };
            if result != GIVEN_BACK {
                assert_eq!(result, expected, "{user_data}");
                continue;
            }
            let again = [entries[user_data as usize]];
            // SAFETY: as before.
            unsafe { fixture.submit(&again) }.unwrap();
            assert_eq!(fixture.next_completion(), (user_data, expected));
        }
        assert!(content(&file).iter().all(|byte| *byte == round as u8 + 1));
    }
}

#[test]
fn an_abandoned_write_of_a_thread_that_has_ended_reaches_its_file() {
    let Some(mut fixture) = Fixture::uring(32) else {
        return;
    };
    for _ in 0..20 {
        let file = file_with(b"");
        let blocks = vec![[7; 4096]; 16];
        std::thread::scope(|scope| {
            let (submitter, file, blocks) = (fixture.submitter.clone(), &file, &blocks);
            let thread = scope.spawn(move || {
                let own = file.try_clone().unwrap();
                let entries = (blocks.iter().zip(0..)).map(|(block, user_data)| Sqe {
                    offset: user_data as i64 * 4096,
                    ..write(&own, block, user_data)
                });
                let entries: Vec<_> = entries.collect();
                // SAFETY: the memory lives until the completions.
                let answer = unsafe { submitter.submit(&entries, Notify::Signal) };
                assert_eq!(answer, Ok(16));
                assert!((0..16).all(|user_data| !submitter.cancel(user_data)));
            });
            thread.join().unwrap();
        });
        let _another = File::open("/dev/null").unwrap(); // may get the number of the closed one
        assert!(
            fixture
                .completions(16)
                .iter()
                .all(|(_, result)| *result == 4096)
        );
        assert_eq!(content(&file), blocks.concat());
    }
}

#[test]
fn a_full_ring_has_room_again_after_a_reap() {
    let Some(mut fixture) = Fixture::uring(1) else {
        return;
    };
    let (reader, _writer) = pipe();
    // The kernel may round up.
    let mut in_flight = 0;
    let full = loop {
        let entry = [poll(&reader, READ, in_flight)];
        // SAFETY: polls have no memory.
        match unsafe { fixture.submitter.submit(&entry, Notify::Signal) } {
            Ok(taken) => in_flight += taken as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(full, SubmitError::NoRoom);
    for user_data in 0..in_flight {
        assert!(fixture.cancel(user_data));
    }
    // They have completed, but the ring still has them: no room.
    let entry = [poll(&reader, READ, in_flight)];
    // SAFETY: as above.
    let answer = unsafe { fixture.submitter.submit(&entry, Notify::Signal) };
    assert_eq!(answer, Err(SubmitError::NoRoom));
    assert_eq!(
        fixture.completions(in_flight as usize).len(),
        in_flight as usize
    );
    fixture.poll(&reader, READ, in_flight).unwrap();
}

#[test]
fn a_batch_larger_than_the_submission_queue_is_taken_in_parts() {
    let Some(mut fixture) = Fixture::uring(256) else {
        return;
    };
    let file = file_with(b"");
    let batch: Vec<_> = (0..200).map(|user_data| sync(&file, user_data)).collect();
    // SAFETY: they have no memory.
    let first = unsafe { fixture.submitter.submit(&batch, Notify::Signal) };
    assert_eq!(first, Ok(MAX_BATCH));
    // SAFETY: as above.
    unsafe { fixture.submit(&batch[MAX_BATCH..]) }.unwrap();
    let mut reaped = Vec::new();
    let mut completions = Completions::new();
    while reaped.len() < 200 {
        completions.clear();
        fixture.backend.reap(&mut completions).unwrap();
        reaped.extend(completions.iter().map(|completion| completion.user_data));
        std::thread::yield_now();
    }
    reaped.sort_unstable();
    assert!(reaped.into_iter().eq(0..200));
}

#[test]
fn a_ring_is_full_again_and_again_under_many_threads() {
    let Some(mut fixture) = Fixture::uring(2) else {
        return;
    };
    let file = file_with(&[5; 4096]);
    let mut memory = vec![[0; 16]; 400];
    let all: Vec<_> = (memory.iter_mut().zip(0..))
        .map(|(memory, user_data)| read(&file, memory, user_data))
        .collect();
    let submitter = fixture.submitter.clone();
    let start = Instant::now();
    // Checked by each loop below: if a thread fails, no other thread waits for it for ever.
    let assert_time_is_left = &|| assert!(start.elapsed() < HANG, "still running after {HANG:?}");
    let is_taken = &|entry: &Sqe| {
        assert_time_is_left();
        // SAFETY: the memory lives until the completions.
        match unsafe { submitter.submit(std::slice::from_ref(entry), Notify::Signal) } {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error, SubmitError::NoRoom);
                false
            }
        }
    };
    let mut results = vec![vec![]; 400];
    let mut completions = Completions::new();
    std::thread::scope(|scope| {
        for mine in all.chunks(100) {
            scope.spawn(move || {
                for entry in mine {
                    while !is_taken(entry) {
                        std::thread::yield_now();
                    }
                }
            });
        }
        let mut given_back = Vec::new();
        while results.iter().any(Vec::is_empty) {
            assert_time_is_left();
            fixture.backend.reap(&mut completions).unwrap();
            for completion in completions.drain(..) {
                let index = completion.user_data as usize;
                match completion.result {
                    GIVEN_BACK => given_back.push(all[index]), // its thread has ended
                    result => results[index].push(result),
                }
            }
            given_back.retain(|entry| !is_taken(entry));
            std::thread::yield_now();
        }
    });
    // Each read has completed, so that further completions are duplicates.
    fixture.backend.reap(&mut completions).unwrap();
    assert!(completions.is_empty(), "{completions:?}");
    assert_eq!(results, vec![[16]; 400]);
    assert!(memory.iter().all(|memory| *memory == [5; 16]));
}

/// The backend itself never lets the queue overflow.
#[test]
fn completions_that_overflow_the_queue_are_delivered() {
    for made_up in [1, 2, 3, 64, 500] {
        let Some(mut fixture) = Fixture::uring(1) else {
            return;
        };
        let shared = match &fixture.backend {
            crate::backend::AnyBackend::Uring(uring) => Arc::clone(uring.shared()),
            _ => unreachable!(),
        };
        let (reader, mut writer) = pipe();
        fixture.poll(&reader, READ, 7).unwrap();
        shared.post_made_up(made_up);
        writer.write_all(b"!").unwrap(); // its completion comes behind theirs
        assert_eq!(fixture.next_completion(), (7, IN));
        // The ring works as before.
        let file = file_with(b"");
        // SAFETY: it has no memory.
        unsafe { fixture.submit(&[sync(&file, 8)]) }.unwrap();
        assert_eq!(fixture.next_completion(), (8, 0));
        shared.post_made_up(made_up);
        drop(fixture.backend);
    }
}

#[test]
fn a_read_that_waits_is_cancelled_and_a_write_is_not() {
    let Some(mut fixture) = Fixture::uring(4) else {
        return;
    };
    let (reader, mut writer) = pipe();
    let mut memory = [0; 4];
    // SAFETY: the memory lives until the completion.
    unsafe { fixture.submit(&[read(&reader, &mut memory, 7)]) }.unwrap();
    assert!(fixture.is_quiet());
    assert!(fixture.cancel(7));
    assert_eq!(fixture.next_completion(), (7, 0));

    let filled = fill(&mut writer);
    // SAFETY: as above.
    unsafe { fixture.submit(&[write(&writer, b"last", 8)]) }.unwrap();
    assert!(!fixture.cancel(8));
    let mut everything = vec![0; filled];
    (&reader).read_exact(&mut everything).unwrap();
    assert_eq!(fixture.next_completion(), (8, 4));
    (&reader).read_exact(&mut memory).unwrap();
    assert_eq!(&memory, b"last");
}

/// Writes until a pipe is full. Returns the number of bytes.
fn fill(writer: &mut File) -> usize {
    // SAFETY: takes numbers.
    let flags = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_GETFL) };
    // SAFETY: as above.
    unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) };
    let mut filled = 0;
    while let Ok(written) = writer.write(&[0; 4096]) {
        filled += written;
    }
    // SAFETY: as above.
    unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, flags) };
    filled
}

#[test]
fn dropping_a_ring_cancels_reads_that_wait() {
    let Some(mut fixture) = Fixture::uring(4) else {
        return;
    };
    let (reader, mut writer) = pipe();
    let mut memory = [0; 4];
    // SAFETY: the memory lives until the backend was dropped.
    unsafe { fixture.submit(&[read(&reader, &mut memory, 7)]) }.unwrap();
    let other = Fixture::blocking().backend;
    drop(std::mem::replace(&mut fixture.backend, other)); // would wait for ever
    writer.write_all(b"late").unwrap();
    assert_eq!(memory, [0; 4]);
    (&reader).read_exact(&mut memory).unwrap();
    assert_eq!(&memory, b"late");
}

#[test]
fn dropping_a_ring_waits_for_writes_although_a_forked_child_keeps_it_open() {
    let Some(mut fixture) = Fixture::uring(64) else {
        return;
    };
    let (held, holder) = pipe();
    // SAFETY: the child uses no memory of its parent, then ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // Ends when the parent closes its end, or after some time.
        // SAFETY: takes numbers.
        unsafe { libc::close(holder.as_raw_fd()) };
        // SAFETY: as above.
        unsafe { libc::alarm(60) };
        let mut byte = [0_u8];
        // SAFETY: the kernel writes to a local variable.
        unsafe { libc::read(held.as_raw_fd(), byte.as_mut_ptr().cast(), 1) };
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    let file = file_with(b"");
    let blocks = vec![[7; 4096]; 32];
    let entries: Vec<_> = (blocks.iter().zip(0..))
        .map(|(block, user_data)| Sqe {
            offset: user_data as i64 * 4096,
            ..write(&file, block, user_data)
        })
        .collect();
    // SAFETY: the memory lives until the backend was dropped.
    unsafe { fixture.submit(&entries) }.unwrap();
    let other = Fixture::blocking().backend;
    drop(std::mem::replace(&mut fixture.backend, other));
    drop(blocks);
    let written = content(&file);
    drop(holder);
    let mut status = 0;
    // SAFETY: waits for the child that was just made.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(written.len(), 32 * 4096);
    assert!(written.iter().all(|byte| *byte == 7));
}

/// Pool memory that is registered is read and written like other memory.
#[test]
fn registered_memory_is_read_and_written_at_any_place() {
    let pool = BufferPool::new(4, 4096).unwrap();
    let pools = [RegisteredPool::from(&pool)];
    let Some(mut fixture) = Fixture::uring_with(4, &pools) else {
        return;
    };
    let mut ours: Vec<_> = (0..4).map(|_| pool.try_get().unwrap()).collect();
    drop(pool); // the ring keeps the memory
    drop(pools);
    for (n, buffer) in ours.iter_mut().enumerate() {
        buffer.fill(n as u8 + 1);
    }
    let file = file_with(&[0; 4 * 4096]);
    for (n, buffer) in ours.iter().enumerate() {
        let place = Sqe {
            offset: n as i64 * 4096 + 5,
            ..write(&file, &buffer[7..4000], n as u64)
        };
        // SAFETY: the memory lives until the completion, and nobody writes it.
        unsafe { fixture.submit(&[place]) }.unwrap();
    }
    let expected = [(0, 3993), (1, 3993), (2, 3993), (3, 3993)];
    assert_eq!(fixture.completions(4), expected);
    for (n, piece) in content(&file).chunks(4096).enumerate() {
        assert!(piece[5..3998].iter().all(|byte| *byte == n as u8 + 1));
        assert!(
            piece[..5]
                .iter()
                .chain(&piece[3998..])
                .all(|byte| *byte == 0)
        );
    }
    let mut foreign = [0; 100];
    let mut target = ours.pop().unwrap();
    target.fill(0);
    let reads = [
        read(&file, &mut target[3..4096], 7),
        read(&file, &mut foreign, 8),
    ];
    // SAFETY: as above, and nobody looks at it.
    unsafe { fixture.submit(&reads) }.unwrap();
    assert_eq!(fixture.completions(2), [(7, 4093), (8, 100)]);
    assert_eq!(target[3..], content(&file)[..4093]);
    assert_eq!(
        (&foreign[..], target[..3].iter().sum::<u8>()),
        (&content(&file)[..100], 0)
    );
}

fn open(path: &Arc<PathToOpen>, flags: i32, user_data: u64) -> Sqe {
    Sqe {
        opcode: OpCode::Open,
        rw_flags: flags | libc::O_CLOEXEC,
        addr: PathToOpen::address(path),
        len: 0o600,
        ..sync(&-1, user_data)
    }
}

fn path_in(dir: &tempfile::TempDir, name: &str) -> Arc<PathToOpen> {
    let path = dir.path().join(name).into_os_string().into_encoded_bytes();
    PathToOpen::new(std::ffi::CString::new(path).unwrap())
}

#[test]
fn an_open_leaves_its_descriptor_with_its_path() {
    let Some(mut fixture) = Fixture::uring(4) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (new, missing) = (path_in(&dir, "new"), path_in(&dir, "missing"));
    let entries = [
        open(&new, libc::O_CREAT | libc::O_RDWR, 1),
        open(&missing, libc::O_RDONLY, 2),
    ];
    // SAFETY: the paths live until the end of this test.
    unsafe { fixture.submit(&entries) }.unwrap();
    let failed = -i64::from(libc::ENOENT);
    assert_eq!(fixture.completions(2), [(1, 0), (2, failed)]);
    assert!(missing.take().is_none());
    let mut file = File::from(new.take().unwrap());
    assert!(new.take().is_none());
    file.write_all(b"content").unwrap();
    assert_eq!(std::fs::read(dir.path().join("new")).unwrap(), b"content");
}

#[test]
fn an_open_without_a_path_or_with_a_mode_of_more_than_32_bits_is_refused() {
    let Some(fixture) = Fixture::uring(4) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = path_in(&dir, "new");
    let good = open(&path, libc::O_CREAT | libc::O_RDWR, 1);
    for bad in [
        Sqe { addr: 0, ..good },
        Sqe { offset: 1, ..good },
        Sqe {
            len: 1 << 32,
            ..good
        },
    ] {
        // SAFETY: the path lives; one of no address is not looked at.
        let refused = unsafe { fixture.submit(&[bad]) };
        assert_eq!(refused, Err(libc::EINVAL), "{bad:?}");
    }
    assert!(!dir.path().join("new").exists());
}

/// A FIFO without a reader.
fn fifo_in(dir: &tempfile::TempDir) -> Arc<PathToOpen> {
    let name = dir.path().join("fifo").into_os_string();
    let name = std::ffi::CString::new(name.into_encoded_bytes()).unwrap();
    // SAFETY: the path ends with a 0.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    path_in(dir, "fifo")
}

/// Checks that the next completion is that of entry 7, which was cancelled.
fn next_is_cancelled(fixture: &mut Fixture) {
    let (user_data, result) = fixture.next_completion();
    let errors = [libc::ECANCELED, libc::EINTR].map(|errno| -i64::from(errno));
    assert!(user_data == 7 && errors.contains(&result), "{result}");
}

#[test]
fn the_open_of_a_fifo_is_cancelled_by_its_user_and_by_the_drop_of_the_ring() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo_in(&dir);
    let Some(mut fixture) = Fixture::uring(4) else {
        return;
    };
    // `O_CREAT`: the kernel does not try to open it without waiting.
    let entry = open(&path, libc::O_WRONLY | libc::O_CREAT, 7);
    for wait in [false, true] {
        // SAFETY: the path outlives the ring.
        unsafe { fixture.submit(&[entry]) }.unwrap();
        if wait {
            std::thread::sleep(std::time::Duration::from_millis(20)); // a worker waits by then
        }
        assert!(fixture.cancel(7));
        next_is_cancelled(&mut fixture);
        assert!(!fixture.cancel(7));
    }
    // SAFETY: as above.
    unsafe { fixture.submit(&[entry]) }.unwrap();
    drop(fixture);
    assert!(path.take().is_none());
}

/// A worker of the submitting thread waits for the FIFO. The thread that cancels has never used a ring.
#[test]
fn the_open_of_a_fifo_is_cancelled_from_another_thread() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo_in(&dir);
    let Some(mut fixture) = Fixture::uring(4) else {
        return;
    };
    let entry = open(&path, libc::O_WRONLY | libc::O_CREAT, 7);
    // SAFETY: the path outlives the ring.
    unsafe { fixture.submit(&[entry]) }.unwrap();
    assert!(fixture.is_quiet());
    let submitter = fixture.submitter.clone();
    let cancelling = std::thread::spawn(move || submitter.cancel(7));
    assert!(cancelling.join().unwrap());
    next_is_cancelled(&mut fixture);
}

/// The descriptor is in the path, which nobody but the entry has any more.
#[test]
fn opens_in_flight_at_the_drop_of_a_ring_leave_their_descriptors_with_their_paths() {
    let Some(fixture) = Fixture::uring(16) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let paths: Vec<_> = (0..16).map(|n| path_in(&dir, &n.to_string())).collect();
    let entries: Vec<_> = (0..)
        .zip(&paths)
        .map(|(n, path)| open(path, libc::O_CREAT | libc::O_RDWR, n))
        .collect();
    // SAFETY: the paths outlive the ring.
    unsafe { fixture.submit(&entries) }.unwrap();
    drop(fixture);
    for (n, path) in paths.iter().enumerate() {
        let exists = dir.path().join(n.to_string()).exists();
        assert!(!exists || path.take().is_some(), "{n} was opened");
    }
}

#[test]
fn a_submitter_that_is_left_submits_nothing_and_keeps_no_descriptor() {
    let Some(fixture) = Fixture::uring(4) else {
        return;
    };
    let Fixture {
        backend,
        submitter,
        eventfd: _eventfd,
        ..
    } = fixture;
    let shared = match &backend {
        crate::backend::AnyBackend::Uring(uring) => Arc::downgrade(uring.shared()),
        _ => unreachable!(),
    };
    drop(backend);
    assert!(shared.upgrade().is_some(), "the submitter has it");
    assert!(!submitter.cancel(7));
    let next = create_eventfd(0, false).unwrap();
    drop(submitter);
    assert!(shared.upgrade().is_none());
    drop(next);
}

#[test]
fn a_child_has_no_ring_to_reap() {
    let Some(mut fixture) = Fixture::uring(4) else {
        return;
    };
    let file = file_with(b"0123");
    let mut memory = [0; 4];
    // SAFETY: the memory lives until the completion.
    unsafe { fixture.submit(&[read(&file, &mut memory, 7)]) }.unwrap();
    in_forked_child(|| {
        let other = Fixture::blocking().backend;
        drop(std::mem::replace(&mut fixture.backend, other));
        true
    });
    assert_eq!(fixture.next_completion(), (7, 4));
    assert_eq!(&memory, b"0123");
}
