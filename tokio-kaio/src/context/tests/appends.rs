//! Appends to a file go one after another, in the order in which they were made, whatever becomes of
//! those before them.

use std::collections::BTreeMap;

use super::rig::{Local, Rig, Task, limits, outcome};
use crate::SubmitPolicy;

/// Appends to the rig's file, polled once each.
fn appends(rig: &Rig, labels: impl IntoIterator<Item = i64>) -> Vec<Task<'_, Local>> {
    let start = |label| {
        let mut task = rig.append(&rig.file, label);
        assert!(task.poll().is_pending(), "{label}");
        task
    };
    labels.into_iter().map(start).collect()
}

#[test]
fn one_is_out_at_a_time_and_others_do_not_wait_for_it() {
    let rig = Rig::new(limits(8));
    let mut driver = rig.driven();
    let first = appends(&rig, [0, 1, 2]);
    let others = rig.started([10, 11]);
    assert!(driver.poll().is_pending());
    assert_eq!(rig.kernel.in_flight(), [0, 10, 11]);
    assert_eq!(
        rig.shared.free_slots(),
        Some(3),
        "those that wait have slots"
    );
    assert_eq!(rig.serve_all(&mut driver), [0, 10, 11, 1, 2]);
    for op in first.into_iter().chain(others) {
        assert_eq!(outcome(op.ready()), Ok(0));
    }
    rig.assert_idle();
}

#[test]
fn those_of_another_context_change_nothing_about_that() {
    let (rig, other) = (Rig::new(limits(8)), Rig::<Local>::new(limits(8)));
    let mut driver = rig.driven();
    let mut elsewhere = other.append(&rig.file, 10);
    assert!(elsewhere.poll().is_pending());
    let first = appends(&rig, [0, 1]);
    assert!(driver.poll().is_pending());
    assert_eq!(rig.kernel.in_flight(), [0]);
    other.kernel.complete(10);
    assert_eq!(outcome(elsewhere.ready()), Ok(0));
    let last = appends(&rig, [2]);
    assert!(driver.poll().is_pending());
    assert_eq!(rig.kernel.in_flight(), [0], "the first one is still out");
    assert_eq!(rig.serve_all(&mut driver), [0, 1, 2]);
    for op in first.into_iter().chain(last) {
        assert_eq!(outcome(op.ready()), Ok(0));
    }
    rig.assert_idle();
    other.assert_idle();
}

#[test]
fn appends_to_several_files_go_side_by_side() {
    let rig = Rig::new(limits(8));
    let other = Rig::<Local>::another_file();
    let mut driver = rig.driven();
    let first = appends(&rig, [0, 1]);
    let second: Vec<_> = [10, 11]
        .map(|label| {
            let mut task = rig.append(&other, label);
            assert!(task.poll().is_pending());
            task
        })
        .into();
    assert!(driver.poll().is_pending());
    assert_eq!(rig.kernel.in_flight(), [0, 10]);
    rig.kernel.complete(10);
    rig.signal();
    assert!(driver.poll().is_pending());
    assert_eq!(rig.kernel.in_flight(), [0, 11]);
    assert_eq!(rig.serve_all(&mut driver), [0, 11, 1]);
    for op in first.into_iter().chain(second) {
        assert_eq!(outcome(op.ready()), Ok(0));
    }
}

#[test]
fn those_that_are_dropped_leave_the_turn_to_the_next() {
    // Each of four, in each of the places that it can be in.
    for dropped in 0..4 {
        for after in [0, 1] {
            let rig = Rig::new(limits(8));
            let mut driver = rig.driven();
            let mut ops: Vec<_> = appends(&rig, 0..4).into_iter().map(Some).collect();
            assert!(driver.poll().is_pending());
            if after == 1 {
                rig.kernel.complete(0);
                rig.signal(); // 1 has its turn, and is not out yet
            }
            ops[dropped] = None;
            let mut served = rig.serve_all(&mut driver);
            assert!(driver.poll().is_pending());
            served.extend(rig.serve_all(&mut driver));
            let expected = (after..4).filter(|label| {
                let out = *label == 0; // goes on
                out || *label != dropped as i64
            });
            assert_eq!(served, expected.collect::<Vec<_>>(), "{dropped}, {after}");
            for op in ops.into_iter().flatten() {
                assert_eq!(outcome(op.ready()), Ok(0));
            }
            rig.assert_idle();
        }
    }
}

