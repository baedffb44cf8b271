//! Appends to a file are submitted one after another, in the order of their admission, whatever becomes
//! of earlier ones.

use std::collections::BTreeMap;

use super::driver_fixture::*;
use super::random_operations::Random;
use crate::SubmitPolicy;
use crate::backend::fake::FakeBackend;
use crate::config::ContextTypes;
use crate::policy::{Adaptive, Plain, SubmitAdvisor};

/// Appends to the fixture's file, polled once each.
fn start_appends<T: ContextTypes<Backend = FakeBackend>>(
    fixture: &Fixture<T>,
    labels: impl IntoIterator<Item = i64>,
) -> Vec<Task<'_, T>> {
    let start = |label| {
        let mut append = fixture.append(&fixture.file, label);
        assert!(append.poll().is_pending(), "{label}");
        append
    };
    labels.into_iter().map(start).collect()
}

#[test]
fn one_append_is_in_flight_at_a_time_and_other_requests_do_not_wait_for_it() {
    let fixture = Fixture::new(config(8));
    let mut driver_task = fixture.running_driver_task();
    let appends = start_appends(&fixture, [0, 1, 2]);
    let others = fixture.start([10, 11]);
    assert!(driver_task.poll().is_pending());
    assert_eq!(fixture.backend.in_flight(), [0, 10, 11]);
    assert_eq!(
        fixture.free_capacity(),
        Some(3),
        "appends that wait have slots"
    );
    assert_eq!(fixture.complete_all(&mut driver_task), [0, 10, 11, 1, 2]);
    for op in appends.into_iter().chain(others) {
        assert_eq!(op.result(), Ok(0));
    }
    fixture.assert_idle();
}

#[test]
fn appends_of_another_context_do_not_change_the_order() {
    let (fixture, other) = (Fixture::new(config(8)), Fixture::new(config(8)));
    let mut driver_task = fixture.running_driver_task();
    let mut elsewhere = other.append(&fixture.file, 10);
    assert!(elsewhere.poll().is_pending());
    let first = start_appends(&fixture, [0, 1]);
    assert!(driver_task.poll().is_pending());
    assert_eq!(fixture.backend.in_flight(), [0]);
    other.backend.complete(10);
    assert_eq!(elsewhere.result(), Ok(0));
    let last = start_appends(&fixture, [2]);
    assert!(driver_task.poll().is_pending());
    assert_eq!(
        fixture.backend.in_flight(),
        [0],
        "the first one is still in flight"
    );
    assert_eq!(fixture.complete_all(&mut driver_task), [0, 1, 2]);
    for op in first.into_iter().chain(last) {
        assert_eq!(op.result(), Ok(0));
    }
    fixture.assert_idle();
    other.assert_idle();
}

#[test]
fn appends_to_different_files_are_in_flight_together() {
    let fixture = Fixture::new(config(8));
    let other_file = open_file();
    let mut driver_task = fixture.running_driver_task();
    let first = start_appends(&fixture, [0, 1]);
    let second = [10, 11].map(|label| {
        let mut append = fixture.append(&other_file, label);
        assert!(append.poll().is_pending());
        append
    });
    assert!(driver_task.poll().is_pending());
    assert_eq!(fixture.backend.in_flight(), [0, 10]);
    fixture.backend.complete(10);
    fixture.signal();
    assert!(driver_task.poll().is_pending());
    assert_eq!(fixture.backend.in_flight(), [0, 11]);
    assert_eq!(fixture.complete_all(&mut driver_task), [0, 11, 1]);
    for op in first.into_iter().chain(second) {
        assert_eq!(op.result(), Ok(0));
    }
}

#[test]
fn a_dropped_append_passes_its_turn_to_the_next_one() {
    // Each of four, in each of its places.
    for dropped in 0..4 {
        for completed in [0, 1] {
            let fixture = Fixture::new(config(8));
            let mut driver_task = fixture.running_driver_task();
            let appends = start_appends(&fixture, 0..4);
            let mut appends: Vec<_> = appends.into_iter().map(Some).collect();
            assert!(driver_task.poll().is_pending());
            if completed == 1 {
                fixture.backend.complete(0);
                fixture.signal(); // 1 has the turn, and is not submitted yet
            }
            appends[dropped] = None;
            let mut done = fixture.complete_all(&mut driver_task);
            assert!(driver_task.poll().is_pending());
            done.extend(fixture.complete_all(&mut driver_task));
            let expected = (completed..4).filter(|&label| {
                let in_flight = label == 0; // completes anyway
                in_flight || label != dropped as i64
            });
            assert_eq!(done, expected.collect::<Vec<_>>(), "{dropped}, {completed}");
            for append in appends.into_iter().flatten() {
                assert_eq!(append.result(), Ok(0));
            }
            fixture.assert_idle();
        }
    }
}

