//! [`NameLog`]: changes of names that are not durable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::disk_config::NameDurability;
use super::disk_request::Inode;
use crate::simulation::seeded_rng::SeededRng;

/// The changes of names that are not durable, in order.
///
/// An operation survives a power cut whole or not at all: both names of a rename change together. It depends
/// on earlier ones, and survives only with them:
///
/// - on the last operation on each of its names, so that each name is at a point of its history;
/// - if it removes a directory, on all operations in the directory, so that the directory was empty;
/// - if it moves a directory, on the last operation that moved one, so that no directory is inside itself;
/// - on the one before it, whatever its names, with [`NameDurability::Journal`].
#[derive(Clone, Debug, Default)]
pub(super) struct NameLog {
    operations: BTreeMap<u64, NameOperation>,
    /// The number of the last operation. The first is 1.
    last: u64,
    last_directory_move: u64,
}

/// A change of one name, or of two at once.
#[derive(Clone, Debug)]
pub(super) struct NameOperation {
    pub(super) changes: Vec<NameChange>,
    depends_on: Vec<u64>,
}

/// A name that refers to another file than before, or to none.
#[derive(Clone, Debug)]
pub(super) struct NameChange {
    pub(super) directory: Inode,
    pub(super) name: Arc<str>,
    pub(super) before: Option<Inode>,
    pub(super) after: Option<Inode>,
}

/// Operations that the log keeps. With more, the oldest becomes durable, as journals are committed now and
/// then.
const MAX_OPERATIONS: usize = 1 << 16;

impl NameLog {
    /// The number of the last operation. 0: there was none.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Adds an operation, and returns its number. `depends_on` may have numbers of durable operations, and 0.
    pub(super) fn push(
        &mut self,
        changes: Vec<NameChange>,
        mut depends_on: Vec<u64>,
        moves_directory: bool,
        order: NameDurability,
    ) -> u64 {
        if order == NameDurability::Journal {
            depends_on.push(self.last);
        }
        self.last += 1;
        if moves_directory {
            depends_on.push(self.last_directory_move);
            self.last_directory_move = self.last;
        }
        depends_on.retain(|number| self.operations.contains_key(number));
        let operation = NameOperation {
            changes,
            depends_on,
        };
        self.operations.insert(self.last, operation);
        self.last
    }

    /// The oldest operation, if there are too many.
    pub(super) fn excess(&self) -> Option<u64> {
        let is_full = self.operations.len() > MAX_OPERATIONS;
        is_full.then(|| *self.operations.first_key_value().expect("it is full").0)
    }

    /// Removes operations, and those that they depend on, because they are durable. Returns them in order.
    pub(super) fn take_durable(
        &mut self,
        numbers: impl IntoIterator<Item = u64>,
    ) -> Vec<(u64, NameOperation)> {
        let mut durable = BTreeSet::new();
        let mut next: Vec<u64> = numbers.into_iter().collect();
        while let Some(number) = next.pop() {
            let Some(operation) = self.operations.get(&number) else {
                continue;
            };
            if durable.insert(number) {
                next.extend(&operation.depends_on);
            }
        }
        let take = |number| Some((number, self.operations.remove(&number)?));
        durable.into_iter().filter_map(take).collect()
    }

    /// The operations that survive a power cut, in order.
    pub(super) fn survive(
        &self,
        order: NameDurability,
        rng: &mut SeededRng,
    ) -> Vec<&NameOperation> {
        let count = self.operations.len() as u64;
        if order == NameDurability::Journal {
            let count = rng.below(count + 1) as usize;
            return self.operations.values().take(count).collect();
        }
        let survives_of_16 = rng.below(17);
        let mut survivors = BTreeSet::new();
        for (number, operation) in &self.operations {
            let mut depends_on = operation.depends_on.iter();
            let is_pending = |number: &&u64| self.operations.contains_key(number);
            let is_possible = depends_on
                .by_ref()
                .filter(is_pending)
                .all(|number| survivors.contains(number));
            if is_possible && rng.chance(survives_of_16) {
                survivors.insert(*number);
            }
        }
        let survivors = survivors.iter();
        survivors.map(|number| &self.operations[number]).collect()
    }
}