#[test]
fn one_that_is_refused_leaves_the_turn_to_the_next() {
    let rig = Rig::new(limits(8));
    let mut driver = rig.driven();
    rig.kernel.refuse(1, libc::EBADF);
    let ops = appends(&rig, 0..3);
    assert!(driver.poll().is_pending());
    assert_eq!(rig.serve_all(&mut driver), [0, 2]);
    let outcomes: Vec<_> = ops.into_iter().map(|op| outcome(op.ready())).collect();
    let refused = Err(format!("submit {}", libc::EBADF));
    assert_eq!(outcomes, [Ok(0), refused, Ok(0)]);
    rig.assert_idle();
}

#[test]
fn one_that_the_kernel_has_no_room_for_keeps_its_turn() {
    let rig = Rig::new(limits(8));
    let mut driver = rig.driven();
    let mut first = rig.op(9);
    assert!(first.poll().is_pending());
    rig.kernel.set_room(1);
    let ops = appends(&rig, 0..3);
    assert!(driver.poll().is_pending());
    assert_eq!(rig.kernel.in_flight(), [9]);
    assert_eq!(rig.serve_all(&mut driver), [9, 0, 1, 2]);
    for op in ops {
        assert_eq!(outcome(op.ready()), Ok(0));
    }
    assert_eq!(outcome(first.ready()), Ok(0));
    rig.assert_idle();
}

#[test]
fn a_context_that_stops_serves_them_one_after_another() {
    let rig = Rig::new(limits(4));
    let mut driver = rig.driven();
    let ops = appends(&rig, 0..6);
    assert!(driver.poll().is_pending());
    rig.shared.stop();
    assert!(driver.poll().is_pending());
    assert_eq!(rig.serve_all(&mut driver), [0, 1, 2, 3]);
    for (label, op) in ops.into_iter().enumerate() {
        let stopped = Err("stopped".into());
        let expected = if label < 4 { Ok(0) } else { stopped };
        assert_eq!(outcome(op.ready()), expected, "{label}");
    }
    rig.wait_until_gone();
    rig.assert_idle();
}

#[test]
fn a_context_that_stops_turns_away_the_latest_whoever_has_the_turn() {
    let rig = Rig::new(limits(2));
    let mut driver = rig.driven();
    let ops = appends(&rig, 0..4);
    assert!(driver.poll().is_pending());
    rig.kernel.complete(0);
    rig.signal(); // 1 has its turn, and is not out yet
    rig.shared.stop();
    assert_eq!(rig.serve_all(&mut driver), []);
    assert!(driver.poll().is_pending());
    assert_eq!(rig.serve_all(&mut driver), [1, 2]);
    let outcomes: Vec<_> = ops.into_iter().map(|op| outcome(op.ready())).collect();
    assert_eq!(outcomes, [Ok(0), Ok(0), Ok(0), Err("stopped".into())]);
    rig.wait_until_gone();
    rig.assert_idle();
}

#[test]
fn a_file_outlives_a_context_that_leaves_one_out() {
    let rig = Rig::new(limits(4));
    let file = Rig::<Local>::another_file();
    let mut out = rig.append(&file, 0);
    assert!(out.poll().is_pending());
    let mut held = rig.append(&file, 1);
    assert!(held.poll().is_pending());
    rig.shared.orphan();
    for op in [out, held] {
        assert_eq!(outcome(op.ready()), Err("stopped".into()));
    }
    // Another context has its turn.
    let other = Rig::new(limits(4));
    let mut driver = other.driven();
    let mut ops = [0, 1].map(|label| other.append(&file, label));
    for op in &mut ops {
        assert!(op.poll().is_pending());
    }
    assert!(driver.poll().is_pending());
    assert_eq!(other.serve_all(&mut driver), [0, 1]);
    for op in ops {
        assert_eq!(outcome(op.ready()), Ok(0));
    }
}

