//! Wakers whose clone, wake or drop panics: the requests keep their accounting, buffers stay whole, and
//! other requests are not affected.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use super::core_invariants::check;
use super::driver_fixture::*;
use super::panicking_waker::{PanickingWaker, assert_panics};
use crate::backend::OpCode;
use crate::backend::fake::FakeBackend;
use crate::config::ContextTypes;
use crate::context::BatchOfOps;
use crate::context::test_operations::{op_of_command, op_of_request};
use crate::context::{OpFuture, TransferMode};
use crate::op::{BufferReturn, FileRef, IoBuffer, IoOp, IoRequest};
use crate::{LockedBuf, RawCommand, ReadFlags, WriteFlags};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Poll,
    Read,
    ReadExact,
    ReadVectored,
    Write,
    WriteExact,
}

const KINDS: [Kind; 6] = [
    Kind::Poll,
    Kind::Read,
    Kind::ReadExact,
    Kind::ReadVectored,
    Kind::Write,
    Kind::WriteExact,
];

/// Where the request is when its waker panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    InFlight,
    /// Waits for the slot of another request.
    Queued,
}

/// Label of the request, and of the other one.
const LABEL: i64 = 1 << 20;
const OTHER: i64 = 1;
const SIZE: usize = 16;

fn make_op<'a>(
    fixture: &'a Fixture,
    kind: Kind,
    buffers: &'a mut [LockedBuf; 2],
) -> Task<'a, LocalTypes> {
    let file = FileRef::Open(&fixture.file);
    let [first, second] = buffers;
    let (offset, len) = (LABEL as u64, SIZE as u64);
    let flags = ReadFlags::empty();
    let read = |buffer| RawCommand::Pread {
        offset,
        buffer,
        flags,
        len,
    };
    let flags = WriteFlags::empty();
    let write = |buffer| RawCommand::Pwrite {
        offset,
        buffer,
        flags,
        len,
    };
    let exact = |command: RawCommand<'a>| {
        let (request, buffer_return) = command.into_request().unwrap();
        let request = (request, buffer_return, TransferMode::Exact);
        Task::new(op_of_request(&fixture.driver, file, request))
    };
    match kind {
        Kind::Poll => {
            let op = IoOp {
                offset: LABEL,
                nbytes: libc::POLLIN as u64,
                ..IoOp::new(OpCode::Poll)
            };
            let request = IoRequest::new(op, IoBuffer::None);
            let request = (request, BufferReturn::None, TransferMode::Single);
            Task::new(op_of_request(&fixture.driver, file, request))
        }
        Kind::Read => fixture.task(file, read(first)),
        Kind::ReadExact => exact(read(first)),
        Kind::Write => fixture.task(file, write(first)),
        Kind::WriteExact => exact(write(first)),
        Kind::ReadVectored => {
            let parts = Box::leak(Box::new([first.part_mut(..8), second.part_mut(8..)]));
            let flags = ReadFlags::empty();
            fixture.task(
                file,
                RawCommand::Preadv {
                    offset,
                    buffers: parts,
                    flags,
                },
            )
        }
    }
}

