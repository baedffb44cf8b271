//! Requests of all kinds, and everything that can happen to them, in random order: nothing is lost, and the
//! invariants of the driver hold after each step.

use std::collections::HashSet;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use super::core_invariants::check;
use super::driver_fixture::*;
use super::panicking_waker::PanickingWaker;
use crate::backend::OpCode;
use crate::context::TransferMode;
use crate::context::test_operations::op_of_request;
use crate::op::{BufferReturn, FileRef, IoBuffer, IoOp, IoRequest};
use crate::policy::{Adaptive, Plain, SubmitAdvisor};
use crate::slab::SlotKey;
use crate::slab::SlotState;
use crate::{BufferPool, LockedBuf, SubmitPolicy};

/// Pseudo-random numbers.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        ((self.0 >> 33) % n as u64) as usize
    }

    /// One time in `n`.
    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len())]
    }
}

const POLICIES: [SubmitPolicy; 3] = [
    SubmitPolicy::Inline,
    SubmitPolicy::NoWaitFirst,
    SubmitPolicy::Offload,
];

// Kinds of requests, as part of their labels: appends to one of three files, and others.
const FILES: i64 = 3;
const POLLS: i64 = 6;
const EXACT_WRITES: i64 = 7;
const WRITES: i64 = 8;
const READS: i64 = 9;
const KINDS: [i64; 7] = [0, 1, 2, POLLS, EXACT_WRITES, WRITES, READS];

fn label(kind: i64, number: i64) -> i64 {
    kind * 1_000_000 + number * 100
}

fn kind(label: i64) -> i64 {
    label / 1_000_000
}

/// Bytes of the writes that continue until all is written.
const EXACT_LEN: usize = 16;

const STEPS: i64 = 160;

/// How the context of a round ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Idle,
    Stopped,
    Orphaned,
}

/// An operation that has been polled, and was not ready.
struct Op<'a, P: SubmitAdvisor> {
    label: i64,
    task: Task<'a, LocalTypes<P>>,
    waker: PanickingWaker,
    /// Wakes at the last poll. `None`: that panicked, and nobody need be woken.
    wakes_before: Option<usize>,
}

impl<P: SubmitAdvisor> Op<'_, P> {
    /// Polls with a waker that may panic. Returns whether the operation is ready.
    fn poll(&mut self, random: &mut Random) -> bool {
        if random.one_in(4) {
            self.waker = PanickingWaker::new(); // of another task
        }
        match random.below(12) {
            0 => self.waker.panic_in_clone_after(0),
            1 => self.waker.panic_in_wake(),
            2 => self.waker.panic_in_drop(),
            3 => self.waker.behave(),
            _ => {}
        }
        self.wakes_before = None;
        let wakes_before = self.waker.wakes();
        let waker = self.waker.waker();
        match catch_unwind(AssertUnwindSafe(|| self.task.poll_with(&waker))) {
            Ok(Poll::Ready(_)) => return true,
            Ok(Poll::Pending) => self.wakes_before = Some(wakes_before),
            // The drop of a waker panicked when the operation had completed.
            Err(_) if self.task.is_complete() => return true,
            Err(_) => {}
        }
        false
    }
}

struct Round<'a, P: SubmitAdvisor> {
    seed: u64,
    random: Random,
    fixture: &'a Fixture<LocalTypes<P>>,
    ops: Vec<Op<'a, P>>,
    /// Requests whose operations were forgotten: they keep their slots.
    forgotten: HashSet<SlotKey>,
    /// Labels in the order of their admission.
    admitted: Vec<i64>,
    /// `user_data` of completions that were delivered.
    delivered: Vec<u64>,
    /// Completions that match nothing.
    unmatched: u64,
}

impl<'a, P: SubmitAdvisor> Round<'a, P> {
    fn start(&mut self, label: i64, task: Task<'a, LocalTypes<P>>) {
        let mut op = Op {
            label,
            task,
            waker: PanickingWaker::new(),
            wakes_before: None,
        };
        if !op.poll(&mut self.random) {
            self.note_admission(&op);
            self.ops.push(op);
        }
    }

    /// Some first polls panic before the admission.
    fn note_admission(&mut self, op: &Op<'_, P>) {
        if op.task.key().is_some() && !self.admitted.contains(&op.label) {
            self.admitted.push(op.label);
        }
    }

    /// Drops or forgets an operation.
    fn give_up(&mut self) {
        let op = self.ops.swap_remove(self.random.below(self.ops.len()));
        match op.task.key() {
            Some(key) if self.random.one_in(6) => {
                self.forgotten.insert(key);
                mem::forget(op.task);
            }
            _ => drop(op.task), // what the future owns would be lost with it
        }
    }

    fn poll(&mut self) {
        let mut op = self.ops.swap_remove(self.random.below(self.ops.len()));
        if !op.poll(&mut self.random) {
            self.note_admission(&op);
            self.ops.push(op);
        }
    }