#[test]
fn a_refused_append_passes_its_turn_to_the_next_one() {
    let fixture = Fixture::new(config(8));
    let mut driver_task = fixture.running_driver_task();
    fixture.backend.refuse(1, libc::EBADF);
    let appends = start_appends(&fixture, 0..3);
    assert!(driver_task.poll().is_pending());
    assert_eq!(fixture.complete_all(&mut driver_task), [0, 2]);
    let results: Vec<_> = appends.into_iter().map(|op| op.result()).collect();
    assert_eq!(results, [Ok(0), submit_error(libc::EBADF), Ok(0)]);
    fixture.assert_idle();
}

#[test]
fn an_append_without_room_keeps_its_turn() {
    let fixture = Fixture::new(config(8));
    let mut driver_task = fixture.running_driver_task();
    let mut first = fixture.op(9);
    assert!(first.poll().is_pending());
    fixture.backend.set_room(1);
    let appends = start_appends(&fixture, 0..3);
    assert!(driver_task.poll().is_pending());
    assert_eq!(fixture.backend.in_flight(), [9]);
    assert_eq!(fixture.complete_all(&mut driver_task), [9, 0, 1, 2]);
    for append in appends {
        assert_eq!(append.result(), Ok(0));
    }
    assert_eq!(first.result(), Ok(0));
    fixture.assert_idle();
}

#[test]
fn a_stopping_context_submits_appends_one_after_another() {
    let fixture = Fixture::new(config(4));
    let mut driver_task = fixture.running_driver_task();
    let appends = start_appends(&fixture, 0..6);
    assert!(driver_task.poll().is_pending());
    fixture.stop();
    assert!(driver_task.poll().is_pending());
    assert_eq!(fixture.complete_all(&mut driver_task), [0, 1, 2, 3]);
    for (label, append) in appends.into_iter().enumerate() {
        let expected = if label < 4 { Ok(0) } else { stopped() };
        assert_eq!(append.result(), expected, "{label}");
    }
    fixture.wait_until_gone();
    fixture.assert_idle();
}

#[test]
fn a_stopping_context_turns_away_the_youngest_append_whichever_has_the_turn() {
    let fixture = Fixture::new(config(2));
    let mut driver_task = fixture.running_driver_task();
    let appends = start_appends(&fixture, 0..4);
    assert!(driver_task.poll().is_pending());
    fixture.backend.complete(0);
    fixture.signal(); // 1 has the turn, and is not submitted yet
    fixture.stop();
    assert_eq!(fixture.complete_all(&mut driver_task), []);
    assert!(driver_task.poll().is_pending());
    assert_eq!(fixture.complete_all(&mut driver_task), [1, 2]);
    let results: Vec<_> = appends.into_iter().map(|op| op.result()).collect();
    assert_eq!(results, [Ok(0), Ok(0), Ok(0), stopped()]);
    fixture.wait_until_gone();
    fixture.assert_idle();
}

#[test]
fn a_file_can_be_appended_to_after_a_context_that_ended_with_an_append_in_flight() {
    let fixture = Fixture::new(config(4));
    let file = open_file();
    let mut in_flight = fixture.append(&file, 0);
    assert!(in_flight.poll().is_pending());
    let mut held = fixture.append(&file, 1);
    assert!(held.poll().is_pending());
    fixture.orphan();
    for append in [in_flight, held] {
        assert_eq!(append.result(), stopped());
    }
    let other = Fixture::new(config(4));
    let mut driver_task = other.running_driver_task();
    let mut appends = [0, 1].map(|label| other.append(&file, label));
    for append in &mut appends {
        assert!(append.poll().is_pending());
    }
    assert!(driver_task.poll().is_pending());
    assert_eq!(other.complete_all(&mut driver_task), [0, 1]);
    for append in appends {
        assert_eq!(append.result(), Ok(0));
    }
}

#[test]
fn an_orphaned_context_stops_held_appends_whatever_slots_they_have() {
    // Slots are reused in the reverse order of their release.
    for last_released in [0, 1] {
        let fixture = Fixture::new(config(2));
        let mut ops: Vec<_> = fixture.start([0, 1]).into_iter().map(Some).collect();
        for label in [1 - last_released, last_released] {
            fixture.backend.complete(label);
            let op = ops[label as usize].take().unwrap();
            assert_eq!(op.result(), Ok(0));
        }
        let appends = start_appends(&fixture, [10, 11]);
        assert_eq!(fixture.backend.in_flight(), [10]);
        fixture.orphan();
        for append in appends {
            assert_eq!(append.take_wakes(), 1);
            assert_eq!(append.result(), stopped());
        }
        fixture.wait_until_gone();
        fixture.assert_idle();
    }
}

