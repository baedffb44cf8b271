//! Requests of all kinds, and everything that can happen to them, in random order: nothing is lost.

use std::mem;

use super::driver_fixture::*;
use crate::policy::{Adaptive, Plain, SubmitAdvisor};
use crate::{LockedBuf, SubmitPolicy};

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

// Kinds of requests, as part of their labels: appends to one of three files, writes, reads.
const FILES: i64 = 3;
const WRITES: i64 = 8;
const READS: i64 = 9;

fn label(kind: i64, number: i64) -> i64 {
    kind * 1_000_000 + number
}

fn kind(label: i64) -> i64 {
    label / 1_000_000
}

/// How a round ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Idle,
    Stopped,
    Orphaned,
}

fn round<P: SubmitAdvisor>(seed: u64) {
    let mut random = Random::new(seed * 7919 + 3);
    let capacity = *random.pick(&[1, 2, 3, 16]);
    let mut config = config_with_policy(capacity, *random.pick(&POLICIES));
    config.wait_for_slot = !random.one_in(4);
    let fixture = Fixture::<LocalTypes<P>>::local(config);
    let files = [(); FILES as usize].map(|()| open_file());
    let mut buffers: Vec<_> = (0..160)
        .map(|_| LockedBuf::with_size(16).unwrap())
        .collect();
    let mut buffers = buffers.iter_mut();
    let mut driver_task = fixture.driver_task();
    if !random.one_in(4) {
        let _ = driver_task.poll();
    }
    let mut ops: Vec<(i64, Task<'_, _>)> = Vec::new();
    for number in 0..160 {
        match random.below(12) {
            choice @ 0..=3 => {
                let (label, mut op) = match choice {
                    0 | 1 => {
                        let file = random.below(3);
                        let label = label(file as i64, number);
                        (label, fixture.append(&files[file], label))
                    }
                    2 => (label(WRITES, number), fixture.op(label(WRITES, number))),
                    _ => {
                        let label = label(READS, number);
                        (label, fixture.read(label, buffers.next().unwrap()))
                    }
                };
                if op.poll().is_pending() {
                    ops.push((label, op));
                }
            }
            4 if !ops.is_empty() => {
                let (_, op) = ops.swap_remove(random.below(ops.len()));
                match random.one_in(6) {
                    true => mem::forget(op),
                    false => drop(op),
                }
            }
            5 if !ops.is_empty() => {
                let index = random.below(ops.len());
                if ops[index].1.poll().is_ready() {
                    drop(ops.swap_remove(index));
                }
            }
            6 => {
                let _ = driver_task.poll();
            }
            7 => fixture.backend.take_at_most([random.below(3)]),
            8 => {
                let policy = POLICIES.get(random.below(4)).copied();
                let file = random.pick(&files);
                file.history().set_policy(policy);
                fixture.file.history().set_policy(policy);
            }
            9 => {
                let kind = *random.pick(&[0, 1, 2, WRITES, READS]);
                let errno = *random.pick(&[libc::EBADF, libc::EOPNOTSUPP]);
                fixture.backend.refuse(label(kind, number + 1), errno);
            }
            _ => {
                let in_flight = fixture.backend.in_flight();
                if !in_flight.is_empty() {
                    let label = *random.pick(&in_flight);
                    match random.one_in(3) {
                        // The refusal of an attempt with `RWF_NOWAIT`.
                        true => fixture
                            .backend
                            .complete_with(label, -i64::from(libc::EAGAIN)),
                        false => fixture.backend.complete(label),
                    }
                    if !random.one_in(4) {
                        fixture.signal();
                    }
                }
            }
        }
        let mut in_flight = [0; FILES as usize];
        for label in fixture.backend.in_flight() {
            if let Some(appends) = in_flight.get_mut(kind(label) as usize) {
                *appends += 1;
            }
        }
        assert!(
            in_flight.iter().all(|&appends| appends <= 1),
            "{seed}: {in_flight:?}"
        );
        assert!(fixture.census().in_flight <= capacity, "{seed}");
    }

    let end = *random.pick(&[End::Idle, End::Stopped, End::Orphaned]);
    match end {
        End::Idle => {}
        End::Stopped => fixture.stop(),
        End::Orphaned => fixture.orphan(),
    }
    // The driver task is polled when it is woken, and not otherwise.
    let mut ended = end != End::Idle && driver_task.poll().is_ready();
    for turns in 0.. {
        let Census {
            waiting, in_flight, ..
        } = fixture.census();
        if waiting + in_flight == 0 {
            break;
        }
        assert!(turns < 2000, "{seed}: stuck: {:?}", fixture.census());
        for label in fixture.backend.in_flight() {
            fixture.backend.complete(label);
            if random.one_in(2) {
                break;
            }
        }
        fixture.signal();
        if !ended && (driver_task.take_wakes() > 0 || turns == 0) {
            ended = driver_task.poll().is_ready();
        }
    }

    let calls = fixture.backend.calls();
    let taken = calls
        .iter()
        .flat_map(|call| &call.labels[..call.answer.unwrap_or(0)]);
    let taken: Vec<_> = taken.copied().collect();
    for file in 0..FILES {
        let appends: Vec<_> = taken.iter().filter(|label| kind(**label) == file).collect();
        assert!(appends.is_sorted(), "{seed}: {appends:?}");
    }
    for (label, op) in &mut ops {
        assert!(op.poll().is_ready(), "{seed}: {label}");
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
    if end == End::Idle {
        assert_eq!(fixture.free_capacity(), Some(capacity), "{seed}");
        fixture.stop();
    }
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
}

#[test]
fn whatever_happens_to_requests_nothing_is_lost() {
    let rounds = if cfg!(miri) { 3 } else { 300 };
    for seed in 0..rounds {
        round::<Adaptive>(seed);
        round::<Plain>(seed);
    }
}
