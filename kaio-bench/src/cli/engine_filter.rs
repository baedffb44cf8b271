//! [`EngineFilter`]: selects engines by name.

use crate::Result;

/// The arguments `--engines` and `--baseline`.
pub(super) struct EngineFilter<'a> {
    /// Parts of names. If empty, every engine is selected.
    pub(super) parts: &'a [String],
    /// Name of the baseline engine, which is always selected.
    pub(super) baseline: &'a str,
}

impl EngineFilter<'_> {
    /// Checks that `names` has the baseline and a match for each part.
    ///
    /// # Errors
    ///
    /// The first one without a match.
    pub(super) fn check(&self, names: &[&str]) -> Result<()> {
        let EngineFilter { parts, baseline } = self;
        if !names.contains(baseline) {
            return Err(format!("no engine {baseline} for --baseline").into());
        }
        for part in *parts {
            if !names.iter().any(|name| name.contains(part.as_str())) {
                return Err(format!("no engine with {part} in its name").into());
            }
        }
        Ok(())
    }

    /// Whether the engine `name` is selected.
    pub(super) fn has(&self, name: &str) -> bool {
        self.parts.is_empty()
            || name == self.baseline
            || self.parts.iter().any(|part| name.contains(part.as_str()))
    }
}
