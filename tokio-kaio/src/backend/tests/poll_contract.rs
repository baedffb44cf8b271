//! Polls, and how they end.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use libc::{POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDNORM};

use super::contract_fixture::{
    Fixture, file_with, in_forked_child, on_each_polling_backend, pipe, poll, sync,
};
use crate::backend::aio::{AioBackend, PollsInFlight};
use crate::backend::any::AnyBackend;
use crate::backend::blocking::BlockingBackend;
#[cfg(feature = "io-uring")]
use crate::backend::uring::UringBackend;
use crate::backend::{Sqe, Submitter};

/// What a readable pipe reports. Asked for in full, because AIO reports all of it when the data
/// comes after the poll.
const READ: i16 = POLLIN | POLLRDNORM;
const IN: i64 = READ as i64;
const OUT: i64 = POLLOUT as i64;
const HUP: i64 = POLLHUP as i64;

#[test]
fn a_poll_completes_when_there_is_something_to_read() {
    on_each_polling_backend(|fixture| {
        let (reader, mut writer) = pipe();
        fixture.poll(&reader, READ, 7).unwrap();
        assert!(fixture.is_quiet());
        writer.write_all(b"!").unwrap();
        assert_eq!(fixture.next_completion(), (7, IN));
    });
}

#[test]
fn a_poll_may_report_more_than_it_asked_for() {
    on_each_polling_backend(|fixture| {
        let (reader, mut writer) = pipe();
        fixture.poll(&reader, POLLIN, 7).unwrap();
        writer.write_all(b"!").unwrap();
        let (user_data, found) = fixture.next_completion();
        assert_eq!(user_data, 7);
        assert!(found == IN || found == i64::from(POLLIN), "{found:x}");
    });
}

#[test]
fn a_poll_of_a_ready_file_completes_at_once() {
    on_each_polling_backend(|fixture| {
        let (_reader, writer) = pipe();
        fixture.poll(&writer, POLLOUT | READ, 7).unwrap();
        assert_eq!(fixture.next_completion(), (7, OUT));
    });
}

#[test]
fn a_poll_reports_a_hangup_unasked() {
    on_each_polling_backend(|fixture| {
        let (reader, writer) = pipe();
        fixture.poll(&reader, 0, 7).unwrap();
        assert!(fixture.is_quiet());
        drop(writer);
        assert_eq!(fixture.next_completion(), (7, HUP));
    });
}

#[test]
fn a_poll_reports_an_error_unasked() {
    on_each_polling_backend(|fixture| {
        let (reader, writer) = pipe();
        drop(reader);
        fixture.poll(&writer, 0, 7).unwrap();
        assert_eq!(fixture.next_completion(), (7, i64::from(POLLERR)));
    });
}

#[test]
fn a_regular_file_is_ready_for_everything() {
    on_each_polling_backend(|fixture| {
        let file = file_with(b"");
        fixture.poll(&file, READ | POLLOUT, 7).unwrap();
        assert_eq!(fixture.next_completion(), (7, IN | OUT));
    });
}

#[test]
fn a_poll_outlives_the_descriptor_that_it_was_submitted_with() {
    on_each_polling_backend(|fixture| {
        let (reader, mut writer) = pipe();
        fixture.poll(&reader, READ, 7).unwrap();
        drop(reader);
        writer.write_all(b"!").unwrap();
        assert_eq!(fixture.next_completion(), (7, IN));
    });
}

#[test]
fn a_cancelled_poll_completes_without_events() {
    on_each_polling_backend(|fixture| {
        let (reader, _writer) = pipe();
        fixture.poll(&reader, READ, 7).unwrap();
        assert!(fixture.cancel(7));
        assert_eq!(fixture.next_completion(), (7, 0));
    });
}

#[test]
fn a_poll_that_has_completed_is_not_found() {
    on_each_polling_backend(|fixture| {
        let (reader, mut writer) = pipe();
        writer.write_all(b"!").unwrap();
        fixture.poll(&reader, READ, 7).unwrap();
        assert!(!fixture.cancel(7));
        assert_eq!(fixture.next_completion(), (7, IN));
        assert!(!fixture.cancel(7));
        assert!(fixture.is_quiet());
    });
}

#[test]
fn a_poll_is_found_once() {
    on_each_polling_backend(|fixture| {
        let (reader, _writer) = pipe();
        fixture.poll(&reader, READ, 7).unwrap();
        assert!(fixture.cancel(7));
        assert!(!fixture.cancel(7));
        assert_eq!(fixture.next_completion(), (7, 0));
        assert!(!fixture.cancel(7));
    });
}

