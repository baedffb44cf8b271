//! The slab of slots: free list, queue, generations, attempts, growth.

use crate::backend::OpCode;
use crate::driver::slot::{SlotKey, SlotState};
use crate::driver::slots::Slots;
use crate::op::{FileId, IoBuffer, IoOp, IoRequest, Outcome};
use crate::policy::SubmitPlan;
use crate::{AlignedBuf, LockedBuf};

const FILE: FileId = FileId::borrowed(3);

fn allocate(slots: &mut Slots) -> SlotKey {
    let op = IoOp::new(OpCode::Fsync);
    slots.allocate(&op, FILE, None, &mut IoBuffer::None).0
}

fn queue_new(slots: &mut Slots, count: usize) -> Vec<u32> {
    let new = |_| {
        let index = allocate(slots).index;
        slots.enqueue(index);
        index
    };
    (0..count).map(new).collect()
}

fn launch(slots: &mut Slots, index: u32) -> u64 {
    slots.launch(index, SubmitPlan::INLINE, 3).user_data
}

fn complete(slots: &mut Slots, index: u32) {
    slots.leave_flight(index);
    slots.at(index).state = SlotState::Completed(Outcome::Completed(0));
}

#[test]
fn a_new_slab_has_a_free_slot_for_each_of_its_capacity() {
    let slots = Slots::new(4, false);
    let mut free = slots.free_list();
    free.sort_unstable();
    assert_eq!(free, [0, 1, 2, 3]);
    assert_eq!((slots.queued(), slots.in_flight()), (0, 0));
    assert_eq!(slots.queue(), []);
}

#[test]
fn a_freed_slot_is_the_next_one_to_be_allocated() {
    let mut slots = Slots::new(4, false);
    let keys = [(); 3].map(|()| allocate(&mut slots));
    assert_eq!(slots.free_list().len(), 1);
    for key in keys {
        slots.free(key.index);
        assert_eq!(slots.free_list()[0], key.index);
    }
    let again = [(); 3].map(|()| allocate(&mut slots).index);
    assert_eq!(again, [keys[2].index, keys[1].index, keys[0].index]);
}

#[test]
fn the_slab_grows_when_no_slot_is_free() {
    let mut slots = Slots::new(2, false);
    let mut indices = queue_new(&mut slots, 9);
    assert_eq!(slots.queue(), indices);
    assert_eq!(
        slots.queued() + slots.free_list().len(),
        slots.indices().len()
    );
    indices.sort_unstable();
    indices.dedup();
    assert_eq!(indices.len(), 9, "each has its own slot");
}

#[test]
fn a_slab_for_no_slots_grows_too() {
    let mut slots = Slots::new(0, false);
    assert_eq!(slots.free_list(), []);
    assert_eq!(queue_new(&mut slots, 3).len(), 3);
}

#[test]
fn the_queue_is_first_in_first_out() {
    let mut slots = Slots::new(4, false);
    let indices = queue_new(&mut slots, 4);
    let popped: Vec<_> = (0..5).map(|_| slots.pop_queued()).collect();
    let mut expected: Vec<_> = indices.into_iter().map(Some).collect();
    expected.push(None);
    assert_eq!(popped, expected);
    assert_eq!((slots.queued(), slots.last_queued()), (0, None));
}

#[test]
fn a_request_can_go_to_the_front_of_the_queue() {
    let mut slots = Slots::new(4, false);
    let [first, second, third] = [(); 3].map(|()| allocate(&mut slots).index);
    slots.enqueue_first(second); // of an empty queue
    slots.enqueue(third);
    slots.enqueue_first(first);
    assert_eq!(slots.queue(), [first, second, third]);
    assert_eq!(slots.last_queued(), Some(third));
}

#[test]
fn a_request_can_leave_the_queue_from_any_place() {
    for place in 0..4 {
        let mut slots = Slots::new(4, false);
        let mut indices = queue_new(&mut slots, 4);
        let removed = indices.remove(place);
        slots.dequeue(removed);
        assert_eq!(slots.queue(), indices);
        assert_eq!(
            (slots.queued(), slots.last_queued()),
            (3, indices.last().copied())
        );
        slots.enqueue(removed);
        indices.push(removed);
        assert_eq!(slots.queue(), indices);
    }
}

#[test]
fn the_only_request_can_leave_the_queue() {
    let mut slots = Slots::new(1, false);
    let indices = queue_new(&mut slots, 1);
    slots.dequeue(indices[0]);
    assert_eq!((slots.queue(), slots.queued()), (vec![], 0));
    assert_eq!((slots.pop_queued(), slots.last_queued()), (None, None));
}

#[test]
fn a_key_finds_nothing_after_its_slot_was_freed_or_reused() {
    let mut slots = Slots::new(1, false);
    let first = allocate(&mut slots);
    launch(&mut slots, first.index);
    assert!(slots.get(first).is_some());
    complete(&mut slots, first.index);
    let mut buffer = IoBuffer::None;
    let outcome = slots.take_completed(first, &mut buffer);
    assert_eq!(outcome, Some(Outcome::Completed(0)));
    assert!(slots.get(first).is_none(), "free");
    assert_eq!(slots.take_completed(first, &mut buffer), None);

    let second = allocate(&mut slots);
    assert_eq!(second.index, first.index);
    assert_eq!(slots.key(second.index), second);
    launch(&mut slots, second.index);
    complete(&mut slots, second.index);
    assert!(slots.get(first).is_none(), "reused");
    assert_eq!(slots.take_completed(first, &mut buffer), None);
    assert!(slots.take_completed(second, &mut buffer).is_some());
}

