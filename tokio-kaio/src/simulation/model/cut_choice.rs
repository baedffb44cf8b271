//! [`CutChoice`]: which writes that were not flushed survive a power cut.

use crate::simulation::seeded_rng::SeededRng;

/// How a power cut chooses among the writes of a file that were not flushed.
///
/// A cut loses every write, or none, or each with one of 15 probabilities. With one half alone, most cuts would
/// be alike: about half of the writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct CutChoice {
    /// Of 16: how probable it is that an atomic unit survives.
    survives_of_16: u64,
    /// Writes survive in order: those before this change do, and later ones do not.
    last_change: Option<u64>,
    pub(super) atomic_unit: usize,
}

impl CutChoice {
    /// Each write survives by itself, whatever its order.
    pub(super) fn unordered(atomic_unit: usize, rng: &mut SeededRng) -> CutChoice {
        CutChoice {
            survives_of_16: rng.below(17),
            last_change: None,
            atomic_unit,
        }
    }

    /// Writes before `last_change` survive. Of that one, each atomic unit may.
    pub(super) fn ordered(atomic_unit: usize, last_change: u64, rng: &mut SeededRng) -> CutChoice {
        CutChoice {
            last_change: Some(last_change),
            ..CutChoice::unordered(atomic_unit, rng)
        }
    }

    /// Whether an atomic unit of the write `change` survives.
    pub(super) fn keeps(&self, change: u64, rng: &mut SeededRng) -> bool {
        match self.last_change {
            Some(last) if change != last => change < last,
            _ => rng.chance(self.survives_of_16),
        }
    }
}