#[test]
fn cancelling_one_of_two_polls_of_a_descriptor_leaves_the_other() {
    on_each_polling_backend(|fixture| {
        let (reader, mut writer) = pipe();
        fixture.poll(&reader, READ, 1).unwrap();
        fixture.poll(&reader, READ, 2).unwrap();
        assert!(fixture.cancel(2));
        assert_eq!(fixture.next_completion(), (2, 0));
        assert!(!fixture.cancel(2));
        writer.write_all(b"!").unwrap();
        assert_eq!(fixture.next_completion(), (1, IN));
    });
}

#[test]
fn all_polls_of_a_file_complete() {
    on_each_polling_backend(|fixture| {
        let (reader, mut writer) = pipe();
        for user_data in 0..5 {
            fixture.poll(&reader, READ, user_data).unwrap();
        }
        writer.write_all(b"!").unwrap();
        let expected: Vec<_> = (0..5).map(|user_data| (user_data, IN)).collect();
        assert_eq!(fixture.completions(5), expected);
    });
}

#[test]
fn one_poll_comes_after_another() {
    on_each_polling_backend(|fixture| {
        let (mut reader, mut writer) = pipe();
        for _ in 0..50 {
            for user_data in 0..2 {
                fixture.poll(&reader, READ, user_data).unwrap();
                writer.write_all(b"!").unwrap();
                assert_eq!(fixture.next_completion(), (user_data, IN));
                reader.read_exact(&mut [0]).unwrap();
            }
        }
    });
}

#[test]
fn polls_and_syncs_share_a_batch() {
    on_each_polling_backend(|fixture| {
        let (reader, _writer) = pipe();
        let file = file_with(b"");
        let batch = [
            sync(&file, 1),
            poll(&reader, READ, 2),
            sync(&file, 3),
            poll(&file, READ, 4),
            sync(&file, 5),
        ];
        // SAFETY: none of them has memory.
        unsafe { fixture.submit(&batch) }.unwrap();
        assert_eq!(fixture.completions(4), [(1, 0), (3, 0), (4, IN), (5, 0)]);
        assert!(fixture.cancel(2));
        assert_eq!(fixture.next_completion(), (2, 0));
    });
}

#[test]
fn a_poll_behind_a_refused_entry_is_not_in_flight() {
    on_each_polling_backend(|fixture| {
        let (reader, mut writer) = pipe();
        let file = file_with(b"");
        let malformed = Sqe {
            offset: 1,
            ..poll(&reader, READ, 3)
        };
        let batch = [
            sync(&file, 1),
            poll(&reader, READ, 2),
            malformed,
            poll(&reader, READ, 4),
        ];
        // SAFETY: none of them has memory.
        assert_eq!(unsafe { fixture.submit(&batch) }, Err(libc::EINVAL));
        assert_eq!(fixture.next_completion(), (1, 0));
        assert!(!fixture.cancel(3) && !fixture.cancel(4));
        fixture.poll(&reader, READ, 4).unwrap();
        writer.write_all(b"!").unwrap();
        assert_eq!(fixture.completions(2), [(2, IN), (4, IN)]);
    });
}

#[test]
fn a_poll_of_no_file_is_refused() {
    on_each_polling_backend(|fixture| {
        let path = File::options()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open("/")
            .unwrap();
        for fd in [-1, i32::MAX, path.as_raw_fd()] {
            // SAFETY: polls have no memory.
            let answer = unsafe { fixture.refusal(&poll(&fd, READ, 7)) };
            assert_eq!(answer, Err(libc::EBADF), "{fd}");
        }
        assert!(fixture.is_quiet());
    });
}

#[test]
fn a_poll_with_the_fields_of_a_transfer_is_refused() {
    on_each_polling_backend(|fixture| {
        let (reader, _writer) = pipe();
        let good = poll(&reader, READ, 7);
        let bad = [
            Sqe { offset: 1, ..good },
            Sqe {
                rw_flags: 1,
                ..good
            },
            Sqe { addr: 1, ..good },
            Sqe {
                len: 1 << 16 | READ as u64,
                ..good
            },
        ];
        for entry in bad {
            // SAFETY: it is refused.
            let answer = unsafe { fixture.submit(&[entry]) };
            assert_eq!(answer, Err(libc::EINVAL), "{entry:?}");
        }
        assert!(!fixture.cancel(7));
        assert!(fixture.is_quiet());
    });
}

