//! [`RangePlan`]: the reads that ranges are merged to.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::ops::Range;

use super::coalesce::Coalesce;

/// The reads for ranges, in the order of their offsets.
#[derive(Debug, Default)]
pub(super) struct RangePlan {
    pub(super) reads: VecDeque<PlannedRead>,
    /// The indices of the ranges of all reads, those of a read together.
    members: Vec<usize>,
}

/// One read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlannedRead {
    /// Whole blocks of the file.
    pub(super) blocks: Range<u64>,
    /// Where its ranges are in [`RangePlan::members`].
    members: Range<usize>,
}

impl PlannedRead {
    pub(super) fn len(&self) -> u64 {
        self.blocks.end - self.blocks.start
    }
}

impl RangePlan {
    /// Merges ranges. `blocks` has, for each range, the blocks that contain it; an empty one needs no read.
    pub(super) fn new(blocks: &[Range<u64>], coalesce: &Coalesce) -> RangePlan {
        let needed = (0..blocks.len()).filter(|&index| !blocks[index].is_empty());
        let mut members: Vec<usize> = needed.collect();
        // A long range comes before those that it contains.
        members.sort_by_key(|&index| (blocks[index].start, Reverse(blocks[index].end), index));
        let mut reads: VecDeque<PlannedRead> = VecDeque::new();
        for (position, &index) in members.iter().enumerate() {
            let next = &blocks[index];
            match reads.back_mut() {
                Some(read) if is_shared(&read.blocks, next, coalesce) => {
                    read.blocks.end = read.blocks.end.max(next.end);
                    read.members.end = position + 1;
                }
                _ => reads.push_back(PlannedRead {
                    blocks: next.clone(),
                    members: position..position + 1,
                }),
            }
        }
        RangePlan { reads, members }
    }

    /// Returns the indices of the ranges of `read`.
    pub(super) fn members(&self, read: &PlannedRead) -> &[usize] {
        &self.members[read.members.clone()]
    }
}

/// Returns whether `next`, which does not start before `read`, is read together with it.
fn is_shared(read: &Range<u64>, next: &Range<u64>, coalesce: &Coalesce) -> bool {
    let end = read.end.max(next.end);
    // A range that is contained costs nothing, however long the read is.
    end == read.end
        || next.start.saturating_sub(read.end) <= coalesce.max_gap
            && end - read.start <= coalesce.max_read
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The reads, with the indices of their ranges.
    fn planned(blocks: &[Range<u64>], coalesce: Coalesce) -> Vec<(Range<u64>, Vec<usize>)> {
        let plan = RangePlan::new(blocks, &coalesce);
        let reads = plan.reads.iter();
        let with_members = |read: &PlannedRead| (read.blocks.clone(), plan.members(read).to_vec());
        reads.map(with_members).collect()
    }

    #[test]
    fn neighbours_are_merged_up_to_a_gap_and_a_size() {
        let coalesce = Coalesce::new().max_gap(10).max_read(100);
        assert_eq!(
            planned(&[50..60, 0..10, 20..30, 71..80, 5..5], coalesce),
            [(0..30, vec![1, 2]), (50..60, vec![0]), (71..80, vec![3])]
        );
        assert_eq!(
            planned(&[0..60, 60..101], coalesce),
            [(0..60, vec![0]), (60..101, vec![1])]
        );
        let apart = coalesce.max_gap(0);
        assert_eq!(
            planned(&[0..10, 10..20, 21..30], apart),
            [(0..20, vec![0, 1]), (21..30, vec![2])]
        );
    }

    #[test]
    fn a_long_range_is_read_alone_with_those_that_it_contains() {
        let coalesce = Coalesce::new().max_gap(10).max_read(100);
        assert_eq!(
            planned(&[0..9, 0..1000, 990..1001, 30..1000], coalesce),
            [(0..1000, vec![1, 0, 3]), (990..1001, vec![2])]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 256 }, failure_persistence: None, ..Default::default() })]

        #[test]
        fn every_range_is_in_one_read(
            ranges in prop::collection::vec((0_u64..2000, 0_u64..300), 0..40),
            max_gap in 0_u64..200,
            max_read in 0_u64..600,
        ) {
            let ranges: Vec<_> = ranges.iter().map(|&(start, len)| start..start + len).collect();
            let reads = planned(&ranges, Coalesce::new().max_gap(max_gap).max_read(max_read));
            let mut seen = vec![0; ranges.len()];
            for (blocks, members) in &reads {
                let mut covered = 0;
                for &index in members {
                    seen[index] += 1;
                    let range = &ranges[index];
                    prop_assert!(blocks.start <= range.start && range.end <= blocks.end);
                    covered = covered.max(range.end - range.start);
                }
                let len = blocks.end - blocks.start;
                prop_assert!(len <= max_read || len == covered, "merged past the largest size");
            }
            for (range, seen) in ranges.iter().zip(seen) {
                prop_assert_eq!(seen, usize::from(!range.is_empty()));
            }
        }
    }
}
