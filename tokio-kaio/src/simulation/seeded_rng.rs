//! [`SeededRng`]: the random choices of a disk.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

/// A generator whose sequence follows from its seed, on every machine and in every version:
/// xoshiro256++, seeded by SplitMix64.
#[derive(Clone, Debug)]
pub(super) struct SeededRng(Xoshiro256PlusPlus);

/// A use of random numbers. Each has a sequence of its own: a new fault leaves the latencies as they were.
#[derive(Clone, Copy, Debug)]
pub(super) enum RandomUse {
    ServiceTime = 1,
    Faults = 2,
    /// Effects of faults and of cancelled writes, and early write-backs.
    Effects = 3,
    PowerCut = 4,
    NextDisk = 5,
    CutPoints = 6,
    /// Cuts of a run after its first one.
    LaterCuts = 7,
}

impl SeededRng {
    pub(super) fn new(seed: u64, of: RandomUse) -> SeededRng {
        // An odd constant: the seeds of two uses of one disk always differ.
        let stream = (of as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        SeededRng(Xoshiro256PlusPlus::seed_from_u64(seed ^ stream))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number less than `bound`, which is not 0. The bias is below `bound` / 2⁶⁴.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        debug_assert_ne!(bound, 0);
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// True in `of_16` of 16 cases.
    pub(super) fn chance(&mut self, of_16: u64) -> bool {
        self.below(16) < of_16
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u64 + 1) as usize;
            items.swap(last, other);
        }
    }
}