    fn complete(&mut self) {
        let backend = &self.fixture.backend;
        let in_flight = completable(self.fixture);
        if in_flight.is_empty() {
            return;
        }
        let label = *self.random.pick(&in_flight);
        let user_data = backend.entry(label).user_data;
        match self.random.below(6) {
            // The refusal of an attempt with `RWF_NOWAIT`.
            0 | 1 => backend.complete_with(label, -i64::from(libc::EAGAIN)),
            2 if kind(label) == EXACT_WRITES => backend.complete_with(label, 4),
            _ => backend.complete(label),
        }
        self.delivered.push(user_data);
        if self.random.one_in(4) {
            self.post_duplicates(1);
        }
        if !self.random.one_in(4) {
            self.fixture.signal();
        }
    }

    /// Posts completions that match nothing: duplicates, and made-up ones.
    fn post_duplicates(&mut self, count: usize) {
        for _ in 0..count {
            let made_up = (1 << 63) | self.random.below(1 << 31) as u64;
            let user_data = match self.random.one_in(3) || self.delivered.is_empty() {
                true => made_up,
                false => *self.random.pick(&self.delivered),
            };
            let result = *self
                .random
                .pick(&[0, 16, i64::MIN, -i64::from(libc::EAGAIN)]);
            self.fixture.backend.post(user_data, result);
            self.unmatched += 1;
        }
    }

    fn into_parts(self) -> (Vec<Op<'a, P>>, HashSet<SlotKey>, u64) {
        (self.ops, self.forgotten, self.unmatched)
    }

    /// Asserts what is true after each step.
    fn check(&self) {
        let (seed, fixture) = (self.seed, self.fixture);
        check(fixture);
        let entered = fixture.entered();
        let core = entered.lock();
        let is_owned = |state| !matches!(state, SlotState::Free | SlotState::Abandoned);
        let slots = core.slots.iter();
        let owned: HashSet<_> = slots
            .filter(|(_, slot)| is_owned(slot.state))
            .map(|(key, _)| key)
            .collect();
        let mut owners = self.forgotten.clone();
        for op in &self.ops {
            let Some(key) = op.task.key() else { continue };
            assert!(owners.insert(key), "{seed}: a slot has two owners");
        }
        assert_eq!(owned, owners, "{seed}");
        for (key, slot) in core.slots.iter() {
            if !matches!(slot.state, SlotState::Completed(_)) {
                continue;
            }
            let op = self.ops.iter().find(|op| op.task.key() == Some(key));
            if let Some((op, wakes_before)) = op.and_then(|op| Some((op, op.wakes_before?))) {
                let is_woken = op.waker.wakes() > wakes_before;
                assert!(is_woken, "{seed}: {} is not woken", op.label);
            }
        }
        drop(core);
        let mut appends = [0; FILES as usize];
        for label in fixture.backend.in_flight() {
            if let Some(appends) = appends.get_mut(kind(label) as usize) {
                *appends += 1;
            }
        }
        assert!(
            appends.iter().all(|&count| count <= 1),
            "{seed}: {appends:?}"
        );
    }
}

/// Labels that can be completed: none once the teardown may complete them.
fn completable<P: SubmitAdvisor>(fixture: &Fixture<LocalTypes<P>>) -> Vec<i64> {
    match fixture.entered().is_live() {
        true => fixture.backend.in_flight(),
        false => Vec::new(),
    }
}