#[test]
fn a_poll_that_was_refused_can_be_submitted_again() {
    on_each_polling_backend(|fixture| {
        let (reader, mut writer) = pipe();
        // SAFETY: polls have no memory.
        unsafe { fixture.refusal(&poll(&-1, READ, 7)) }.unwrap_err();
        fixture.poll(&reader, READ, 7).unwrap();
        writer.write_all(b"!").unwrap();
        assert_eq!(fixture.next_completion(), (7, IN));
    });
}

#[test]
fn a_second_poll_of_the_same_user_data_is_refused() {
    on_each_polling_backend(|fixture| {
        let (reader, _writer) = pipe();
        let (other, _other_writer) = pipe();
        fixture.poll(&reader, READ, 7).unwrap();
        assert_eq!(fixture.poll(&other, READ, 7), Err(libc::EEXIST));
        let batch = [poll(&other, READ, 8), poll(&other, READ, 7)];
        // SAFETY: polls have no memory.
        assert_eq!(unsafe { fixture.submit(&batch) }, Err(libc::EEXIST));
        assert!(fixture.cancel(8));
        assert_eq!(fixture.next_completion(), (8, 0));
        assert!(fixture.cancel(7));
        assert_eq!(fixture.next_completion(), (7, 0));
        fixture.poll(&other, READ, 7).unwrap();
    });
}

#[test]
fn cancelling_before_the_submission_has_no_effect() {
    on_each_polling_backend(|fixture| {
        let (reader, mut writer) = pipe();
        assert!(!fixture.cancel(7));
        fixture.poll(&reader, READ, 7).unwrap();
        assert!(fixture.is_quiet());
        writer.write_all(b"!").unwrap();
        assert_eq!(fixture.next_completion(), (7, IN));
    });
}

#[test]
fn dropping_a_backend_does_not_wait_for_polls() {
    on_each_polling_backend(|fixture| {
        let fresh = match &fixture.backend {
            AnyBackend::Aio(_) => AnyBackend::Aio(AioBackend::setup(16).unwrap()),
            AnyBackend::Blocking(_) => AnyBackend::Blocking(BlockingBackend::new()),
            #[cfg(feature = "io-uring")]
            AnyBackend::Uring(_) => AnyBackend::Uring(UringBackend::setup(16, None, &[]).unwrap()),
            #[cfg(feature = "simulation")]
            AnyBackend::Simulated(_) => unreachable!("it refuses polls"),
        };
        let (mut reader, writer) = pipe();
        fixture.poll(&writer, 0, 7).unwrap();
        drop(std::mem::replace(&mut fixture.backend, fresh));
        // It has closed the file, too.
        drop(writer);
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        assert!(!fixture.cancel(7));
    });
}

#[test]
fn a_cancelled_poll_completes_once_whatever_comes_first() {
    on_each_polling_backend(|fixture| {
        for user_data in 0..300 {
            let (reader, mut writer) = pipe();
            fixture.poll(&reader, READ, user_data).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| writer.write_all(b"!"));
                fixture.cancel(user_data);
            });
            let (of, result) = fixture.next_completion();
            assert_eq!(of, user_data);
            assert!(result == IN || result == 0, "{result:x}");
        }
        assert!(fixture.is_quiet());
    });
}

#[test]
fn a_poll_that_is_cancelled_until_it_is_found_completes_once() {
    on_each_polling_backend(|fixture| {
        let (reader, _writer) = pipe();
        for user_data in 0..300 {
            std::thread::scope(|scope| {
                let submitter = fixture.submitter.clone();
                scope.spawn(move || {
                    while !submitter.cancel(user_data) {
                        std::thread::yield_now();
                    }
                });
                fixture.poll(&reader, READ, user_data).unwrap();
            });
            assert_eq!(fixture.next_completion(), (user_data, 0));
        }
        assert!(fixture.is_quiet());
    });
}

#[test]
fn reaping_from_aio_takes_no_lock_while_no_poll_is_in_flight() {
    let Some((mut fixture, polls)) = aio_with_polls() else {
        return;
    };
    let (reader, _writer) = pipe();
    fixture.poll(&reader, READ, 7).unwrap();
    assert!(fixture.cancel(7));
    assert_eq!(fixture.next_completion(), (7, 0));
    let file = file_with(b"");
    let locked = polls.hold();
    // SAFETY: it has no memory.
    unsafe { fixture.submit(&[sync(&file, 8)]) }.unwrap();
    assert_eq!(fixture.next_completion(), (8, 0)); // would deadlock
    drop(locked);
}

