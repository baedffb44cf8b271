//! [`PrefetchBudget`]: the memory of all prefetches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that prefetches may use at a time.
#[derive(Debug)]
pub(crate) struct PrefetchBudget {
    limit: u64,
    used: AtomicU64,
}

impl PrefetchBudget {
    pub(crate) fn new(limit: u64) -> PrefetchBudget {
        PrefetchBudget {
            limit,
            used: AtomicU64::new(0),
        }
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether less than half of the budget is used.
    pub(crate) fn is_ample(&self) -> bool {
        self.used() < self.limit / 2
    }

    /// Takes `bytes`, or `None` if they are not available. Never waits.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let grow = |used: u64| used.checked_add(bytes).filter(|&grown| grown <= self.limit);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, grow)
            .ok()?;
        Some(Reservation {
            budget: Arc::clone(self),
            bytes,
        })
    }
}

/// Bytes of a budget, given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Arc<PrefetchBudget>,
    bytes: u64,
}

impl Reservation {
    /// Gives `bytes` back, at most those that it has.
    pub(crate) fn release(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Takes what `other` has.
    pub(crate) fn absorb(&mut self, mut other: Reservation) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_beyond_the_budget_is_refused() {
        let budget = Arc::new(PrefetchBudget::new(100));
        let mut first = budget.reserve(60).unwrap();
        assert!(budget.reserve(41).is_none());
        assert!(budget.reserve(u64::MAX).is_none());
        first.absorb(budget.reserve(40).unwrap());
        assert_eq!(budget.used(), 100);
        first.release(50);
        assert!(!budget.is_ample());
        assert_eq!(budget.used(), 50);
        drop(first);
        assert_eq!(budget.used(), 0);
    }
}
