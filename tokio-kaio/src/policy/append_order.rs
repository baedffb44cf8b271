//! [`AppendOrder`]: one append to a file in flight at a time.
//!
//! Why: the kernel takes the length of the file for the place of an append when the append is submitted.
//! Some file systems (XFS) make the file longer only when it completes, so of two appends in flight
//! together one is lost: 300 of 320 were, each reported as a success. Appends of other contexts are
//! unknown here, and not waited for.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Which appends wait for another one, by file. A file has an entry while one of its appends has the
/// *turn*: it is queued or in flight. Those held behind it are in the order of their admission.
#[derive(Debug)]
pub(crate) struct AppendOrder<F> {
    held: HashMap<F, VecDeque<u32>>,
    /// Number of appends that are held, of all files.
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
    /// Gives the turn on `file` to an append, if no other one has it.
    pub(crate) fn take_turn(&mut self, file: F) -> bool {
        let is_free = !self.held.contains_key(&file);
        if is_free {
            self.held.insert(file, VecDeque::new());
        }
        is_free
    }

    /// Whether an append to `file` has to be held.
    pub(crate) fn is_taken(&self, file: F) -> bool {
        self.held.contains_key(&file)
    }

    /// Holds the append in slot `index`.
    pub(crate) fn hold(&mut self, file: F, index: u32) {
        self.held.entry(file).or_default().push_back(index);
        self.len += 1;
    }

    /// The append with the turn is done: passes the turn to the oldest one that is held, which is
    /// returned.
    pub(crate) fn pass_turn(&mut self, file: F) -> Option<u32> {
        let next = self.held.get_mut(&file)?.pop_front();
        match next {
            Some(_) => self.len -= 1,
            None => drop(self.held.remove(&file)),
        }
        next
    }

    /// The append in slot `index` is held no longer.
    pub(crate) fn remove(&mut self, file: F, index: u32) {
        let Some(held) = self.held.get_mut(&file) else {
            return;
        };
        if let Some(position) = held.iter().position(|&other| other == index) {
            held.remove(position);
            self.len -= 1;
        }
    }

    /// Takes out an append behind which none is held.
    pub(crate) fn pop_last(&mut self) -> Option<u32> {
        let last = self.held.values_mut().find_map(VecDeque::pop_back)?;
        self.len -= 1;
        Some(last)
    }

    /// Number of appends that are held.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}
