//! Submission, refusal, reaping, signals.

use std::fs::File;
use std::os::fd::AsRawFd;

use super::contract_fixture::{
    Fixture, file_with, in_forked_child, on_each_backend, on_each_polling_backend, pipe, poll,
    read, sync, write,
};
use crate::backend::{
    Completions, IoBackend, MAX_BATCH, Notify, OpCode, REAP_BATCH, Sqe, SubmitError, Submitter,
};
use crate::sys::abi::{RWF_APPEND, RWF_HIPRI};

#[test]
fn a_read_fills_the_memory_from_the_offset() {
    on_each_backend(|fixture| {
        let file = fixture.file_with(b"0123456789");
        for rw_flags in [0, RWF_HIPRI] {
            let mut memory = [0; 4];
            let read = Sqe {
                offset: 3,
                rw_flags,
                ..read(&file, &mut memory, 7)
            };
            // SAFETY: the memory is looked at after the completion.
            unsafe { fixture.submit(&[read]) }.unwrap();
            assert_eq!(fixture.next_completion(), (7, 4));
            assert_eq!(&memory, b"3456");
        }
    });
}

#[test]
fn a_read_at_the_end_of_the_file_is_short() {
    on_each_backend(|fixture| {
        let file = fixture.file_with(b"0123456789");
        for (offset, expected) in [(8, 2), (10, 0), (i64::MAX - 4, 0)] {
            let mut memory = [0; 4];
            let read = Sqe {
                offset,
                ..read(&file, &mut memory, 7)
            };
            // SAFETY: the memory is dropped after the completion.
            unsafe { fixture.submit(&[read]) }.unwrap();
            assert_eq!(fixture.next_completion(), (7, expected));
        }
    });
}

#[test]
fn a_write_changes_the_file_at_its_offset_or_its_end() {
    on_each_backend(|fixture| {
        let file = fixture.file_with(b"0123");
        let at_offset = Sqe {
            offset: 1,
            ..write(&file, b"ab", 7)
        };
        let append = Sqe {
            rw_flags: RWF_APPEND,
            ..write(&file, b"cd", 8)
        };
        for (entry, expected) in [(at_offset, &b"0ab3"[..]), (append, b"0ab3cd")] {
            // SAFETY: nobody writes to the memory.
            unsafe { fixture.submit(&[entry]) }.unwrap();
            assert_eq!(fixture.next_completion(), (entry.user_data, 2));
            assert_eq!(file.content(), expected);
        }
    });
}

#[test]
fn both_syncs_complete_with_0() {
    on_each_backend(|fixture| {
        let file = fixture.file_with(b"");
        let data_only = Sqe {
            opcode: OpCode::Fdatasync,
            ..sync(&file, 2)
        };
        // SAFETY: they have no memory.
        unsafe { fixture.submit(&[sync(&file, 1), data_only]) }.unwrap();
        assert_eq!(fixture.completions(2), [(1, 0), (2, 0)]);
    });
}

#[test]
fn a_sync_with_the_fields_of_a_transfer_is_refused() {
    on_each_backend(|fixture| {
        let file = fixture.file_with(b"");
        for opcode in [OpCode::Fsync, OpCode::Fdatasync] {
            let good = Sqe {
                opcode,
                ..sync(&file, 7)
            };
            for bad in [
                Sqe { addr: 1, ..good },
                Sqe { len: 1, ..good },
                Sqe { offset: 1, ..good },
                Sqe {
                    rw_flags: 1,
                    ..good
                },
            ] {
                // SAFETY: it is refused.
                let answer = unsafe { fixture.submit(&[bad]) };
                assert_eq!(answer, Err(libc::EINVAL), "{bad:?}");
            }
        }
        assert!(fixture.is_quiet());
    });
}

#[test]
fn user_data_comes_back_whatever_it_is() {
    on_each_backend(|fixture| {
        let file = fixture.file_with(b"");
        for user_data in [0, 1, 1 << 63, u64::MAX] {
            // SAFETY: it has no memory.
            unsafe { fixture.submit(&[sync(&file, user_data)]) }.unwrap();
            assert_eq!(fixture.next_completion(), (user_data, 0));
        }
    });
}

#[test]
fn an_empty_submission_takes_nothing() {
    on_each_backend(|fixture| {
        // SAFETY: there is no memory.
        let answer = unsafe { fixture.submitter.submit(&[], Notify::Signal) };
        assert_eq!(answer, Ok(0));
        assert!(fixture.is_quiet());
    });
}

