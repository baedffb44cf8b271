//! What an attempt with `RWF_NOWAIT`, or an offloaded submission, teaches belongs to the class that the
//! request had at its admission.
#![allow(unsafe_code)]

use std::fs;
use std::sync::mpsc;
use std::task::Poll;
use std::thread;

use super::driver_fixture::*;
use crate::backend::fake::{FakeBackend, FakeControl};
use crate::config::ContextTypes;
use crate::op::FileRef;
use crate::policy::{
    Adaptive, Direction, MAX_TRACER_STOPS, OpClass, OpInfo, SubmitAdvisor, SubmitObservation,
    SubmitPath,
};
use crate::sys::UnknownUsage;
use crate::sys::abi::RWF_NOWAIT;
use crate::{LockedBuf, RawCommand, SubmitPolicy, WriteFlags};

const EAGAIN: i64 = -(libc::EAGAIN as i64);
const EIO: i64 = -(libc::EIO as i64);
/// Bytes of each write.
const LEN: u64 = 16;
/// Refusals in a row after which a class is offloaded.
const MAX_REFUSALS: u64 = 4;
/// Offloaded submissions in a row that don't block, after which a class goes inline.
const MIN_NOT_BLOCKED: usize = 8;

fn nowait_config() -> crate::config::ContextConfig {
    config_with_policy(4, SubmitPolicy::NoWaitFirst)
}

/// How a write of [`LEN`] bytes would be submitted now.
fn path_of_write<T: ContextTypes<Backend = FakeBackend, Advisor = Adaptive>>(
    fixture: &Fixture<T>,
    offset: u64,
) -> SubmitPath {
    let op = OpInfo {
        direction: Some(Direction::Write),
        is_poll: false,
        appends: false,
        rw_flags: 0,
        offset,
        nbytes: LEN,
    };
    let no_sample = 1;
    let entered = fixture.entered();
    let core = entered.lock();
    let plan = core
        .advisor
        .plan(&op, Some(fixture.file.history()), no_sample, 0);
    plan.path
}

/// A write to the fixture's file, of one buffer or of two parts.
fn write<'a, T: ContextTypes<Backend = FakeBackend>>(
    fixture: &'a Fixture<T>,
    offset: u64,
    buffer: &'a LockedBuf,
    vectored: bool,
) -> Task<'a, T> {
    let flags = WriteFlags::empty();
    let command = match vectored {
        false => RawCommand::Pwrite {
            offset,
            buffer,
            flags,
            len: LEN,
        },
        true => RawCommand::Pwritev {
            offset,
            buffers: Box::leak(Box::new([buffer.part(..7), buffer.part(7..)])),
            flags,
        },
    };
    fixture.task(FileRef::Open(&fixture.file), command)
}

/// The file has data up to this.
const KNOWN_END: u64 = 4096;

/// Submissions are not measured until the returned [`UnknownUsage`] is dropped: a measured submission that
/// sleeps, for any reason, sends its class to the blocking pool.
fn fixture_and_buffer() -> (Fixture<LocalTypes<Adaptive>>, LockedBuf, UnknownUsage) {
    let fixture = Fixture::adaptive(nowait_config());
    fixture.file.history().has_data_to(KNOWN_END);
    let buffer = LockedBuf::with_size(LEN as usize).unwrap();
    (fixture, buffer, UnknownUsage::new())
}

#[test]
fn refused_extending_writes_are_learned_as_such_whether_vectored_or_not() {
    for vectored in [false, true] {
        let (fixture, buffer, _not_measured) = fixture_and_buffer();
        for _ in 0..MAX_REFUSALS {
            let mut op = write(&fixture, KNOWN_END, &buffer, vectored);
            assert!(op.poll().is_pending());
            let attempt = fixture.backend.entry(KNOWN_END as i64);
            assert_ne!(attempt.rw_flags & RWF_NOWAIT, 0);
            fixture.backend.complete_with(KNOWN_END as i64, EAGAIN);
            fixture.signal();
            let offloaded = fixture.backend.entry(KNOWN_END as i64);
            assert_eq!(offloaded.rw_flags & RWF_NOWAIT, 0);
            fixture.backend.complete_with(KNOWN_END as i64, EIO);
            assert_eq!(op.result(), completed_with(libc::EIO));
        }
        assert_eq!(fixture.metrics().nowait_refusals, MAX_REFUSALS);
        assert_eq!(path_of_write(&fixture, KNOWN_END), SubmitPath::Offload);
        assert_eq!(path_of_write(&fixture, 0), SubmitPath::Nowait, "overwrite");

        let offloads = fixture.metrics().offloads;
        let mut op = write(&fixture, KNOWN_END, &buffer, vectored);
        assert!(op.poll().is_pending());
        assert_eq!(fixture.metrics().offloads, offloads + 1, "no attempt");
    }
}

#[test]
fn refused_overwrites_are_learned_as_such_whether_vectored_or_not() {
    for vectored in [false, true] {
        let (fixture, buffer, _not_measured) = fixture_and_buffer();
        let offset = KNOWN_END - LEN; // ends where the data ends
        for _ in 0..MAX_REFUSALS {
            let mut op = write(&fixture, offset, &buffer, vectored);
            assert!(op.poll().is_pending());
            fixture.backend.complete_with(offset as i64, EAGAIN);
            fixture.signal();
            fixture.backend.complete(offset as i64);
            assert_eq!(op.result(), Ok(LEN));
        }
        assert_eq!(path_of_write(&fixture, offset), SubmitPath::Offload);
        assert_eq!(path_of_write(&fixture, KNOWN_END), SubmitPath::Nowait);
    }
}

