//! [`SizeHistory`]: the lengths of a file that a power cut may leave.

use crate::simulation::seeded_rng::SeededRng;

/// The durable length of a file, and the changes since.
#[derive(Clone, Debug, Default)]
pub(super) struct SizeHistory {
    durable: u64,
    /// The changes up to this number are durable.
    durable_change: u64,
    steps: Vec<SizeStep>,
}

/// A change of the length.
#[derive(Clone, Copy, Debug)]
struct SizeStep {
    /// The number of the change. Of changes that grow the file one after another: of the last.
    change: u64,
    len: u64,
    grows: bool,
}

/// A length that survives a power cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct SurvivingSize {
    pub(super) len: u64,
    /// Truncations up to this change have happened, and no later ones.
    pub(super) change: u64,
}

/// Truncations of a file that are neither durable nor lost. With more, the oldest become durable, as
/// journals are committed now and then.
const MAX_STEPS: usize = 64;

impl SizeHistory {
    /// The history of a file whose length is durable.
    pub(super) fn new(durable: u64) -> SizeHistory {
        SizeHistory {
            durable,
            ..SizeHistory::default()
        }
    }

    /// The shortest length that a power cut may leave.
    pub(super) fn shortest(&self) -> u64 {
        let steps = self.steps.iter().map(|step| step.len);
        steps.fold(self.durable, u64::min)
    }

    /// The changes up to this one are durable.
    pub(super) fn durable_change(&self) -> u64 {
        self.durable_change
    }

    /// The length has changed.
    pub(super) fn push(&mut self, change: u64, from: u64, len: u64) {
        let grows = from < len;
        match self.steps.last_mut() {
            Some(last) if last.grows && grows => *last = SizeStep { change, len, grows },
            _ => self.steps.push(SizeStep { change, len, grows }),
        }
        if self.steps.len() > MAX_STEPS {
            let oldest = self.steps.remove(0);
            self.durable = oldest.len;
            self.durable_change = oldest.change;
        }
    }

    /// The changes up to `change` are durable. The length was `len` then.
    pub(super) fn sync(&mut self, change: u64, len: u64) {
        if change <= self.durable_change {
            return;
        }
        self.steps.retain(|step| step.change > change);
        self.durable = len;
        self.durable_change = change;
    }

    /// A length that a power cut leaves: that after any of the changes, or one between two, if the file has
    /// grown.
    pub(super) fn survive(&self, rng: &mut SeededRng, sector: u64) -> SurvivingSize {
        let mut survivor = SurvivingSize {
            len: self.durable,
            change: self.durable_change,
        };
        if self.steps.is_empty() {
            return survivor;
        }
        let count = rng.below(self.steps.len() as u64 + 1) as usize;
        if let Some(last) = count.checked_sub(1) {
            survivor.len = self.steps[last].len;
            survivor.change = self.steps[last].change;
        }
        if let Some(next) = self.steps.get(count).filter(|next| next.grows) {
            // Whole sectors beyond the old length.
            let between = (next.len - 1) / sector - survivor.len / sector;
            if between > 0 && rng.chance(8) {
                survivor.len = (survivor.len / sector + 1 + rng.below(between)) * sector;
            }
        }
        survivor
    }
}
