//! [`check`]: what is true of a driver whenever its lock is free.

use std::collections::HashSet;

use super::driver_fixture::Fixture;
use crate::backend::fake::FakeBackend;
use crate::config::ContextTypes;
use crate::op::IoBuffer;
use crate::slab::SlotState;

/// Asserts that every slot is in exactly one place, that the counts are right, and that a slot owns
/// nothing that its state does not need.
pub(super) fn check<T: ContextTypes<Backend = FakeBackend>>(fixture: &Fixture<T>) {
    let entered = fixture.entered();
    let core = entered.lock();
    let slots = &core.slots;
    let (free, queue) = (slots.free_list(), slots.queue());
    let held: Vec<_> = core.append_order.held();
    let held_indices: HashSet<_> = held.iter().map(|(_, index)| *index).collect();
    assert_eq!(held_indices.len(), held.len(), "held twice");
    assert_eq!(held.len(), core.append_order.len());
    assert_eq!(queue.len(), slots.queued());
    let (free, queue) = (HashSet::from_iter(free), HashSet::from_iter(queue));
    let (mut in_flight, mut abandoned, mut unsignalled) = (0, 0, 0);
    let mut turns = HashSet::new();
    for (key, slot) in slots.iter() {
        let (index, state) = (key.index, slot.state);
        let places: [(&HashSet<u32>, bool); 3] = [
            (&free, state == SlotState::Free),
            (&queue, state == SlotState::Queued),
            (&held_indices, state == SlotState::Held),
        ];
        for (place, belongs) in places {
            assert_eq!(place.contains(&index), belongs, "{index}: {slot:?}");
        }
        in_flight += usize::from(slot.is_in_flight());
        abandoned += usize::from(state == SlotState::Abandoned);
        unsignalled += usize::from(slot.unsignalled);
        let waits = matches!(state, SlotState::InFlight) || slot.is_waiting();
        assert!(waits || slot.waker.is_none(), "{slot:?}");
        assert!(slot.is_in_flight() || !slot.unsignalled, "{slot:?}");
        let is_done = matches!(state, SlotState::Free | SlotState::Completed(_));
        assert!(!is_done || slot.file.is_none(), "{slot:?}");
        assert!(!slot.is_waiting() || slot.file.is_some(), "{slot:?}");
        if slot.has_append_turn {
            assert!(!is_done && state != SlotState::Held, "{slot:?}");
            assert!(turns.insert(slot.file_id), "two have the turn: {slot:?}");
            assert!(core.append_order.is_taken(slot.file_id));
        }
        let is_free = state == SlotState::Free;
        assert!(
            !is_free || matches!(slot.buffer, IoBuffer::None),
            "{slot:?}"
        );
    }
    for (file, index) in &held {
        assert!(turns.contains(file), "{index} waits for nobody");
    }
    assert_eq!(in_flight, slots.in_flight());
    assert_eq!(abandoned, slots.abandoned());
    assert_eq!(unsignalled, slots.unsignalled());
    assert!(in_flight <= core.config.capacity);
    if !core.config.wait_for_slot {
        assert!(in_flight + core.waiting() <= core.config.capacity);
    }
}