/// Runs `scenario` with a request of each kind in each place.
fn for_each_request(scenario: impl Fn(&Fixture, Task<'_, LocalTypes>, Place)) {
    for kind in KINDS {
        for place in [Place::InFlight, Place::Queued] {
            run_with(kind, place, &scenario);
        }
    }
}

/// Runs `scenario` with a request, and then checks that the slot is free again, and that the buffers have
/// their size.
fn run_with(kind: Kind, place: Place, scenario: impl Fn(&Fixture, Task<'_, LocalTypes>, Place)) {
    eprintln!("{kind:?}, {place:?}");
    let fixture = Fixture::new(config(1));
    let mut driver_task = fixture.driver_task();
    let mut buffers = [(); 2].map(|()| LockedBuf::with_size(SIZE).unwrap());
    let other = match place {
        Place::InFlight => None,
        Place::Queued => Some(fixture.start([OTHER])),
    };
    scenario(&fixture, make_op(&fixture, kind, &mut buffers), place);
    check(&fixture);
    fixture.complete_all(&mut driver_task);
    fixture.signal();
    for op in other.into_iter().flatten() {
        let _ = op.ready();
    }
    for buffer in buffers {
        assert_eq!(buffer.size(), SIZE);
    }
    fixture.assert_idle();
    check(&fixture);
    if fixture.entered().is_open() {
        assert_eq!(fixture.free_capacity(), Some(1));
    }
}

/// Completes the request of the scenario, and the other one before it.
fn complete(fixture: &Fixture, place: Place) {
    if place == Place::Queued {
        fixture.backend.complete(OTHER);
        fixture.signal();
    }
    fixture.backend.complete(LABEL);
    fixture.signal();
}

/// Completes the request, and asserts that its operation is woken and succeeds.
fn assert_succeeds(fixture: &Fixture, op: Task<'_, LocalTypes>, place: Place) {
    op.take_wakes();
    complete(fixture, place);
    assert_eq!(op.take_wakes(), 1);
    let result = op.ready();
    assert!(matches!(result, Ok(1..)), "{result:?}");
}

/// A waker whose last reference panics when it is dropped.
struct PanicOnLastDrop;

impl Wake for PanicOnLastDrop {
    fn wake(self: Arc<Self>) {}
}

impl Drop for PanicOnLastDrop {
    fn drop(&mut self) {
        panic!("the drop of the last reference");
    }
}

/// Polls with a waker, of which the context has the last reference afterwards.
fn poll_with_last_reference(op: &mut Task<'_, LocalTypes>) {
    let waker = Waker::from(Arc::new(PanicOnLastDrop));
    assert!(op.poll_with(&waker).is_pending());
    drop(waker);
}

#[test]
fn an_operation_whose_first_poll_panicked_in_a_clone_can_be_polled_again() {
    for_each_request(|fixture, mut op, place| {
        let panicking = PanickingWaker::new();
        panicking.panic_in_clone_after(0);
        assert_panics(|| op.poll_with(&panicking.waker()));
        assert_eq!(panicking.wakers(), 0);
        assert!(op.poll().is_pending());
        assert_succeeds(fixture, op, place);
    });
}

#[test]
fn an_operation_whose_first_poll_panicked_in_a_clone_can_be_dropped() {
    for_each_request(|fixture, mut op, _| {
        let panicking = PanickingWaker::new();
        panicking.panic_in_clone_after(0);
        assert_panics(|| op.poll_with(&panicking.waker()));
        drop(op);
        assert!(!fixture.backend.in_flight().contains(&LABEL));
    });
}

#[test]
fn an_operation_whose_second_poll_panicked_in_a_clone_can_be_polled_again() {
    for_each_request(|fixture, mut op, place| {
        assert!(op.poll().is_pending());
        let panicking = PanickingWaker::new();
        panicking.panic_in_clone_after(0);
        assert_panics(|| op.poll_with(&panicking.waker()));
        assert!(op.poll().is_pending());
        assert_succeeds(fixture, op, place);
    });
}

#[test]
fn an_operation_whose_second_poll_panicked_in_a_clone_can_be_dropped() {
    for_each_request(|_, mut op, _| {
        assert!(op.poll().is_pending());
        let panicking = PanickingWaker::new();
        panicking.panic_in_clone_after(0);
        assert_panics(|| op.poll_with(&panicking.waker()));
        drop(op);
    });
}

#[test]
fn a_replaced_waker_may_panic_when_its_last_reference_is_dropped() {
    for_each_request(|fixture, mut op, place| {
        poll_with_last_reference(&mut op);
        assert!(op.poll().is_pending());
        assert_succeeds(fixture, op, place);
    });
}

#[test]
fn an_operation_can_be_dropped_after_the_drop_of_its_first_waker_panicked() {
    for_each_request(|_, mut op, _| {
        poll_with_last_reference(&mut op);
        assert!(op.poll().is_pending());
        drop(op);
    });
}

#[test]
fn the_waker_of_a_dropped_operation_may_panic_when_it_is_dropped() {
    for_each_request(|_, mut op, _| {
        poll_with_last_reference(&mut op);
        drop(op);
    });
}

#[test]
fn a_completed_operation_is_ready_after_its_wake_panicked() {
    for_each_request(|fixture, mut op, place| {
        let panicking = PanickingWaker::new();
        panicking.panic_in_wake();
        assert!(op.poll_with(&panicking.waker()).is_pending());
        complete(fixture, place);
        assert_eq!((panicking.wakes(), panicking.wakers()), (1, 0));
        assert!(matches!(op.ready(), Ok(1..)));
    });
}

#[test]
fn an_operation_that_is_polled_when_it_has_completed_drops_its_waker() {
    for_each_request(|fixture, mut op, place| {
        poll_with_last_reference(&mut op);
        if place == Place::Queued {
            fixture.backend.complete(OTHER);
            fixture.signal();
        }
        fixture.backend.complete(LABEL); // not signalled: found by the poll
        assert!(matches!(op.ready(), Ok(1..)));
    });
}

#[test]
fn a_drop_that_panics_in_a_poll_that_completes_the_operation_leaves_it_complete() {
    for_each_request(|fixture, mut op, place| {
        if place == Place::Queued {
            fixture.backend.complete(OTHER);
        }
        fixture.backend.complete_inline();
        let panicking = PanickingWaker::new();
        panicking.panic_in_drop();
        let polled = catch_unwind(AssertUnwindSafe(|| op.poll_with(&panicking.waker())));
        assert!(!matches!(polled, Ok(Poll::Pending)));
        assert_eq!(panicking.wakers(), 0);
        drop(op);
    });
}

#[test]
fn a_drop_that_panics_in_a_refused_poll_leaves_the_buffers_whole() {
    for_each_request(|fixture, mut op, place| {
        let panicking = PanickingWaker::new();
        panicking.panic_in_drop();
        fixture.backend.refuse(LABEL, libc::EBADF);
        let polled = catch_unwind(AssertUnwindSafe(|| op.poll_with(&panicking.waker())));
        match place {
            Place::InFlight => assert!(!matches!(polled, Ok(Poll::Pending | Poll::Ready(Ok(_))))),
            Place::Queued => assert!(matches!(polled, Ok(Poll::Pending))),
        }
        drop(op);
        assert_eq!(panicking.wakers(), 0);
    });
}

#[test]
fn a_drop_that_panics_in_a_poll_of_a_stopped_context_leaves_the_buffers_whole() {
    for_each_request(|fixture, mut op, _| {
        fixture.stop();
        let panicking = PanickingWaker::new();
        panicking.panic_in_drop();
        let polled = catch_unwind(AssertUnwindSafe(|| op.poll_with(&panicking.waker())));
        assert!(!matches!(polled, Ok(Poll::Pending | Poll::Ready(Ok(_)))));
        drop(op);
        assert_eq!(panicking.wakers(), 0);
    });
}

#[test]
fn a_stop_wakes_all_requests_whatever_their_wakers_do() {
    for_each_request(|fixture, mut op, place| {
        let panicking = PanickingWaker::new();
        panicking.panic_in_wake();
        assert!(op.poll_with(&panicking.waker()).is_pending());
        let youngest = fixture.start([3]).remove(0);
        fixture.stop();
        assert_eq!(youngest.take_wakes(), 1);
        assert_eq!(youngest.result(), stopped());
        match place {
            Place::Queued => assert_eq!(op.result(), stopped()),
            Place::InFlight => drop(op),
        }
        assert_eq!(panicking.wakers(), 0);
    });
}

#[test]
fn an_orphaned_context_wakes_all_requests_whatever_their_wakers_do() {
    for_each_request(|fixture, mut op, _| {
        let panicking = PanickingWaker::new();
        panicking.panic_in_wake();
        assert!(op.poll_with(&panicking.waker()).is_pending());
        let youngest = fixture.start([3]).remove(0);
        fixture.orphan();
        assert_eq!((panicking.wakes(), panicking.wakers()), (1, 0));
        assert_eq!(youngest.take_wakes(), 1);
        assert_eq!(op.result(), stopped());
        assert_eq!(youngest.result(), stopped());
        fixture.wait_until_gone();
    });
}

/// Runs `scenario` with transfers of which half is done, and the future was not polled since.
fn for_each_half_done_transfer(scenario: impl Fn(&Fixture, Task<'_, LocalTypes>)) {
    for kind in [Kind::ReadExact, Kind::WriteExact] {
        run_with(kind, Place::InFlight, |fixture, mut op, _| {
            assert!(op.poll().is_pending());
            fixture.backend.complete_with(LABEL, SIZE as i64 / 2);
            fixture.signal();
            scenario(fixture, op);
        });
    }
}

#[test]
fn a_transfer_continues_after_a_clone_panicked_before_its_next_request() {
    for_each_half_done_transfer(|fixture, mut op| {
        let panicking = PanickingWaker::new();
        panicking.panic_in_clone_after(0);
        assert_panics(|| op.poll_with(&panicking.waker()));
        assert_eq!(fixture.free_capacity(), Some(1), "no request is made");
        assert!(op.poll().is_pending());
        assert_eq!(fixture.backend.in_flight(), [LABEL + 8]);
        fixture.backend.complete(LABEL + 8);
        assert_eq!(op.result(), Ok(SIZE as u64));
    });
}

#[test]
fn a_transfer_can_be_dropped_after_a_clone_panicked_before_its_next_request() {
    for_each_half_done_transfer(|_, mut op| {
        let panicking = PanickingWaker::new();
        panicking.panic_in_clone_after(0);
        assert_panics(|| op.poll_with(&panicking.waker()));
        drop(op);
    });
}

#[test]
fn a_transfer_can_be_dropped_after_its_next_request_met_a_drop_that_panics() {
    for_each_half_done_transfer(|fixture, mut op| {
        fixture.backend.complete_inline();
        let panicking = PanickingWaker::new();
        panicking.panic_in_drop();
        let polled = catch_unwind(AssertUnwindSafe(|| op.poll_with(&panicking.waker())));
        assert!(!matches!(polled, Ok(Poll::Pending)));
        drop(op);
        assert_eq!(panicking.wakers(), 0);
    });
}

#[test]
fn one_wake_that_panics_does_not_keep_others_from_being_woken() {
    let fixture = Fixture::new(config(200));
    let count = 100;
    let panicking: Vec<_> = (0..count).map(|_| PanickingWaker::new()).collect();
    let mut ops: Vec<_> = (0..count).map(|label| fixture.op(label)).collect();
    let mut driver_task = fixture.driver_task();
    for (op, panicking) in ops.iter_mut().zip(&panicking) {
        assert!(op.poll_with(&panicking.waker()).is_pending());
    }
    for panicking in panicking.iter().step_by(3) {
        panicking.panic_in_wake();
    }
    fixture.complete_all(&mut driver_task);
    for (op, panicking) in ops.into_iter().zip(panicking) {
        assert_eq!((panicking.wakes(), panicking.wakers()), (1, 0));
        assert_eq!(op.result(), Ok(0));
    }
    fixture.assert_idle();
}

#[test]
fn a_drain_is_not_affected_by_wakers_that_panic() {
    let fixture = Fixture::new(config(1));
    let op = fixture.start([1]).remove(0);
    let file = fixture.file.id();
    let [done, ended] = [(); 2].map(|()| fixture.entered().start_drain(file).unwrap());
    let panicking = PanickingWaker::new();
    for drain in [done, ended] {
        panicking.panic_in_clone_after(0);
        assert_panics(|| fixture.entered().poll_drain(drain, &panicking.waker()));
        panicking.panic_in_drop();
        assert!(!fixture.entered().poll_drain(drain, &panicking.waker()));
        assert!(!fixture.entered().poll_drain(drain, &panicking.waker()));
    }
    assert_eq!(panicking.wakers(), 2, "the replaced ones are dropped");
    fixture.entered().end_drain(ended);
    assert_eq!(panicking.wakers(), 1);
    panicking.behave();
    panicking.panic_in_wake();
    fixture.backend.complete(1);
    fixture.signal();
    assert_eq!((panicking.wakes(), panicking.wakers()), (1, 0));
    assert!(fixture.entered().poll_drain(done, Waker::noop()));
    assert_eq!(op.result(), Ok(0));
    fixture.assert_idle();
}

#[test]
fn a_context_ends_after_wakers_of_its_driver_task_panicked() {
    let fixture = Fixture::new(config(1));
    let panicking = PanickingWaker::new();
    let mut driver_task = fixture.driver_task();
    panicking.panic_in_clone_after(0);
    assert_panics(|| driver_task.poll_with(&panicking.waker()));
    let ops = fixture.start([1, 2]);
    drop(driver_task);
    for op in ops {
        assert_eq!(op.result(), stopped());
    }
    fixture.wait_until_gone();

    let fixture = Fixture::new(config(1));
    let mut driver_task = fixture.driver_task();
    assert!(driver_task.poll_with(&panicking.waker()).is_pending());
    panicking.panic_in_wake();
    fixture.stop();
    assert_eq!(panicking.wakes(), 1);
    fixture.wait_until_gone();
    driver_task.ready().unwrap();
}

/// Members of the batches.
const MEMBERS: usize = 4;

type BatchPoll = Poll<Option<(usize, Result<u64, String>)>>;

fn poll_batch<T: ContextTypes<Backend = FakeBackend>>(
    batch: &mut BatchOfOps<'_, T>,
    waker: &Waker,
) -> BatchPoll {
    let polled = batch.poll_next(&mut Context::from_waker(waker));
    polled.map(|member| member.map(|(index, result)| (index, in_short(result))))
}

/// A batch of reads.
fn batch_of_reads<'a>(
    fixture: &'a Fixture,
    buffers: &'a mut [LockedBuf; MEMBERS],
) -> BatchOfOps<'a, LocalTypes> {
    let reads = buffers
        .iter_mut()
        .zip(0..)
        .map(|(buffer, label)| -> OpFuture<'a, 'a, _> {
            let command = RawCommand::Pread {
                offset: label,
                len: buffer.size() as u64,
                flags: ReadFlags::empty(),
                buffer,
            };
            op_of_command(&fixture.driver, FileRef::Open(&fixture.file), command)
        });
    BatchOfOps::new(reads)
}

/// Runs `scenario` with a batch, more or fewer members than slots, then checks its buffers and slots.
fn for_each_batch(scenario: impl Fn(&Fixture, BatchOfOps<'_, LocalTypes>, &mut dyn FnMut())) {
    for capacity in [1, 2, MEMBERS] {
        let fixture = Fixture::new(config(capacity));
        let mut driver_task = fixture.driver_task();
        let mut buffers = [(); MEMBERS].map(|()| LockedBuf::with_size(SIZE).unwrap());
        let batch = batch_of_reads(&fixture, &mut buffers);
        let mut complete_oldest = || {
            fixture.backend.complete(fixture.backend.in_flight()[0]);
            fixture.signal();
            let _ = driver_task.poll();
        };
        scenario(&fixture, batch, &mut complete_oldest);
        check(&fixture);
        fixture.complete_all(&mut driver_task);
        for buffer in buffers {
            assert_eq!(buffer.size(), SIZE);
        }
        fixture.assert_idle();
        assert_eq!(fixture.free_capacity(), Some(capacity));
    }
}

/// Takes all results, which are successes. Completes a request whenever there is none.
fn assert_all_succeed(
    batch: &mut BatchOfOps<'_, LocalTypes>,
    waker: &Waker,
    wakes: impl Fn() -> usize,
    complete_oldest: &mut dyn FnMut(),
) {
    let mut members = Vec::new();
    loop {
        match poll_batch(batch, waker) {
            Poll::Ready(Some((member, result))) => {
                assert_eq!(result, Ok(SIZE as u64));
                members.push(member);
            }
            Poll::Ready(None) => break,
            Poll::Pending => {
                let before = wakes();
                complete_oldest();
                assert!(wakes() > before, "a lost wake-up");
            }
        }
    }
    members.sort_unstable();
    assert!(members.iter().copied().eq(0..MEMBERS), "{members:?}");
}

#[test]
fn a_batch_whose_first_poll_panicked_in_a_clone_has_whole_buffers() {
    for position in 0..MEMBERS {
        for_each_batch(|fixture, mut batch, _| {
            let panicking = PanickingWaker::new();
            panicking.panic_in_clone_after(position);
            assert_panics(|| poll_batch(&mut batch, &panicking.waker()));
            drop(batch);
            assert_eq!(panicking.wakers(), 0);
            assert_eq!(fixture.backend.in_flight(), [], "nothing was submitted");
        });
    }
}

#[test]
fn a_batch_whose_first_poll_panicked_in_a_clone_gives_all_results_when_polled_again() {
    for position in 0..MEMBERS {
        for_each_batch(|_, mut batch, complete_oldest| {
            let panicking = PanickingWaker::new();
            panicking.panic_in_clone_after(position);
            let waker = panicking.waker();
            assert_panics(|| poll_batch(&mut batch, &waker));
            assert_all_succeed(&mut batch, &waker, || panicking.wakes(), complete_oldest);
            drop(batch);
            assert_eq!(panicking.wakers(), 0);
        });
    }
}

#[test]
fn a_batch_whose_second_poll_panicked_in_a_clone_can_be_dropped() {
    for position in 0..MEMBERS {
        for_each_batch(|_, mut batch, _| {
            assert!(poll_batch(&mut batch, Waker::noop()).is_pending());
            let panicking = PanickingWaker::new();
            panicking.panic_in_clone_after(position);
            assert_panics(|| poll_batch(&mut batch, &panicking.waker()));
            drop(batch);
            assert_eq!(panicking.wakers(), 0);
        });
    }
}

#[test]
fn a_batch_whose_second_poll_panicked_in_a_clone_wakes_whoever_polls_it_next() {
    for position in 0..MEMBERS {
        for returns_to_first in [false, true] {
            for_each_batch(|_, mut batch, complete_oldest| {
                let (first, panicking) = (PanickingWaker::new(), PanickingWaker::new());
                assert!(poll_batch(&mut batch, &first.waker()).is_pending());
                panicking.panic_in_clone_after(position);
                assert_panics(|| poll_batch(&mut batch, &panicking.waker()));
                let next = if returns_to_first { &first } else { &panicking };
                let waker = next.waker();
                assert_all_succeed(&mut batch, &waker, || next.wakes(), complete_oldest);
                drop(batch);
                assert_eq!((first.wakers(), panicking.wakers()), (0, 0));
            });
        }
    }
}

#[test]
fn wakers_of_a_batch_may_panic_when_they_are_replaced_woken_or_dropped() {
    for_each_batch(|_, mut batch, complete_oldest| {
        let (first, second) = (PanickingWaker::new(), PanickingWaker::new());
        assert!(poll_batch(&mut batch, &first.waker()).is_pending());
        first.panic_in_drop();
        assert!(poll_batch(&mut batch, &second.waker()).is_pending());
        assert_eq!((first.wakers(), second.wakers()), (0, MEMBERS));
        second.panic_in_wake();
        let waker = second.waker();
        assert_all_succeed(&mut batch, &waker, || second.wakes(), complete_oldest);
    });
    for_each_batch(|_, mut batch, _| {
        let panicking = PanickingWaker::new();
        assert!(poll_batch(&mut batch, &panicking.waker()).is_pending());
        panicking.panic_in_drop();
        drop(batch);
        assert_eq!(panicking.wakers(), 0);
    });
}

#[test]
fn a_batch_that_completes_inline_or_is_stopped_drops_its_wakers_contained() {
    for_each_batch(|fixture, mut batch, complete_oldest| {
        fixture.backend.complete_inline();
        let panicking = PanickingWaker::new();
        panicking.panic_in_drop();
        let waker = panicking.waker();
        assert_all_succeed(&mut batch, &waker, || panicking.wakes(), complete_oldest);
        assert_eq!(panicking.wakers(), 0);
    });
    let fixture = Fixture::new(config(2));
    let mut buffers = [(); MEMBERS].map(|()| LockedBuf::with_size(SIZE).unwrap());
    fixture.stop();
    let mut batch = batch_of_reads(&fixture, &mut buffers);
    let panicking = PanickingWaker::new();
    panicking.panic_in_drop();
    for member in 0..MEMBERS {
        let polled = poll_batch(&mut batch, &panicking.waker());
        assert_eq!(polled, Poll::Ready(Some((member, stopped()))));
    }
    assert_eq!(panicking.wakers(), 0);
    drop(batch);
    assert!(buffers.iter().all(|buffer| buffer.size() == SIZE));
}

/// The second member ends past the largest offset, so it is refused before it is submitted. There is no
/// slot for the last two, so each of them is polled alone.
#[test]
fn a_batch_gives_all_results_whatever_its_wakers_do_when_they_are_dropped() {
    let mut config = config(2);
    config.wait_for_slot = false;
    let fixture = Fixture::new(config);
    fixture.backend.complete_inline();
    let mut buffers = [(); MEMBERS + 1].map(|()| LockedBuf::with_size(SIZE).unwrap());
    let reads = buffers.iter_mut().zip(0..).map(|(buffer, member)| {
        let command = RawCommand::Pread {
            offset: if member == 1 { u64::MAX } else { member },
            len: SIZE as u64,
            flags: ReadFlags::empty(),
            buffer,
        };
        op_of_command(&fixture.driver, FileRef::Open(&fixture.file), command)
    });
    let mut batch = BatchOfOps::new(reads);
    let panicking = PanickingWaker::new();
    panicking.panic_in_drop();
    let waker = panicking.waker();
    let mut results = Vec::new();
    while let Poll::Ready(Some(done)) = batch.poll_next(&mut Context::from_waker(&waker)) {
        let (member, result) = done;
        results.push((member, result.ok()));
    }
    results.sort();
    let read = Some(SIZE as u64);
    let expected = [read, None, read, read, read];
    assert!(results.into_iter().eq((0..).zip(expected)));
    drop(batch);
    assert_eq!(panicking.wakers(), 0);
    assert!(buffers.iter().all(|buffer| buffer.size() == SIZE));
    fixture.assert_idle();
}