#[test]
fn keys_outside_the_slab_find_nothing() {
    let mut slots = Slots::new(1, false);
    for index in [1, u32::MAX] {
        let key = SlotKey {
            index,
            generation: 0,
        };
        assert!(slots.get(key).is_none());
        assert_eq!(slots.find_in_flight(index.into()), None);
    }
}

#[test]
fn generations_wrap() {
    let mut slots = Slots::new(1, false);
    let old = allocate(&mut slots);
    slots.at(old.index).generation = u32::MAX;
    let last = slots.key(old.index);
    slots.free(old.index);
    let next = allocate(&mut slots);
    assert_eq!(next.generation, 0);
    assert!(slots.get(last).is_none() && slots.get(next).is_some());
}

#[test]
fn user_data_names_one_submission_of_a_request_in_flight() {
    let mut slots = Slots::new(1, false);
    let index = allocate(&mut slots).index;
    let queued = slots.at(index).user_data(index);
    assert_eq!(slots.find_in_flight(queued), None, "not launched");
    let first = launch(&mut slots, index);
    assert_eq!(slots.find_in_flight(first), Some(index));
    let second = slots.relaunch(index, 3).user_data;
    assert_ne!(first, second);
    assert_eq!(slots.find_in_flight(first), None, "an earlier submission");
    assert_eq!(slots.find_in_flight(second), Some(index));
    slots.abandon(index);
    assert_eq!(slots.find_in_flight(second), Some(index), "abandoned");
    slots.leave_flight(index);
    slots.free(index);
    assert_eq!(slots.find_in_flight(second), None, "free");

    allocate(&mut slots);
    let third = launch(&mut slots, index);
    for earlier in [first, second] {
        assert_ne!(third, earlier);
        assert_eq!(slots.find_in_flight(earlier), None, "reused");
    }
    complete(&mut slots, index);
    assert_eq!(slots.find_in_flight(third), None, "completed");
}

#[test]
fn attempts_wrap() {
    let mut slots = Slots::new(1, false);
    let index = allocate(&mut slots).index;
    slots.at(index).attempt = u32::MAX;
    let user_data = launch(&mut slots, index);
    assert_eq!(user_data, u64::from(index));
    assert_eq!(slots.find_in_flight(user_data), Some(index));
}

#[test]
fn requests_in_flight_are_counted_by_kind() {
    let mut slots = Slots::new(3, false);
    let indices = [(); 3].map(|()| allocate(&mut slots).index);
    let entries = indices.map(|index| slots.launch(index, SubmitPlan::INLINE, 3));
    assert!(slots.mark_unsignalled(&entries[..2]));
    assert!(slots.mark_unsignalled(&entries[..1]), "known already");
    slots.abandon(indices[0]);
    let counts = |slots: &Slots| (slots.in_flight(), slots.unsignalled(), slots.abandoned());
    assert_eq!(counts(&slots), (3, 2, 1));
    slots.relaunch(indices[1], 3); // the pool's submission is signalled
    assert_eq!(counts(&slots), (3, 1, 1));
    assert!(slots.leave_flight(indices[0]), "abandoned");
    slots.free(indices[0]);
    assert!(!slots.leave_flight(indices[2]));
    slots.free(indices[2]);
    assert_eq!(counts(&slots), (1, 0, 0));
    assert!(
        !slots.is_any_in_flight(&entries),
        "the one in flight was relaunched"
    );
    let relaunched = slots.relaunch(indices[1], 3);
    assert!(slots.is_any_in_flight(&[entries[0], relaunched]));
}

#[test]
fn a_slot_takes_the_buffer_and_gives_it_back_or_keeps_it() {
    let mut slots = Slots::new(1, false);
    let op = IoOp {
        nbytes: 8,
        ..IoOp::new(OpCode::Read)
    };
    for abandoned in [false, true] {
        let mut source: LockedBuf = AlignedBuf::new(8).unwrap();
        let (mut request, buffer_return) = IoRequest::read(op, &mut source).unwrap();
        let (key, slot) = slots.allocate(&request.op, FILE, None, &mut request.buffer);
        assert!(matches!(slot.buffer, IoBuffer::Exclusive(_)));
        assert!(matches!(request.buffer, IoBuffer::None));
        launch(&mut slots, key.index);
        let mut memory = IoBuffer::None;
        if abandoned {
            memory = slots.abandon(key.index);
            assert!(matches!(memory, IoBuffer::Replacement(_)));
            slots.leave_flight(key.index);
            assert!(matches!(slots.free(key.index), IoBuffer::Exclusive(_)));
        } else {
            complete(&mut slots, key.index);
            slots.take_completed(key, &mut memory);
            assert!(matches!(memory, IoBuffer::Exclusive(_)));
        }
        assert!(matches!(slots.at(key.index).buffer, IoBuffer::None));
        buffer_return.give_back(memory);
        assert_eq!(source.size(), 8);
    }
}
