//! [`BuddyAllocator`]: divides a range of units into blocks of powers of two, and merges them again.
//!
//! The buddy system of Knowlton, "A fast storage allocator" (Communications of the ACM 8(10), 1965). It works
//! on numbers only: [`SizeClassMemory`](super::size_class_memory::SizeClassMemory) has the memory.

use std::io;

/// The free blocks of a range of units. A block of order `k` has `1 << k` units, and starts at a multiple of
/// that. Two neighbours that make a block of the next order are *buddies*.
///
/// A block that returns is kept as it is at first, since the next request is most likely of the same size
/// ([`RecentBlocks`]). The blocks that are kept in this way are merged when no other block is large enough.
pub(super) struct BuddyAllocator {
    /// By order.
    free: Vec<FreeBlocks>,
    /// By order. Neither free nor in use.
    recent: Vec<RecentBlocks>,
    /// Bit `k`: a block of order `k` is free.
    orders: u64,
}

/// From this order on, what a block has beyond the units that were asked for is free, in eighths of the block.
/// Smaller blocks are used whole, because to divide them costs more than the memory is worth.
const TRIMMED_ORDER: u32 = 4;

impl BuddyAllocator {
    /// An allocator of `units` units, all of them free.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(units: u32) -> io::Result<BuddyAllocator> {
        let orders = u32::BITS - units.leading_zeros();
        let free: io::Result<_> = (0..orders).map(|k| FreeBlocks::new(units >> k)).collect();
        let mut allocator = BuddyAllocator {
            free: free?,
            recent: vec![RecentBlocks::default(); orders as usize],
            orders: 0,
        };
        allocator.free_range(0, units);
        Ok(allocator)
    }

    /// Returns how many units a request for `units` takes, at least 1.
    pub(super) fn rounded(units: u32) -> u32 {
        let block = units.next_power_of_two();
        match block.trailing_zeros() < TRIMMED_ORDER {
            true => block,
            false => units.next_multiple_of(block / 8),
        }
    }

    /// Takes `units` units, which [`rounded`](BuddyAllocator::rounded) has returned. Returns the first of
    /// them, a multiple of the next power of two.
    pub(super) fn take(&mut self, units: u32) -> Option<u32> {
        let order = units.next_power_of_two().trailing_zeros() as usize;
        if units.is_power_of_two() {
            if let Some(start) = self.recent.get_mut(order)?.pop() {
                return Some(start);
            }
        }
        let start = match self.take_block(order) {
            Some(start) => start,
            None => {
                self.merge_recent();
                self.take_block(order)?
            }
        };
        self.free_range(start + units, start + (1 << order));
        Some(start)
    }

    /// Returns `units` units from `start`, which [`take`](BuddyAllocator::take) has returned.
    pub(super) fn release(&mut self, start: u32, units: u32) {
        let order = units.trailing_zeros() as usize;
        if !units.is_power_of_two() || !self.recent[order].push(start) {
            self.free_range(start, start + units);
        }
    }

    /// Frees the blocks that are kept as they were returned.
    #[cold]
    fn merge_recent(&mut self) {
        for order in 0..self.recent.len() {
            while let Some(start) = self.recent[order].pop() {
                self.free_block(start, order);
            }
        }
    }

    /// Takes the first free block of this order, or divides a larger one.
    fn take_block(&mut self, order: usize) -> Option<u32> {
        let larger = self.orders >> order;
        if larger == 0 {
            return None;
        }
        let found = order + larger.trailing_zeros() as usize;
        let index = self.free[found].first()?;
        self.remove(index, found);
        let start = index << found;
        for half in order..found {
            self.insert((start >> half) + 1, half); // the second half of the block of order `half + 1`
        }
        Some(start)
    }

    /// Frees all units from `start` to `end`, in the largest blocks that are possible.
    fn free_range(&mut self, mut start: u32, end: u32) {
        while start < end {
            let order = start.trailing_zeros().min((end - start).ilog2());
            self.free_block(start, order as usize);
            start += 1 << order;
        }
    }

    /// Frees a block, after it was merged with its buddy, if that is free, and so on.
    fn free_block(&mut self, start: u32, mut order: usize) {
        let mut index = start >> order;
        while self.free[order].contains(index ^ 1) {
            self.remove(index ^ 1, order);
            index >>= 1;
            order += 1;
        }
        self.insert(index, order);
    }

    fn insert(&mut self, index: u32, order: usize) {
        self.free[order].insert(index);
        self.orders |= 1 << order;
    }

    fn remove(&mut self, index: u32, order: usize) {
        self.free[order].remove(index);
        if self.free[order].is_empty() {
            self.orders &= !(1 << order);
        }
    }
}

/// The blocks of one order that have returned last, the last of them at the end.
#[derive(Clone, Default)]
struct RecentBlocks {
    starts: [u32; RecentBlocks::CAPACITY],
    len: usize,
}

impl RecentBlocks {
    /// Limits the work of [`BuddyAllocator::merge_recent`].
    const CAPACITY: usize = 16;

    /// Returns `false` if there is no room.
    fn push(&mut self, start: u32) -> bool {
        let has_room = self.len < Self::CAPACITY;
        if has_room {
            self.starts[self.len] = start;
            self.len += 1;
        }
        has_room
    }

    fn pop(&mut self) -> Option<u32> {
        self.len = self.len.checked_sub(1)?;
        Some(self.starts[self.len])
    }
}

/// The free blocks of one order, by their index. A bit of the first row is a block; a bit of each further row
/// is a word of the row before that is not 0. The last row has one word.
struct FreeBlocks {
    rows: Vec<Vec<u64>>,
}