#[test]
fn a_refused_entry_stops_the_batch_and_is_reported_when_it_comes_first() {
    on_each_backend(|fixture| {
        let file = fixture.file_with(b"");
        let malformed = Sqe {
            addr: 1,
            ..sync(&file, 2)
        };
        for (bad, errno) in [(malformed, libc::EINVAL), (sync(&-1, 2), libc::EBADF)] {
            if errno == libc::EBADF && fixture.is_uring() {
                continue; // io_uring looks at the file of an entry that it has taken
            }
            let batch = [sync(&file, 1), bad, sync(&file, 3)];
            // SAFETY: they have no memory.
            assert_eq!(unsafe { fixture.submit(&batch) }, Err(errno));
            assert_eq!(fixture.next_completion(), (1, 0));
            // SAFETY: as above.
            let first = unsafe { fixture.submitter.submit(&batch[1..], Notify::Signal) };
            assert_eq!(first, Err(SubmitError::Refused(errno)));
            assert!(fixture.is_quiet());
            // SAFETY: as above.
            unsafe { fixture.submit(&batch[2..]) }.unwrap();
            assert_eq!(fixture.next_completion(), (3, 0));
        }
    });
}

#[test]
fn refusals_are_the_same_everywhere() {
    let directory = File::open("/").unwrap();
    on_each_backend(|fixture| {
        let (read_only, write_only) = (fixture.read_only_file(), fixture.write_only_file());
        let file = fixture.file_with(b"0123");
        let mut memory = [0; 4];
        let good = read(&file, &mut memory, 7);
        let to_read_only = Sqe {
            fd: read_only.as_raw_fd(),
            ..write(&file, b"0123", 7)
        };
        let of_a_directory = match fixture.is_simulated() {
            true => libc::EBADF, // it knows the descriptors of its disk only, and those are of files
            false => libc::EINVAL,
        };
        let cases = [
            (Sqe { fd: -1, ..good }, libc::EBADF),
            (read_from(&good, &write_only), libc::EBADF),
            (to_read_only, libc::EBADF),
            (read_from(&good, &directory), of_a_directory),
            (Sqe { offset: -1, ..good }, libc::EINVAL),
            (past_the_largest_offset(&good), libc::EINVAL),
            (
                Sqe {
                    rw_flags: 1 << 30,
                    ..good
                },
                libc::EOPNOTSUPP,
            ),
        ];
        for (entry, errno) in cases {
            // SAFETY: it is refused.
            let answer = unsafe { fixture.refusal(&entry) };
            assert_eq!(answer, Err(errno), "{entry:?}");
        }
        assert!(fixture.is_quiet());
    });
}

fn read_from(entry: &Sqe, file: &impl AsRawFd) -> Sqe {
    Sqe {
        fd: file.as_raw_fd(),
        ..*entry
    }
}

fn past_the_largest_offset(entry: &Sqe) -> Sqe {
    Sqe {
        offset: i64::MAX - 3,
        ..*entry
    }
}

#[test]
fn errors_that_are_no_refusals_are_results() {
    on_each_backend(|fixture| {
        if fixture.is_simulated() {
            return println!("skipped for simulated disks: no kernel looks at their addresses");
        }
        let file = fixture.file_with(b"0123");
        let unmapped = Sqe {
            opcode: OpCode::Read,
            addr: 1,
            len: 4,
            ..sync(&file, 7)
        };
        // SAFETY: nothing is there to be changed.
        unsafe { fixture.submit(&[unmapped]) }.unwrap();
        assert_eq!(fixture.next_completion(), (7, -i64::from(libc::EFAULT)));
    });
}

#[test]
fn a_signal_comes_only_if_the_caller_asks() {
    on_each_backend(|fixture| {
        let file = fixture.file_with(b"");
        let entry = [sync(&file, 7)];
        if fixture.is_simulated() {
            return println!("skipped for simulated disks: they signal no eventfd");
        }
        for (notify, signals) in [(Notify::Suppress, 0), (Notify::Signal, 1)] {
            // SAFETY: it has no memory.
            let answer = unsafe { fixture.submitter.submit(&entry, notify) };
            assert_eq!(answer, Ok(1));
            assert_eq!(reap_until(fixture, 1), [7]);
            check_signals(fixture, signals);
        }
        if fixture.is_uring() {
            return; // the eventfd is the ring's
        }
        let without = fixture.backend.submitter(None);
        // SAFETY: as above.
        let answer = unsafe { without.submit(&entry, Notify::Signal) };
        assert_eq!(answer, Ok(1));
        assert_eq!(reap_until(fixture, 1), [7]);
        assert_eq!(fixture.signals(), 0);
    });
}

