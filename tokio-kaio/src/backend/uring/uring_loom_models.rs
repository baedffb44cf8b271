//! The backend in every interleaving of its threads, as far as loom searches.
//!
//! The code under test is that of the crate: submissions, the table, cancellation, the reap, what is submitted
//! again, and the end. The kernel is a [`ModelKernel`]. What is common to all models is described in
//! `driver/tests/loom_models.rs`.
//!
//! Each model reaps only after a signal, and once for each signal. A lost signal, or an entry that is lost,
//! leaves its thread waiting, and so fails. The entries are told apart by their `user_data`. Of a transfer it is
//! also the number of its memory, which its caller uses again as soon as it has completed.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use loom::thread::{self, JoinHandle};

use super::model_kernel::{Answer, ModelKernel, PERFORMED, WRITTEN};
use super::{UringBackend, UringSubmitter};
use crate::backend::{
    Completion, Completions, GIVEN_BACK, IoBackend, Notify, OpCode, Sqe, SubmitError, Submitter,
    refusal,
};

type Backend = UringBackend<ModelKernel>;
type Ring = UringSubmitter<ModelKernel>;

/// The result of an entry that was performed.
const DONE: i64 = PERFORMED as i64;

/// Searches with at most this many preemptions.
fn explore(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.check(body);
}

/// A ring with room for one entry less than `capacity`.
fn ring(capacity: u32) -> (ModelKernel, Backend, Ring) {
    let kernel = ModelKernel::new(capacity);
    let backend = Backend::over(kernel.clone(), capacity);
    let ring = backend.submitter(None);
    (kernel, backend, ring)
}

fn entry(opcode: OpCode, user_data: u64) -> Sqe {
    static FILE: OnceLock<File> = OnceLock::new();
    let file = FILE.get_or_init(|| File::open("/dev/null").unwrap());
    Sqe {
        opcode,
        priority: 0,
        fd: file.as_raw_fd(),
        rw_flags: 0,
        addr: 0,
        len: 0,
        offset: 0,
        user_data,
    }
}

fn sync(user_data: u64) -> Sqe {
    entry(OpCode::Fsync, user_data)
}

fn transfer(opcode: OpCode, user_data: u64) -> Sqe {
    Sqe {
        addr: user_data,
        len: 1,
        ..entry(opcode, user_data)
    }
}

fn read(user_data: u64) -> Sqe {
    transfer(OpCode::Read, user_data)
}

fn poll(user_data: u64) -> Sqe {
    Sqe {
        len: libc::POLLIN as u64,
        ..entry(OpCode::Poll, user_data)
    }
}

/// A poll for an event that never happens.
fn endless_poll(user_data: u64) -> Sqe {
    entry(OpCode::Poll, user_data)
}

fn try_submit(ring: &Ring, entries: &[Sqe]) -> Result<usize, SubmitError> {
    // SAFETY: the model kernel uses its own memory, and the models drop the backend after the submissions.
    unsafe { ring.submit(entries, Notify::Signal) }
}

/// Submits entries, also if there is no room at first.
fn submit(ring: &Ring, entries: &[Sqe]) {
    let mut taken = 0;
    while taken < entries.len() {
        match try_submit(ring, &entries[taken..]) {
            Ok(count) => taken += count,
            Err(error) => {
                assert_eq!(error, SubmitError::NoRoom);
                thread::yield_now();
            }
        }
    }
}

fn submit_on_a_thread<const N: usize>(ring: &Ring, entries: [Sqe; N]) -> JoinHandle<()> {
    let ring = ring.clone();
    thread::spawn(move || submit(&ring, &entries))
}

/// A thread of the kernel that performs `count` entries, or gives them back.
fn perform(kernel: &ModelKernel, count: usize) -> JoinHandle<()> {
    let kernel = kernel.clone();
    thread::spawn(move || {
        for _ in 0..count {
            assert!(kernel.perform_next());
        }
    })
}

/// A thread of the kernel that performs entries until the ring is released.
fn perform_all(kernel: &ModelKernel) -> JoinHandle<()> {
    let kernel = kernel.clone();
    thread::spawn(move || while kernel.perform_next() {})
}

fn cancel_on_a_thread(ring: &Ring, user_data: u64) -> JoinHandle<bool> {
    let ring = ring.clone();
    thread::spawn(move || ring.cancel(user_data))
}

/// Reaps as the driver does, until `count` entries have completed. Returns `user_data` and result of each, in
/// the order of `user_data`.
fn reap(kernel: &ModelKernel, backend: &mut Backend, count: usize) -> Vec<(u64, i64)> {
    let mut done = Vec::new();
    let mut reap_later = false;
    while done.len() < count {
        match reap_later {
            true => thread::yield_now(), // a pause
            false => kernel.wait_for_signal(),
        }
        let mut completions = Completions::new();
        backend.reap(&mut completions).unwrap();
        reap_later = backend.after_reap().reap_later;
        for Completion { user_data, result } in completions {
            done.push((user_data, result));
        }
    }
    done.sort_unstable();
    done
}

