//! [`BlockSet`]: a set of block numbers, as ranges.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of block numbers. Its memory is in proportion to the number of ranges.
#[derive(Clone, Debug, Default)]
pub(super) struct BlockSet {
    /// The end of each range, by its start. Ranges neither touch nor overlap.
    ranges: BTreeMap<u64, u64>,
    len: u64,
}

impl BlockSet {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    #[cfg(test)]
    pub(super) fn ranges(&self) -> usize {
        self.ranges.len()
    }

    pub(super) fn contains(&self, block: u64) -> bool {
        let before = self.ranges.range(..=block).next_back();
        before.is_some_and(|(_, &end)| block < end)
    }

    /// How many blocks of `range` are in the set.
    pub(super) fn count(&self, range: Range<u64>) -> u64 {
        self.overlaps(&range)
            .map(|(start, end)| end.min(range.end) - start.max(range.start))
            .sum()
    }

    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.remove(range.clone());
        self.len += range.end - range.start;
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&before, &before_end)) = self.ranges.range(..start).next_back() {
            if before_end == start {
                start = before;
            }
        }
        if let Some(after_end) = self.ranges.remove(&end) {
            end = after_end;
        }
        self.ranges.insert(start, end);
    }

    pub(super) fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let overlaps: Vec<(u64, u64)> = self.overlaps(&range).collect();
        for (start, end) in overlaps {
            self.ranges.remove(&start);
            self.len -= end.min(range.end) - start.max(range.start);
            if start < range.start {
                self.ranges.insert(start, range.start);
            }
            if range.end < end {
                self.ranges.insert(range.end, end);
            }
        }
    }

    /// The ranges of the set that overlap `range`, whole.
    fn overlaps(&self, range: &Range<u64>) -> impl Iterator<Item = (u64, u64)> + use<'_> {
        let first = match self.ranges.range(..=range.start).next_back() {
            Some((&start, &end)) if range.start < end => start,
            _ => range.start,
        };
        let end = range.end.max(first);
        self.ranges
            .range(first..end)
            .map(|(&start, &end)| (start, end))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

        #[test]
        fn a_block_set_is_a_set_of_numbers(
            changes in prop::collection::vec((any::<bool>(), 0..40u64, 0..12u64), 1..40),
        ) {
            let mut set = BlockSet::default();
            let mut expected = BTreeSet::new();
            for (inserts, start, len) in changes {
                let range = start..start + len;
                if inserts {
                    set.insert(range.clone());
                    expected.extend(range);
                } else {
                    set.remove(range.clone());
                    expected.retain(|block| !range.contains(block));
                }
                prop_assert_eq!(set.len(), expected.len() as u64);
                for block in 0..60 {
                    prop_assert_eq!(set.contains(block), expected.contains(&block));
                }
                prop_assert_eq!(set.count(3..17), expected.range(3..17).count() as u64);
                let ranges: Vec<_> = set.ranges.iter().collect();
                for pair in ranges.windows(2) {
                    prop_assert!(pair[0].1 < pair[1].0, "{:?}", ranges);
                }
            }
        }
    }
}
