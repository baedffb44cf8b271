//! [`Choice`]: which engines are asked for.

use crate::Result;

/// What `--engines` and `--baseline` say.
pub(super) struct Choice<'a> {
    /// Parts of names. None: every engine.
    pub(super) parts: &'a [String],
    /// An engine that is there in any case.
    pub(super) baseline: &'a str,
}

impl Choice<'_> {
    /// Whether all that is asked for is among engines of these names.
    ///
    /// # Errors
    ///
    /// What is not.
    pub(super) fn check(&self, names: &[&str]) -> Result<()> {
        let Choice { parts, baseline } = self;
        if !names.contains(baseline) {
            return Err(format!("no engine {baseline}, to take ratios to").into());
        }
        for part in *parts {
            if !names.iter().any(|name| name.contains(part.as_str())) {
                return Err(format!("no engine with {part} in its name").into());
            }
        }
        Ok(())
    }

    /// Whether the engine of this name is asked for.
    pub(super) fn has(&self, name: &str) -> bool {
        self.parts.is_empty()
            || name == self.baseline
            || self.parts.iter().any(|part| name.contains(part.as_str()))
    }
}