#[test]
fn aio_forgets_a_poll_when_its_completion_is_reaped() {
    let Some((mut fixture, polls)) = aio_with_polls() else {
        return;
    };
    let (reader, mut writer) = pipe();
    for user_data in 0..3 {
        fixture.poll(&reader, READ, user_data).unwrap();
    }
    fixture.poll(&-1, READ, 3).unwrap_err();
    assert_eq!(polls.count(), 3);
    assert!(fixture.cancel(1));
    assert_eq!(fixture.next_completion(), (1, 0));
    assert_eq!(polls.count(), 2);
    writer.write_all(b"!").unwrap();
    assert_eq!(fixture.completions(2), [(0, IN), (2, IN)]);
    assert_eq!(polls.count(), 0);
}

fn aio_with_polls() -> Option<(Fixture, Arc<PollsInFlight>)> {
    let fixture = Fixture::aio(16)?;
    let AnyBackend::Aio(aio) = &fixture.backend else {
        unreachable!();
    };
    let polls = Arc::clone(aio.polls());
    Some((fixture, polls))
}

#[test]
fn the_blocking_backend_closes_the_file_of_a_cancelled_poll() {
    let mut fixture = Fixture::blocking();
    let (mut reader, writer) = pipe();
    fixture.poll(&writer, 0, 7).unwrap();
    drop(writer);
    assert!(fixture.cancel(7));
    assert_eq!(fixture.next_completion(), (7, 0));
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_poll_after_the_drop_of_a_blocking_backend_is_refused() {
    let mut fixture = Fixture::blocking();
    let other = AnyBackend::Blocking(BlockingBackend::new());
    drop(std::mem::replace(&mut fixture.backend, other));
    let (reader, _writer) = pipe();
    assert_eq!(fixture.poll(&reader, READ, 7), Err(libc::EINVAL));
}

#[test]
fn the_poll_thread_runs_while_a_poll_waits() {
    let mut fixture = Fixture::blocking();
    let AnyBackend::Blocking(blocking) = &fixture.backend else {
        unreachable!();
    };
    let polls = Arc::clone(blocking.polls());
    let (reader, _writer) = pipe();
    assert!(!polls.is_running());
    for user_data in 0..10 {
        fixture.poll(&reader, READ, user_data).unwrap();
        assert!(polls.is_running());
        assert!(fixture.cancel(user_data));
        assert_eq!(fixture.next_completion(), (user_data, 0));
    }
    while polls.is_running() {
        std::thread::yield_now();
    }
}

#[test]
fn a_forked_child_uses_neither_polls_nor_their_locks() {
    on_each_polling_backend(|fixture| match &fixture.backend {
        AnyBackend::Aio(aio) => {
            let polls = Arc::clone(aio.polls());
            check_forked_child(fixture, &polls, || polls.hold());
        }
        AnyBackend::Blocking(blocking) => {
            let polls = Arc::clone(blocking.polls());
            check_forked_child(fixture, &polls, || polls.hold());
        }
        #[cfg(feature = "io-uring")]
        AnyBackend::Uring(uring) => {
            let shared = Arc::clone(uring.shared());
            check_forked_child(fixture, &shared, || shared.hold());
        }
        #[cfg(feature = "simulation")]
        AnyBackend::Simulated(_) => unreachable!("it refuses polls"),
    });
}

fn check_forked_child<P, L>(fixture: &mut Fixture, polls: &Arc<P>, lock: impl FnOnce() -> L) {
    let (reader, _writer) = pipe();
    let file = file_with(b"");
    fixture.poll(&reader, READ, 7).unwrap();
    // SAFETY: it has no memory.
    unsafe { fixture.submit(&[sync(&file, 8)]) }.unwrap();
    let references = Arc::strong_count(polls);
    let locked = lock(); // which nobody unlocks in the child
    in_forked_child(|| {
        let refusals = [
            fixture.poll(&reader, READ, 9),
            // SAFETY: it has no memory.
            unsafe { fixture.submit(&[sync(&file, 9)]) },
        ];
        let is_refused = refusals == [Err(libc::EINVAL); 2];
        let is_found = fixture.cancel(7);
        let other = AnyBackend::Blocking(BlockingBackend::new());
        drop(std::mem::replace(&mut fixture.backend, other));
        // The state behind the lock, which may be half changed, is not dropped.
        let is_kept = Arc::strong_count(polls) == references;
        is_refused && !is_found && is_kept
    });
    drop(locked);
    assert_eq!(fixture.next_completion(), (8, 0));
    assert!(fixture.cancel(7));
    assert_eq!(fixture.next_completion(), (7, 0));
}
