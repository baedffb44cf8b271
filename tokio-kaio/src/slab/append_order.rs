//! [`AppendOrder`]: keeps at most one append to each file in flight.
//!
//! Why: the kernel determines the offset of an append, the length of the file, at submission. Some file
//! systems (XFS) extend the file only at completion. So of two appends in flight at once, one overwrites the
//! other: in a test, 300 of 320 appends were lost, and all were reported as successful. Appends of other
//! contexts are not known here, and are not waited for.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// The appends that wait behind another append, by file. A file has an entry while one of its appends has the
/// *turn*, which means that the append is queued or in flight. The held appends are in order of admission.
#[derive(Debug)]
pub(crate) struct AppendOrder<F> {
    held: HashMap<F, VecDeque<u32>>,
    /// Number of held appends of all files.
    len: usize,
}

impl<F> Default for AppendOrder<F> {
    fn default() -> AppendOrder<F> {
        AppendOrder {
            held: HashMap::new(),
            len: 0,
        }
    }
}

impl<F: Eq + Hash> AppendOrder<F> {
    /// Takes the turn of `file`. Returns `false` if another append has the turn.
    pub(crate) fn take_turn(&mut self, file: F) -> bool {
        let is_free = !self.held.contains_key(&file);
        if is_free {
            self.held.insert(file, VecDeque::new());
        }
        is_free
    }

    /// Returns whether an append has the turn of `file`, so that a new append must be held.
    pub(crate) fn is_taken(&self, file: F) -> bool {
        self.held.contains_key(&file)
    }

    /// Holds the append in slot `index`.
    pub(crate) fn hold(&mut self, file: F, index: u32) {
        self.held.entry(file).or_default().push_back(index);
        self.len += 1;
    }

    /// Passes the turn to the oldest held append of `file`, and returns it. Called when the append with the
    /// turn is done.
    pub(crate) fn pass_turn(&mut self, file: F) -> Option<u32> {
        let next = self.held.get_mut(&file)?.pop_front();
        match next {
            Some(_) => self.len -= 1,
            None => drop(self.held.remove(&file)),
        }
        next
    }

    /// Removes the append in slot `index` from the held appends.
    pub(crate) fn remove(&mut self, file: F, index: u32) {
        let Some(held) = self.held.get_mut(&file) else {
            return;
        };
        if let Some(position) = held.iter().position(|&other| other == index) {
            held.remove(position);
            self.len -= 1;
        }
    }

    /// Removes and returns the last held append of some file.
    pub(crate) fn pop_last(&mut self) -> Option<u32> {
        let last = self.held.values_mut().find_map(VecDeque::pop_back)?;
        self.len -= 1;
        Some(last)
    }

    /// Returns the number of held appends.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
impl<F: Copy + Eq + Hash> AppendOrder<F> {
    /// Returns the held appends, by file.
    pub(crate) fn held(&self) -> Vec<(F, u32)> {
        let files = self.held.iter();
        files
            .flat_map(|(&file, held)| held.iter().map(move |&index| (file, index)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_append_of_a_file_has_the_turn() {
        let mut order = AppendOrder::default();
        assert!(!order.is_taken('a'));
        assert!(order.take_turn('a') && !order.take_turn('a'));
        assert!(order.is_taken('a') && !order.is_taken('b'));
        assert!(order.take_turn('b'));
    }

    #[test]
    fn the_turn_passes_in_the_order_of_admission_and_then_is_free() {
        let mut order = AppendOrder::default();
        order.take_turn('a');
        order.take_turn('b');
        for index in [7, 3, 5] {
            order.hold('a', index);
        }
        order.hold('b', 9);
        assert_eq!(order.len(), 4);
        let passed: Vec<_> = (0..4).map(|_| order.pass_turn('a')).collect();
        assert_eq!(passed, [Some(7), Some(3), Some(5), None]);
        assert!(!order.is_taken('a') && order.is_taken('b'));
        assert_eq!(order.len(), 1);
    }

    #[test]
    fn a_held_append_can_be_removed_from_any_place() {
        for removed in 0..3 {
            let mut order = AppendOrder::default();
            order.take_turn('a');
            (0..3).for_each(|index| order.hold('a', index));
            order.remove('a', removed);
            assert_eq!(order.len(), 2);
            let mut rest: Vec<_> = (0..3).collect();
            rest.retain(|&index| index != removed);
            let passed: Vec<_> = (0..2).flat_map(|_| order.pass_turn('a')).collect();
            assert_eq!(passed, rest);
            assert!(order.is_taken('a'), "the last one still has the turn");
            assert_eq!(order.pass_turn('a'), None);
            assert!(!order.is_taken('a'));
        }
    }

    #[test]
    fn appends_that_are_not_held_are_not_removed() {
        let mut order = AppendOrder::default();
        order.take_turn('a');
        order.hold('a', 1);
        order.remove('a', 2);
        order.remove('b', 1);
        assert_eq!((order.len(), order.held()), (1, vec![('a', 1)]));
        assert_eq!(order.pass_turn('b'), None);
    }

    #[test]
    fn the_last_append_of_some_file_can_be_taken_out() {
        let mut order = AppendOrder::default();
        order.take_turn('a');
        order.take_turn('b');
        assert_eq!(order.pop_last(), None);
        (0..3).for_each(|index| order.hold('b', index));
        let taken: Vec<_> = (0..4).map(|_| order.pop_last()).collect();
        assert_eq!(taken, [Some(2), Some(1), Some(0), None]);
        assert_eq!(order.len(), 0);
        assert!(order.is_taken('a') && order.is_taken('b'));
    }
}