#[test]
fn a_vectored_write_shows_that_the_file_has_data_to_its_end() {
    let (fixture, buffer, _not_measured) = fixture_and_buffer();
    let history = fixture.file.history();
    let class = |offset| {
        history.classify(&OpInfo {
            direction: Some(Direction::Write),
            is_poll: false,
            appends: false,
            rw_flags: 0,
            offset,
            nbytes: LEN,
        })
    };
    assert_eq!(class(KNOWN_END), Some(OpClass::Extend));
    let mut op = write(&fixture, KNOWN_END, &buffer, true);
    assert!(op.poll().is_pending());
    fixture.backend.complete(KNOWN_END as i64);
    assert_eq!(op.result(), Ok(LEN));
    assert_eq!(class(KNOWN_END), Some(OpClass::Overwrite));
    assert_eq!(class(KNOWN_END + 1), Some(OpClass::Extend));
}

#[test]
fn an_attempt_is_learned_as_the_class_that_it_had_when_it_was_admitted() {
    let (fixture, buffer, _not_measured) = fixture_and_buffer();
    for number in 0..MAX_REFUSALS {
        let offset = KNOWN_END + number * LEN;
        let mut op = write(&fixture, offset, &buffer, false);
        assert!(op.poll().is_pending());
        // Another write has extended the file by the time of the refusal.
        fixture.file.history().has_data_to(offset + LEN);
        fixture.backend.complete_with(offset as i64, EAGAIN);
        fixture.signal();
        fixture.backend.complete(offset as i64);
        assert_eq!(op.result(), Ok(LEN));
    }
    let end = KNOWN_END + MAX_REFUSALS * LEN;
    assert_eq!(path_of_write(&fixture, end), SubmitPath::Offload);
    assert_eq!(path_of_write(&fixture, 0), SubmitPath::Nowait, "overwrite");
}

/// How often a thread of this process has slept.
fn sleeps(thread: libc::pid_t) -> i64 {
    let status = fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
    let mut lines = status.lines();
    let sleeps = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    sleeps.unwrap().trim().parse().unwrap()
}

/// Waits until a thread, whose submission is held, has slept more often than a tracer would stop it there.
fn let_sleep(thread: libc::pid_t, backend: &FakeControl) {
    let before = sleeps(thread);
    while sleeps(thread) <= before + MAX_TRACER_STOPS {
        backend.wake_waiting();
        thread::yield_now();
    }
}

/// Makes an extending write on another thread. Its submission blocks, and it completes meanwhile.
fn with_blocking_write(fixture: &Fixture<SyncTypes<Adaptive>>) {
    let buffer = LockedBuf::with_size(LEN as usize).unwrap();
    let (polled, op) = thread::scope(|scope| {
        let held = fixture.backend.hold_returns();
        let (started, wait_until_started) = mpsc::channel();
        let (buffer, fixture) = (&buffer, fixture);
        let submission = scope.spawn(move || {
            // SAFETY: asks for a number.
            started.send(unsafe { libc::gettid() }).unwrap();
            let mut op = write(fixture, KNOWN_END, buffer, false);
            (op.poll(), op)
        });
        let thread = wait_until_started.recv().unwrap();
        fixture.backend.wait_for_calls(1);
        let_sleep(thread, &fixture.backend);
        // Its completion shows that the file has data there, before the submission is observed.
        fixture.backend.complete(KNOWN_END as i64);
        fixture.signal();
        fixture.file.history().has_data_to(KNOWN_END + LEN);
        drop(held);
        submission.join().unwrap()
    });
    let result = match polled {
        Poll::Ready(result) => in_short(result),
        Poll::Pending => op.result(),
    };
    assert_eq!(result, Ok(LEN));
}

#[test]
#[cfg_attr(miri, ignore = "it measures threads of the system")]
fn an_offloaded_submission_is_learned_as_the_class_that_it_had_when_it_was_admitted() {
    let fixture = Fixture::<SyncTypes<Adaptive>>::sync(nowait_config());
    let history = fixture.file.history();
    history.has_data_to(KNOWN_END);
    let extend = Some(OpClass::Extend);
    history.observe_submit(extend, SubmitObservation::Blocked);
    assert_eq!(path_of_write(&fixture, KNOWN_END), SubmitPath::Offload);
    let almost = MIN_NOT_BLOCKED - 1;
    for _ in 0..almost {
        history.observe_offloaded_submit(extend, SubmitObservation::NotBlocked);
    }
    with_blocking_write(&fixture);
    // It blocked: the count of extending writes starts again.
    for _ in 0..almost {
        history.observe_offloaded_submit(extend, SubmitObservation::NotBlocked);
    }
    let end = KNOWN_END + LEN;
    assert_eq!(path_of_write(&fixture, end), SubmitPath::Offload);
    assert_eq!(path_of_write(&fixture, 0), SubmitPath::Nowait, "overwrite");
    history.observe_offloaded_submit(extend, SubmitObservation::NotBlocked);
    assert_eq!(path_of_write(&fixture, end), SubmitPath::Inline);
}

#[test]
#[cfg_attr(miri, ignore = "it measures threads of the system")]
fn an_inline_submission_is_learned_as_the_class_that_it_had_when_it_was_admitted() {
    let fixture = Fixture::<SyncTypes<Adaptive>>::sync(nowait_config());
    let history = fixture.file.history();
    history.has_data_to(KNOWN_END);
    // After a slow submission, the next one is measured closely.
    history.observe_submit(None, SubmitObservation::Slow);
    with_blocking_write(&fixture);
    let end = KNOWN_END + LEN;
    assert_eq!(path_of_write(&fixture, end), SubmitPath::Offload);
    assert_eq!(path_of_write(&fixture, 0), SubmitPath::Nowait, "overwrite");
}