#[test]
fn contexts_that_share_a_file_do_not_wait_for_one_another() {
    let (rig, other) = (Rig::new(limits(4)), Rig::new(limits(4)));
    let mut first = rig.append(&rig.file, 0);
    assert!(first.poll().is_pending());
    let mut second = other.append(&rig.file, 1);
    assert!(second.poll().is_pending());
    assert_eq!(other.kernel.in_flight(), [1]);
    for (rig, label) in [(&rig, 0), (&other, 1)] {
        rig.kernel.complete(label);
        rig.signal();
    }
    assert_eq!(outcome(first.ready()), Ok(0));
    assert_eq!(outcome(second.ready()), Ok(0));
}

/// Numbers that look random.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        ((self.0 >> 33) % n as u64) as usize
    }
}

/// What was made and not dropped before it was out, by file; and what went out, by file.
type ByFile = BTreeMap<i64, Vec<i64>>;

#[test]
fn whatever_happens_the_order_of_each_file_is_kept_with_one_out_at_a_time() {
    let rounds = if cfg!(miri) { 5 } else { 300 };
    for seed in 0..rounds {
        let mut random = Random(seed * 7919 + 1);
        let policies = [SubmitPolicy::Inline, SubmitPolicy::Offload];
        let rig = Rig::new(crate::context::state::Limits {
            policy: policies[random.below(2)],
            ..limits([1, 3, 16][random.below(3)])
        });
        let files = [(); 3].map(|()| Rig::<Local>::another_file());
        let mut driver = rig.driver();
        let _ = driver.poll();
        let mut ops: Vec<(i64, Task<'_, Local>)> = Vec::new();
        let mut made = ByFile::new();
        let mut given_up = Vec::new();
        let mut next = 0;
        let out_of = |rig: &Rig| {
            let mut out = ByFile::new();
            for call in rig.kernel.calls() {
                let taken = call.answer.unwrap_or(0);
                for label in &call.labels[..taken] {
                    out.entry(label / 1_000_000).or_default().push(*label);
                }
            }
            out
        };
        for _ in 0..120 {
            match random.below(8) {
                0..=2 => {
                    let file = random.below(3);
                    let label = file as i64 * 1_000_000 + next;
                    next += 1;
                    made.entry(file as i64).or_default().push(label);
                    let mut op = rig.append(&files[file], label);
                    if op.poll().is_pending() {
                        ops.push((label, op));
                    }
                }
                3 if !ops.is_empty() => {
                    let (label, op) = ops.swap_remove(random.below(ops.len()));
                    drop(op);
                    given_up.push(label);
                }
                4 => {
                    let _ = driver.poll();
                }
                5 if !ops.is_empty() => {
                    let at = random.below(ops.len());
                    if ops[at].1.poll().is_ready() {
                        drop(ops.swap_remove(at));
                    }
                }
                _ => {
                    let in_flight = rig.kernel.in_flight();
                    if !in_flight.is_empty() {
                        rig.kernel
                            .complete(in_flight[random.below(in_flight.len())]);
                        rig.signal();
                    }
                }
            }
            let mut out_now = [0; 3];
            for label in rig.kernel.in_flight() {
                out_now[(label / 1_000_000) as usize] += 1;
            }
            assert!(out_now.iter().all(|&out| out <= 1), "{seed}: {out_now:?}");
        }
        for _ in 0..200 {
            let _ = driver.poll();
            rig.serve_all(&mut driver);
        }
        let out = out_of(&rig);
        for (file, made) in &made {
            let gone = out.get(file).cloned().unwrap_or_default();
            let expected: Vec<_> = made
                .iter()
                .filter(|label| gone.contains(label) || !given_up.contains(label))
                .copied()
                .collect();
            assert_eq!(gone, expected, "{seed}, file {file}");
        }
        for (label, op) in ops {
            assert_eq!(outcome(op.ready()), Ok(0), "{seed}: {label}");
        }
        rig.assert_idle();
    }
}