#[test]
fn a_poll_signals_only_if_the_caller_asks() {
    on_each_polling_backend(|fixture| {
        let (reader, _writer) = pipe();
        let entry = [poll(&reader, libc::POLLIN, 7)];
        for (notify, signals) in [(Notify::Suppress, 0), (Notify::Signal, 1)] {
            // SAFETY: polls have no memory.
            let answer = unsafe { fixture.submitter.submit(&entry, notify) };
            assert_eq!(answer, Ok(1));
            assert!(fixture.cancel(7));
            assert_eq!(reap_until(fixture, 1), [7]);
            check_signals(fixture, signals);
        }
    });
}

/// Checks how often the eventfd of `fixture` was signalled for completions that have been reaped.
fn check_signals(fixture: &Fixture, expected: u64) {
    let expected = match fixture.is_uring() {
        true => 1, // it can't suppress signals
        false => expected,
    };
    if expected > 0 {
        fixture.wait_for_signal(); // the kernel signals after it has posted the completion
    }
    assert_eq!(fixture.signals(), expected);
}

#[test]
fn a_submitter_signals_its_own_eventfd() {
    on_each_backend(|fixture| {
        if fixture.is_uring() {
            return println!("skipped for io_uring: a ring has one eventfd");
        }
        if fixture.is_simulated() {
            return println!("skipped for simulated disks: they signal no eventfd");
        }
        let file = fixture.file_with(b"");
        let other = Fixture::blocking();
        let submitter = fixture.backend.submitter(Some(other.eventfd.as_raw_fd()));
        // SAFETY: it has no memory.
        let answer = unsafe { submitter.submit(&[sync(&file, 7)], Notify::Signal) };
        assert_eq!(answer, Ok(1));
        assert_eq!(reap_until(fixture, 1), [7]);
        check_signals(&other, 1);
        check_signals(fixture, 0);
    });
}

/// Reaps until there are that many completions, without the eventfd.
fn reap_until(fixture: &mut Fixture, wanted: usize) -> Vec<u64> {
    let mut completions = Completions::new();
    loop {
        fixture.backend.reap(&mut completions).unwrap();
        if completions.len() >= wanted {
            break;
        }
        fixture.pause();
    }
    let user_data = completions.iter().map(|completion| completion.user_data);
    user_data.collect()
}

#[test]
fn a_reap_appends_and_takes_no_more_than_fits() {
    on_each_backend(|fixture| {
        let file = fixture.file_with(b"");
        // SAFETY: they have no memory.
        unsafe { fixture.submit(&[sync(&file, 1), sync(&file, 2)]) }.unwrap();
        let mut completions = Completions::new();
        for number in 0..REAP_BATCH - 1 {
            completions.push(crate::backend::Completion {
                user_data: 100,
                result: number as i64,
            });
        }
        loop {
            fixture.backend.reap(&mut completions).unwrap();
            if completions.is_full() {
                break;
            }
            fixture.pause();
        }
        fixture.backend.reap(&mut completions).unwrap();
        let added = completions[REAP_BATCH - 1].user_data;
        assert!(added == 1 || added == 2);
        assert_eq!(completions[0].user_data, 100);
        assert_eq!(fixture.next_completion(), (3 - added, 0));
    });
}

#[test]
fn batches_of_any_size_are_taken_in_full() {
    let Some(mut fixture) = Fixture::aio(256) else {
        return;
    };
    let file = file_with(b"");
    for size in [1, 2, MAX_BATCH, MAX_BATCH + 1, 2 * MAX_BATCH] {
        let batch: Vec<_> = (0..size as u64)
            .map(|user_data| sync(&file, user_data))
            .collect();
        // SAFETY: they have no memory.
        let answer = unsafe { fixture.submitter.submit(&batch, Notify::Suppress) };
        assert_eq!(answer, Ok(size));
        let mut reaped = Vec::new();
        while reaped.len() < size {
            reaped.extend(reap_until(&mut fixture, 1));
        }
        reaped.sort_unstable();
        assert!(reaped.into_iter().eq(0..size as u64));
    }
    assert!(fixture.is_quiet());
}