/// Drops the backend. Nothing is left, except `threads`, which end.
fn end(kernel: &ModelKernel, backend: Backend, threads: impl IntoIterator<Item = JoinHandle<()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(backend.shared.table().in_flight(), 0);
    drop(backend);
    assert!(kernel.is_released());
}

#[test]
fn two_threads_submit_and_every_entry_completes_once() {
    explore(2, || {
        let (kernel, mut backend, ring) = ring(4);
        let threads = [
            perform(&kernel, 2),
            submit_on_a_thread(&ring, [read(1)]),
            submit_on_a_thread(&ring, [read(2)]),
        ];
        assert_eq!(reap(&kernel, &mut backend, 2), [(1, DONE), (2, DONE)]);
        assert_eq!([1, 2].map(|addr| kernel.take_memory(addr)), [WRITTEN; 2]);
        end(&kernel, backend, threads);
    });
}

#[test]
fn entries_complete_in_any_order() {
    explore(2, || {
        let (kernel, mut backend, ring) = ring(4);
        let threads = [
            perform(&kernel, 1),
            perform(&kernel, 1),
            submit_on_a_thread(&ring, [read(1), read(2)]),
        ];
        assert_eq!(reap(&kernel, &mut backend, 2), [(1, DONE), (2, DONE)]);
        end(&kernel, backend, threads);
    });
}

#[test]
fn a_ring_with_room_for_one_entry_is_shared_by_two_threads() {
    explore(2, || {
        let (kernel, mut backend, ring) = ring(2);
        let threads = [
            perform(&kernel, 2),
            submit_on_a_thread(&ring, [read(1)]),
            submit_on_a_thread(&ring, [read(2)]),
        ];
        assert_eq!(reap(&kernel, &mut backend, 2), [(1, DONE), (2, DONE)]);
        end(&kernel, backend, threads);
    });
}

#[test]
fn the_completion_queue_has_room_while_a_reap_gives_others_room() {
    explore(3, || {
        let (kernel, mut backend, ring) = ring(4);
        submit(&ring, &[sync(1), sync(2), sync(3)]);
        for _ in 0..3 {
            kernel.perform_next();
        }
        let threads = [
            perform(&kernel, 2),
            submit_on_a_thread(&ring, [sync(4), sync(5)]),
        ];
        let done = reap(&kernel, &mut backend, 5);
        assert_eq!(done, [1, 2, 3, 4, 5].map(|user_data| (user_data, DONE)));
        end(&kernel, backend, threads);
    });
}

#[test]
fn entries_that_the_kernel_does_not_take_are_submitted_again() {
    explore(2, || {
        let (kernel, mut backend, ring) = ring(4);
        kernel.answer([Answer::Takes(1), Answer::Takes(0)]);
        let threads = [
            perform(&kernel, 2),
            submit_on_a_thread(&ring, [read(1), read(2)]),
        ];
        assert_eq!(reap(&kernel, &mut backend, 2), [(1, DONE), (2, DONE)]);
        assert_eq!([1, 2].map(|addr| kernel.take_memory(addr)), [WRITTEN; 2]);
        end(&kernel, backend, threads);
    });
}

#[test]
fn entries_that_were_not_taken_and_new_ones_are_submitted_at_the_same_time() {
    explore(2, || {
        let (kernel, mut backend, ring) = ring(4);
        kernel.answer([Answer::Takes(0)]);
        submit(&ring, &[read(1)]);
        let threads = [perform(&kernel, 2), submit_on_a_thread(&ring, [read(2)])];
        assert_eq!(reap(&kernel, &mut backend, 2), [(1, DONE), (2, DONE)]);
        end(&kernel, backend, threads);
    });
}

/// The submission queue has room for two entries.
#[test]
fn entries_that_were_not_taken_are_submitted_again_in_parts() {
    explore(3, || {
        let (kernel, mut backend, ring) = ring(4);
        kernel.answer([Answer::Takes(0), Answer::Takes(0)]);
        submit(&ring, &[sync(1), sync(2), sync(3)]);
        let performing = perform(&kernel, 3);
        let done = reap(&kernel, &mut backend, 3);
        assert_eq!(done, [1, 2, 3].map(|user_data| (user_data, DONE)));
        end(&kernel, backend, [performing]);
    });
}

#[test]
fn entries_that_the_kernel_gives_back_are_submitted_again() {
    explore(2, || {
        let (kernel, mut backend, ring) = ring(4);
        kernel.give_back(2);
        let threads = [
            perform(&kernel, 4),
            submit_on_a_thread(&ring, [sync(1), poll(2)]),
        ];
        assert_eq!(reap(&kernel, &mut backend, 2), [(1, DONE), (2, DONE)]);
        end(&kernel, backend, threads);
    });
}

