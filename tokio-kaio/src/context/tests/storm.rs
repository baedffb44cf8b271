//! Requests of all kinds, and all that can happen to them, in random order: nothing is lost.

use std::mem;

use super::appends::Random;
use super::rig::{Local, Rig, Task, limits};
use crate::context::state::Limits;
use crate::{LockedBuf, SubmitPolicy};

const POLICIES: [SubmitPolicy; 3] = [
    SubmitPolicy::Inline,
    SubmitPolicy::NoWaitFirst,
    SubmitPolicy::Offload,
];

/// Labels tell what a request is: appends to one of three files, writes, reads.
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
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Idle,
    Stopped,
    Orphaned,
}

fn round(seed: u64) {
    let mut random = Random(seed * 7919 + 3);
    let rig = Rig::new(Limits {
        policy: POLICIES[random.below(3)],
        waits: random.below(4) > 0,
        ..limits([1, 2, 3, 16][random.below(4)])
    });
    let slots = rig.shared.limits.slots;
    let files = [(); FILES as usize].map(|()| Rig::<Local>::another_file());
    let mut buffers: Vec<_> = (0..160)
        .map(|_| LockedBuf::with_size(16).unwrap())
        .collect();
    let mut buffers = buffers.iter_mut();
    let mut driver = rig.driver();
    if random.below(4) > 0 {
        let _ = driver.poll();
    }
    let mut ops: Vec<(i64, Task<'_, Local>)> = Vec::new();
    for number in 0..160 {
        match random.below(12) {
            what @ 0..=3 => {
                let (label, mut op) = match what {
                    0 | 1 => {
                        let file = random.below(3);
                        let label = label(file as i64, number);
                        (label, rig.append(&files[file], label))
                    }
                    2 => (label(WRITES, number), rig.op(label(WRITES, number))),
                    _ => {
                        let buffer = buffers.next().unwrap();
                        let label = label(READS, number);
                        (label, rig.read(label, buffer))
                    }
                };
                if op.poll().is_pending() {
                    ops.push((label, op));
                }
            }
            4 if !ops.is_empty() => {
                let (_, op) = ops.swap_remove(random.below(ops.len()));
                match random.below(6) {
                    0 => mem::forget(op),
                    _ => drop(op),
                }
            }
            5 if !ops.is_empty() => {
                let at = random.below(ops.len());
                if ops[at].1.poll().is_ready() {
                    drop(ops.swap_remove(at));
                }
            }
            6 => {
                let _ = driver.poll();
            }
            7 => rig.kernel.take_at_most([random.below(3)]),
            8 => {
                let policy = POLICIES.get(random.below(4)).copied();
                files[random.below(3)].set_policy(policy);
                rig.file.set_policy(policy);
            }
            9 => {
                let kind = [0, 1, 2, WRITES, READS][random.below(5)];
                let errno = [libc::EBADF, libc::EOPNOTSUPP][random.below(2)];
                rig.kernel.refuse(label(kind, number + 1), errno);
            }
            _ => {
                let in_flight = rig.kernel.in_flight();
                if !in_flight.is_empty() {
                    let label = in_flight[random.below(in_flight.len())];
                    match random.below(3) {
                        // Of an attempt with `RWF_NOWAIT`, a refusal.
                        0 => rig.kernel.complete_with(label, -i64::from(libc::EAGAIN)),
                        _ => rig.kernel.complete(label),
                    }
                    if random.below(4) > 0 {
                        rig.signal();
                    }
                }
            }
        }
        let mut out = [0; FILES as usize];
        for label in rig.kernel.in_flight() {
            if let Some(appends) = out.get_mut(kind(label) as usize) {
                *appends += 1;
            }
        }
        assert!(out.iter().all(|&appends| appends <= 1), "{seed}: {out:?}");
        assert!(rig.shared.census().1 <= slots, "{seed}");
    }

    let end = [End::Idle, End::Stopped, End::Orphaned][random.below(3)];
    match end {
        End::Idle => {}
        End::Stopped => rig.shared.stop(),
        End::Orphaned => rig.shared.orphan(),
    }
    // The driver is polled when it is woken, and not otherwise.
    let mut over = end != End::Idle && driver.poll().is_ready();
    let waiting = || {
        let (queued, in_flight, _) = rig.shared.census();
        queued + in_flight
    };
    for turns in 0.. {
        if waiting() == 0 {
            break;
        }
        assert!(turns < 2000, "{seed}: stuck: {:?}", rig.shared.census());
        for label in rig.kernel.in_flight() {
            rig.kernel.complete(label);
            if random.below(2) == 0 {
                break;
            }
        }
        rig.signal();
        if !over && (driver.woken() > 0 || turns == 0) {
            over = driver.poll().is_ready();
        }
    }

    let calls = rig.kernel.calls();
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
    let metrics = rig.shared.metrics();
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
        assert_eq!(rig.shared.free_slots(), Some(slots), "{seed}");
        rig.shared.stop();
    }
    // Nobody has kept the turn to append.
    for file in &files {
        let other = Rig::new(limits(2));
        let mut first = other.append(file, 1);
        let mut second = other.append(file, 2);
        assert!(first.poll().is_pending() && second.poll().is_pending());
        assert_eq!(other.kernel.in_flight(), [1], "{seed}");
    }
    rig.wait_until_gone();
}

#[test]
fn whatever_requests_meet_nothing_is_lost() {
    let rounds = if cfg!(miri) { 3 } else { 500 };
    (0..rounds).for_each(round);
}