impl FreeBlocks {
    /// A set of up to `count` blocks, at least 1, none of them free.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    fn new(count: u32) -> io::Result<FreeBlocks> {
        let mut rows = Vec::new();
        let mut words = count as usize;
        loop {
            words = words.div_ceil(64);
            let mut row = Vec::new();
            let reserved = row.try_reserve_exact(words);
            reserved.map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
            row.resize(words, 0);
            rows.push(row);
            if words <= 1 {
                return Ok(FreeBlocks { rows });
            }
        }
    }

    fn insert(&mut self, index: u32) {
        let mut index = index as usize;
        for row in &mut self.rows {
            let word = &mut row[index / 64];
            let was = *word;
            *word |= 1 << (index % 64);
            if was != 0 {
                return;
            }
            index /= 64;
        }
    }

    fn remove(&mut self, index: u32) {
        let mut index = index as usize;
        for row in &mut self.rows {
            let word = &mut row[index / 64];
            *word &= !(1 << (index % 64));
            if *word != 0 {
                return;
            }
            index /= 64;
        }
    }

    /// `false` for an index past the end: the buddy of the last block may be incomplete.
    fn contains(&self, index: u32) -> bool {
        let word = self.rows[0].get(index as usize / 64);
        word.is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    fn is_empty(&self) -> bool {
        self.rows[self.rows.len() - 1][0] == 0
    }

    /// The first one, so that blocks at the end, whose memory may never have been used, stay free.
    fn first(&self) -> Option<u32> {
        let mut index = 0;
        for row in self.rows.iter().rev() {
            let word = row[index];
            if word == 0 {
                return None; // only the last row, since the others have a bit for this word
            }
            index = index * 64 + word.trailing_zeros() as usize;
        }
        Some(index as u32)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// An allocator, and the ranges that are in use: start and units.
    struct Model {
        allocator: BuddyAllocator,
        total: u32,
        used: BTreeMap<u32, u32>,
    }

    impl Model {
        fn new(total: u32) -> Model {
            Model {
                allocator: BuddyAllocator::new(total).unwrap(),
                total,
                used: BTreeMap::new(),
            }
        }

        fn take(&mut self, units: u32) -> bool {
            let units = BuddyAllocator::rounded(units);
            let Some(start) = self.allocator.take(units) else {
                let largest_gap = self.largest_block();
                assert!(
                    largest_gap < units.next_power_of_two(),
                    "a block of {largest_gap} units is free, but {units} units are refused"
                );
                return false;
            };
            assert_eq!(start % units.next_power_of_two(), 0);
            assert!(start + units <= self.total);
            let before = self.used.range(..start + units).next_back();
            assert!(before.is_none_or(|(other, len)| other + len <= start));
            self.used.insert(start, units);
            true
        }

        /// The size of the largest aligned block in which nothing is in use.
        fn largest_block(&self) -> u32 {
            let is_free = |start: u32, end: u32| {
                let before = self.used.range(..end).next_back();
                before.is_none_or(|(other, len)| other + len <= start)
            };
            let sizes = (0..=self.total.ilog2()).rev().map(|order| 1 << order);
            let mut free = sizes.filter(|size| {
                let starts = (0..self.total).step_by(*size as usize);
                let mut whole = starts.filter(|start| start + size <= self.total);
                whole.any(|start| is_free(start, start + size))
            });
            free.next().unwrap_or(0)
        }

        fn release(&mut self, index: usize) {
            let index = index % self.used.len().max(1);
            if let Some((&start, &units)) = self.used.iter().nth(index) {
                self.used.remove(&start);
                self.allocator.release(start, units);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 200 }, failure_persistence: None, ..Default::default() })]

        #[test]
        fn blocks_do_not_overlap_and_nothing_is_lost(
            total in 1_u32..300,
            steps in prop::collection::vec((any::<bool>(), 1_u32..80, any::<usize>()), 0..200),
        ) {
            let mut model = Model::new(total);
            for (takes, units, index) in steps {
                match takes {
                    true => drop(model.take(units)),
                    false => model.release(index),
                }
            }
            while !model.used.is_empty() {
                model.release(0);
            }
            let largest = 1 << total.ilog2();
            prop_assert!(model.take(largest), "all blocks are merged again");
        }
    }

    #[test]
    fn large_sets_of_blocks_have_several_rows() {
        let mut blocks = FreeBlocks::new(300_000).unwrap();
        assert!(blocks.is_empty() && blocks.first().is_none());
        for index in [299_999, 70_000, 64, 63] {
            blocks.insert(index);
            assert!(blocks.contains(index) && !blocks.contains(index ^ 1));
            assert_eq!(blocks.first(), Some(index));
        }
        for (index, next) in [(63, Some(64)), (64, Some(70_000)), (70_000, Some(299_999))] {
            blocks.remove(index);
            assert_eq!(blocks.first(), next);
        }
        blocks.remove(299_999);
        assert!(blocks.is_empty() && !blocks.contains(1 << 30));
    }

    #[test]
    fn large_requests_are_rounded_to_eighths_of_their_block() {
        let rounded = [1, 3, 7, 9, 16, 17, 33, 250, 257].map(BuddyAllocator::rounded);
        assert_eq!(rounded, [1, 4, 8, 10, 16, 20, 40, 256, 320]);
    }

    #[test]
    fn a_returned_block_is_taken_again_first() {
        let mut allocator = BuddyAllocator::new(64).unwrap();
        let taken = [(); 3].map(|()| allocator.take(1).unwrap());
        assert_eq!(taken, [0, 1, 2]);
        allocator.release(1, 1);
        allocator.release(0, 1);
        assert_eq!(allocator.take(1), Some(0));
    }
}