#[test]
fn a_second_completion_does_not_end_the_next_entry_of_its_place() {
    explore(3, || {
        let (kernel, mut backend, ring) = ring(4);
        kernel.post_twice(1);
        submit(&ring, &[sync(1)]);
        let performing = perform(&kernel, 2);
        assert_eq!(reap(&kernel, &mut backend, 1), [(1, DONE)]);
        let next = 1 << 32 | 1; // the same place
        submit(&ring, &[sync(next)]);
        assert_eq!(reap(&kernel, &mut backend, 1), [(next, DONE)]);
        end(&kernel, backend, [performing]);
    });
}

#[test]
fn a_transfer_that_the_kernel_gives_back_goes_back_to_its_caller() {
    explore(2, || {
        let (kernel, mut backend, ring) = ring(4);
        kernel.give_back(1);
        let threads = [
            perform(&kernel, 2),
            submit_on_a_thread(&ring, [read(1)]),
            submit_on_a_thread(&ring, [read(2)]),
        ];
        let done = reap(&kernel, &mut backend, 2);
        for (user_data, result) in done {
            let is_written = kernel.take_memory(user_data) == WRITTEN;
            assert_eq!(result, if is_written { DONE } else { GIVEN_BACK });
        }
        end(&kernel, backend, threads);
    });
}

#[test]
fn entries_that_are_not_taken_and_then_refused_end() {
    explore(3, || {
        let (kernel, mut backend, ring) = ring(4);
        kernel.answer([Answer::Takes(0), Answer::Refuses(libc::EPERM)]);
        let submitting = submit_on_a_thread(&ring, [read(1), sync(2)]);
        let done = reap(&kernel, &mut backend, 2);
        assert_eq!(done, [(1, GIVEN_BACK), (2, refusal(libc::EPERM))]);
        assert_eq!(kernel.take_memory(1), 0);
        end(&kernel, backend, [submitting]);
    });
}

#[test]
fn a_poll_is_cancelled_while_it_completes_and_its_place_is_used_again() {
    explore(3, || {
        let (kernel, mut backend, ring) = ring(4);
        let (first, second) = (1, 1 << 32 | 1); // the same place
        submit(&ring, &[poll(first)]);
        let performing = perform(&kernel, 1);
        let cancelling = cancel_on_a_thread(&ring, first);
        let done = reap(&kernel, &mut backend, 1);
        assert!(done == [(first, DONE)] || done == [(first, 0)], "{done:?}");
        submit(&ring, &[poll(second)]);
        if done == [(first, 0)] {
            // The kernel has not performed it, and so performs the second one.
            assert_eq!(reap(&kernel, &mut backend, 1), [(second, DONE)]);
            assert!(cancelling.join().unwrap());
        } else {
            cancelling.join().unwrap();
            assert!(ring.cancel(second), "it is in flight, and not marked");
            assert_eq!(reap(&kernel, &mut backend, 1), [(second, 0)]);
        }
        end(&kernel, backend, [performing]);
    });
}

#[test]
fn a_poll_that_was_not_taken_is_cancelled_while_it_is_submitted_again() {
    explore(3, || {
        let (kernel, mut backend, ring) = ring(4);
        kernel.answer([Answer::Takes(0), Answer::Takes(0)]);
        submit(&ring, &[endless_poll(1)]);
        let cancelling = cancel_on_a_thread(&ring, 1);
        assert_eq!(reap(&kernel, &mut backend, 1), [(1, 0)]);
        assert!(cancelling.join().unwrap());
        end(&kernel, backend, []);
    });
}

#[test]
fn a_backend_is_dropped_with_everything_in_flight() {
    explore(2, || {
        let (kernel, backend, ring) = ring(4);
        let write = transfer(OpCode::Write, 3);
        submit(&ring, &[endless_poll(1), read(2), write]);
        assert!(!ring.cancel(3), "a write goes on");
        let performing = perform_all(&kernel);
        let cancelling = cancel_on_a_thread(&ring, 1);
        drop(backend);
        assert!(kernel.is_released());
        for addr in [2, 3] {
            kernel.take_memory(addr);
        }
        assert_eq!(
            try_submit(&ring, &[sync(4)]),
            Err(SubmitError::Refused(libc::EINVAL))
        );
        cancelling.join().unwrap();
        performing.join().unwrap();
    });
}

#[test]
fn an_abandoned_write_that_is_given_back_goes_on_although_its_backend_is_dropped() {
    explore(3, || {
        let (kernel, backend, ring) = ring(4);
        submit(&ring, &[transfer(OpCode::Write, 1)]);
        kernel.give_back(2);
        kernel.answer([Answer::Takes(0)]);
        assert!(!ring.cancel(1), "a write goes on");
        let performing = perform_all(&kernel);
        drop(backend);
        assert_eq!(kernel.take_memory(1), WRITTEN);
        performing.join().unwrap();
    });
}