fn round<P: SubmitAdvisor>(seed: u64) {
    let mut random = Random::new(seed * 7919 + 3);
    let capacity = *random.pick(&[1, 2, 3, 16]);
    let mut config = config_with_policy(capacity, *random.pick(&POLICIES));
    config.wait_for_slot = !random.one_in(4);
    let fixture = Fixture::<LocalTypes<P>>::local(config);
    let files = [(); FILES as usize].map(|()| open_file());
    let pool = BufferPool::new(STEPS as usize, 16).unwrap();
    let mut buffers: Vec<_> = (0..STEPS).map(|_| pool.try_get().unwrap()).collect();
    let written = LockedBuf::with_size(EXACT_LEN).unwrap();
    let mut unused = buffers.iter_mut();
    let mut driver_task = fixture.driver_task();
    let mut driver_has_ended = false;
    let mut drive = |only_if_woken: bool| {
        if !driver_has_ended && (driver_task.take_wakes() > 0 || !only_if_woken) {
            driver_has_ended = driver_task.poll().is_ready();
        }
    };
    if !random.one_in(4) {
        drive(false);
    }
    let end = *random.pick(&[End::Idle, End::Stopped, End::Orphaned]);
    // Within the round, or after it.
    let end_at = random.below(2 * STEPS as usize) as i64;
    let end_context = || match end {
        End::Idle => {}
        End::Stopped => fixture.stop(),
        End::Orphaned => fixture.orphan(),
    };
    let mut round = Round {
        seed,
        random,
        fixture: &fixture,
        ops: Vec::new(),
        forgotten: HashSet::new(),
        admitted: Vec::new(),
        delivered: Vec::new(),
        unmatched: 0,
    };
    for number in 0..STEPS {
        if number == end_at {
            end_context();
        }
        match round.random.below(15) {
            0 | 1 => {
                let file = round.random.below(3);
                let label = label(file as i64, number);
                round.start(label, fixture.append(&files[file], label));
            }
            2 => {
                let label = label(WRITES, number);
                round.start(label, fixture.op(label));
            }
            3 => {
                let label = label(READS, number);
                round.start(label, fixture.read(label, unused.next().unwrap()));
            }
            4 => {
                let label = label(EXACT_WRITES, number);
                round.start(label, fixture.write_exact(label, &written, EXACT_LEN));
            }
            5 => {
                let label = label(POLLS, number);
                let op = IoOp {
                    offset: label,
                    nbytes: libc::POLLIN as u64,
                    ..IoOp::new(OpCode::Poll)
                };
                let request = IoRequest::new(op, IoBuffer::None);
                let request = (request, BufferReturn::None, TransferMode::Single);
                let file = FileRef::Open(&fixture.file);
                round.start(
                    label,
                    Task::new(op_of_request(&fixture.driver, file, request)),
                );
            }
            6 if !round.ops.is_empty() => round.give_up(),
            7 if !round.ops.is_empty() => round.poll(),
            8 => drive(false),
            9 => fixture.backend.take_at_most([round.random.below(3)]),
            10 => {
                let policy = POLICIES.get(round.random.below(4)).copied();
                let file = round.random.pick(&files);
                file.history().set_policy(policy);
                fixture.file.history().set_policy(policy);
            }
            11 => {
                let kind = *round.random.pick(&KINDS);
                let errno = *round.random.pick(&[libc::EBADF, libc::EOPNOTSUPP]);
                fixture.backend.refuse(label(kind, number + 1), errno);
            }
            12 => {
                round.post_duplicates(3);
                fixture.signal();
            }
            _ => round.complete(),
        }
        round.check();
    }
    if end_at >= STEPS {
        end_context();
    }

    // The driver task is polled when it is woken, and not otherwise.
    if end != End::Idle {
        drive(false);
    }
    for turns in 0.. {
        let Census {
            waiting, in_flight, ..
        } = fixture.census();
        if waiting + in_flight == 0 {
            break;
        }
        assert!(turns < 2000, "{seed}: stuck: {:?}", fixture.census());
        for label in completable(&fixture) {
            fixture.backend.complete(label);
            if round.random.one_in(2) {
                break;
            }
        }
        fixture.signal();
        drive(turns > 0);
        round.check();
    }

    let calls = fixture.backend.calls();
    let taken = calls
        .iter()
        .flat_map(|call| &call.labels[..call.answer.unwrap_or(0)]);
    let taken: Vec<_> = taken.copied().collect();
    for file in 0..FILES {
        let appends = taken.iter().filter(|label| kind(**label) == file);
        let place = |label| round.admitted.iter().position(|other| other == label);
        let places: Vec<_> = appends.map(place).collect();
        assert!(places.is_sorted(), "{seed}: {places:?}");
    }
    let (ops, forgotten, unmatched) = round.into_parts();
    for Op {
        label, mut task, ..
    } in ops
    {
        // A transfer may have requests to make, and an operation whose first poll panicked has all.
        while task.poll().is_pending() {
            for label in completable(&fixture) {
                fixture.backend.complete(label);
            }
            drive(false);
            let census = fixture.census();
            let is_served = census.in_flight + census.waiting > 0 || task.key().is_some();
            assert!(is_served, "{seed}: {label}");
        }
    }
    let metrics = fixture.metrics();
    if end != End::Orphaned {
        assert_eq!(metrics.submitted, metrics.completed, "{seed}: {metrics:?}");
    }
    let left = (
        metrics.queued,
        metrics.in_flight,
        metrics.waiting_for_thread,
    );
    assert_eq!(left, (0, 0, 0), "{seed}: {metrics:?}");
    assert!(metrics.unmatched_completions <= unmatched, "{seed}");
    if end == End::Idle {
        assert_eq!(metrics.unmatched_completions, unmatched, "{seed}");
        assert_eq!(fixture.free_capacity(), Some(capacity), "{seed}");
        fixture.stop();
    }
    check(&fixture);
    assert_eq!(fixture.census().owned, forgotten.len(), "{seed}");
    // The turn to append is free in other contexts.
    for file in &files {
        file.history().set_policy(None);
        let other = Fixture::new(super::driver_fixture::config(2));
        let mut first = other.append(file, 1);
        let mut second = other.append(file, 2);
        assert!(first.poll().is_pending() && second.poll().is_pending());
        assert_eq!(other.backend.in_flight(), [1], "{seed}");
    }
    fixture.wait_until_gone();
    drop((driver_task, fixture));
    drop(buffers);
    assert_eq!(pool.available(), pool.capacity(), "{seed}: memory is lost");
}

#[test]
fn whatever_happens_to_requests_nothing_is_lost() {
    let rounds = if cfg!(miri) { 3 } else { 120 };
    for seed in 0..rounds {
        round::<Adaptive>(seed);
        round::<Plain>(seed);
    }
}