#[test]
fn contexts_that_share_a_file_do_not_wait_for_each_other() {
    let (fixture, other) = (Fixture::new(config(4)), Fixture::new(config(4)));
    let mut first = fixture.append(&fixture.file, 0);
    assert!(first.poll().is_pending());
    let mut second = other.append(&fixture.file, 1);
    assert!(second.poll().is_pending());
    assert_eq!(other.backend.in_flight(), [1]);
    for (fixture, label) in [(&fixture, 0), (&other, 1)] {
        fixture.backend.complete(label);
        fixture.signal();
    }
    assert_eq!(first.result(), Ok(0));
    assert_eq!(second.result(), Ok(0));
}

/// Labels of appends by file.
type ByFile = BTreeMap<i64, Vec<i64>>;

const FILES: usize = 3;
/// Labels of the appends to file `n` start at `n` times this.
const LABELS_A_FILE: i64 = 1_000_000;

/// Labels that the backend took.
fn submitted<T: ContextTypes<Backend = FakeBackend>>(fixture: &Fixture<T>) -> ByFile {
    let mut submitted = ByFile::new();
    for call in fixture.backend.calls() {
        for label in &call.labels[..call.answer.unwrap_or(0)] {
            let of_file = submitted.entry(label / LABELS_A_FILE).or_default();
            of_file.push(*label);
        }
    }
    submitted
}

fn random_appends<P: SubmitAdvisor>(seed: u64) {
    let mut random = Random::new(seed * 7919 + 1);
    let policy = [SubmitPolicy::Inline, SubmitPolicy::Offload][random.below(2)];
    let capacity = [1, 3, 16][random.below(3)];
    let fixture = Fixture::<LocalTypes<P>>::local(config_with_policy(capacity, policy));
    let files = [(); FILES].map(|()| open_file());
    let mut driver_task = fixture.driver_task();
    let _ = driver_task.poll();
    let mut appends: Vec<(i64, Task<'_, _>)> = Vec::new();
    let (mut admitted, mut dropped) = (ByFile::new(), Vec::new());
    for number in 0..120 {
        match random.below(8) {
            0..=2 => {
                let file = random.below(FILES);
                let label = file as i64 * LABELS_A_FILE + number;
                admitted.entry(file as i64).or_default().push(label);
                let mut append = fixture.append(&files[file], label);
                if append.poll().is_pending() {
                    appends.push((label, append));
                }
            }
            3 if !appends.is_empty() => {
                let (label, append) = appends.swap_remove(random.below(appends.len()));
                drop(append);
                dropped.push(label);
            }
            4 => {
                let _ = driver_task.poll();
            }
            5 if !appends.is_empty() => {
                let index = random.below(appends.len());
                if appends[index].1.poll().is_ready() {
                    drop(appends.swap_remove(index));
                }
            }
            _ => {
                let in_flight = fixture.backend.in_flight();
                if !in_flight.is_empty() {
                    fixture
                        .backend
                        .complete(in_flight[random.below(in_flight.len())]);
                    fixture.signal();
                }
            }
        }
        let mut in_flight = [0; FILES];
        for label in fixture.backend.in_flight() {
            in_flight[(label / LABELS_A_FILE) as usize] += 1;
        }
        assert!(
            in_flight.iter().all(|&appends| appends <= 1),
            "{seed}: {in_flight:?}"
        );
    }
    for _ in 0..200 {
        let _ = driver_task.poll();
        fixture.complete_all(&mut driver_task);
    }
    let submitted = submitted(&fixture);
    for (file, admitted) in &admitted {
        let submitted = submitted.get(file).cloned().unwrap_or_default();
        let expected: Vec<_> = admitted
            .iter()
            .filter(|label| submitted.contains(label) || !dropped.contains(label))
            .copied()
            .collect();
        assert_eq!(submitted, expected, "{seed}, file {file}");
    }
    for (label, append) in appends {
        assert_eq!(append.result(), Ok(0), "{seed}: {label}");
    }
    fixture.assert_idle();
}

#[test]
fn whatever_happens_appends_to_a_file_are_in_order_and_one_is_in_flight_at_a_time() {
    let rounds = if cfg!(miri) { 5 } else { 200 };
    for seed in 0..rounds {
        random_appends::<Adaptive>(seed);
        random_appends::<Plain>(seed);
    }
}