#[test]
fn aio_has_room_again_after_a_reap() {
    let Some(mut fixture) = Fixture::aio(1) else {
        return;
    };
    let (reader, _writer) = pipe();
    // How many a context holds is up to the kernel.
    let mut in_flight = 0;
    let full = loop {
        let entry = [poll(&reader, libc::POLLIN, in_flight)];
        // SAFETY: polls have no memory.
        match unsafe { fixture.submitter.submit(&entry, Notify::Signal) } {
            Ok(taken) => in_flight += taken as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(full, SubmitError::NoRoom);
    assert!(!fixture.cancel(in_flight), "it is not in flight");
    let mut reaped = Vec::new();
    for user_data in 0..in_flight {
        assert!(fixture.cancel(user_data));
        reaped.extend(reap_until(&mut fixture, 1));
    }
    assert!(reaped.into_iter().eq(0..in_flight));
    fixture.poll(&reader, libc::POLLIN, in_flight).unwrap();
}

#[test]
fn a_sync_is_not_cancelled() {
    on_each_backend(|fixture| {
        let file = fixture.file_with(b"");
        // SAFETY: it has no memory.
        unsafe { fixture.submit(&[sync(&file, 7)]) }.unwrap();
        assert!(!fixture.cancel(7));
        assert_eq!(fixture.next_completion(), (7, 0));
    });
}

#[test]
fn capabilities_tell_the_backends_apart() {
    on_each_backend(|fixture| {
        let capabilities = fixture.backend.capabilities();
        let is_aio = fixture.is_aio();
        let never_blocks = fixture.is_uring() || fixture.is_simulated();
        assert_eq!(capabilities.blocking_submit, !is_aio && !never_blocks);
        assert_eq!(capabilities.nonblocking_submit, never_blocks);
        assert_eq!(capabilities.cancels_transfers, never_blocks);
        if !never_blocks && (!is_aio || cfg!(kaio_force_getevents)) {
            assert!(!capabilities.user_ring);
        }
        if capabilities.blocking_submit {
            let file = fixture.file_with(b"");
            // SAFETY: it has no memory.
            unsafe { fixture.submit(&[sync(&file, 7)]) }.unwrap();
            let mut completions = Completions::new();
            fixture.backend.reap(&mut completions).unwrap();
            assert_eq!(completions.len(), 1, "it has completed when submit returns");
        }
    });
}

#[test]
fn dropping_a_backend_waits_until_nothing_is_in_flight() {
    on_each_backend(|fixture| {
        if fixture.is_simulated() {
            return println!("skipped for simulated disks: the drop ends the requests in flight");
        }
        let (file, written) = (fixture.file_with(&[0; 1 << 16]), fixture.file_with(b""));
        let (mut memory, data) = (vec![0xff; 1 << 16], vec![7; 1 << 16]);
        let entries = [read(&file, &mut memory, 7), write(&written, &data, 8)];
        // SAFETY: the memory is looked at after the drop.
        unsafe { fixture.submit(&entries) }.unwrap();
        let cancels_reads = fixture.backend.capabilities().cancels_transfers;
        let other = Fixture::blocking().backend;
        drop(std::mem::replace(&mut fixture.backend, other));
        assert!(written.content() == data);
        assert!(cancels_reads || memory.iter().all(|byte| *byte == 0));
    });
}

#[test]
fn a_submitter_of_another_thread_submits() {
    on_each_backend(|fixture| {
        let file = fixture.file_with(b"");
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (submitter, file) = (fixture.submitter.clone(), &file);
                scope.spawn(move || {
                    let entry = [sync(file, thread)];
                    // SAFETY: it has no memory; the backend outlives the scope.
                    let answer = unsafe { submitter.submit(&entry, Notify::Signal) };
                    assert_eq!(answer, Ok(1));
                });
            }
        });
        let expected: Vec<_> = (0..4).map(|thread| (thread, 0)).collect();
        assert_eq!(fixture.completions(4), expected);
    });
}

#[test]
fn a_forked_child_submits_nothing() {
    on_each_backend(|fixture| {
        let file = fixture.file_with(b"0123");
        // SAFETY: it is refused in the child.
        in_forked_child(
            || unsafe { fixture.submit(&[write(&file, b"abcd", 7)]) } == Err(libc::EINVAL),
        );
        assert!(fixture.is_quiet());
        assert_eq!(file.content(), b"0123");
    });
}

#[test]
fn file_calls_are_performed_or_refused() {
    on_each_backend(|fixture| {
        let file = fixture.file_with(&[7; 100]);
        let call = Sqe {
            opcode: OpCode::Allocate,
            len: 4096,
            ..sync(&file, 1)
        };
        if fixture.is_uring() {
            // SAFETY: it has no memory.
            unsafe { fixture.submit(&[call]) }.unwrap();
            assert_eq!(fixture.next_completion(), (1, 0));
            assert_eq!(file.content().len(), 4096);
            return;
        }
        for opcode in [
            OpCode::Allocate,
            OpCode::Truncate,
            OpCode::SyncRange,
            OpCode::Open,
        ] {
            let call = Sqe { opcode, ..call };
            // SAFETY: as above.
            assert_eq!(unsafe { fixture.submit(&[call]) }, Err(libc::EINVAL));
        }
        assert_eq!(file.content(), [7; 100]);
    });
}
