//! [`EngineFilter`]: selects engines by name.

use crate::Result;

/// The arguments `--engines` and `--baseline`.
pub(super) struct EngineFilter<'a> {
    /// Parts of names. A whole name selects that engine alone, even if it is a part of other names. If there
    /// are none, every engine is selected.
    pub(super) parts: &'a [String],
    /// Name of the baseline engine, which is always selected. `None`: there is no baseline.
    pub(super) baseline: Option<&'a str>,
    /// The engines to select from.
    pub(super) names: &'a [&'a str],
}

impl<'a> EngineFilter<'a> {
    /// Checks that there is the baseline and a match for each part.
    ///
    /// # Errors
    ///
    /// The first one without a match.
    pub(super) fn check(&self) -> Result<()> {
        match self.baseline {
            Some(baseline) if !self.names.contains(&baseline) => {
                return Err(format!("no engine {baseline} for --baseline").into());
            }
            _ => {}
        }
        match self.unmatched() {
            Some(part) => Err(format!("no engine with {part} in its name").into()),
            None => Ok(()),
        }
    }

    /// Returns the first part without a match.
    pub(super) fn unmatched(&self) -> Option<&'a str> {
        let has_match = |part: &str| self.names.iter().any(|name| name.contains(part));
        let mut parts = self.parts.iter().map(String::as_str);
        parts.find(|part| !has_match(part))
    }

    /// Whether the engine `name` is selected.
    pub(super) fn has(&self, name: &str) -> bool {
        let matches = |part: &String| match self.names.contains(&part.as_str()) {
            true => name == part,
            false => name.contains(part.as_str()),
        };
        self.parts.is_empty() || self.baseline == Some(name) || self.parts.iter().any(matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(parts: &[&str]) -> Vec<&'static str> {
        let names = ["bare", "bare-uring", "kaio/local", "kaio/local-uring"];
        let parts: Vec<String> = parts.iter().map(|part| part.to_string()).collect();
        let filter = EngineFilter {
            parts: &parts,
            baseline: Some("bare"),
            names: &names,
        };
        filter.check().unwrap();
        names.into_iter().filter(|name| filter.has(name)).collect()
    }

    #[test]
    fn a_part_selects_every_engine_that_has_it_in_its_name() {
        assert_eq!(
            selected(&["uring"]),
            ["bare", "bare-uring", "kaio/local-uring"]
        );
        assert_eq!(
            selected(&["kaio"]),
            ["bare", "kaio/local", "kaio/local-uring"]
        );
    }

    #[test]
    fn a_whole_name_selects_one_engine() {
        assert_eq!(selected(&["kaio/local"]), ["bare", "kaio/local"]);
        assert_eq!(selected(&["bare"]), ["bare"]);
        assert_eq!(
            selected(&["kaio/local", "bare-"]),
            ["bare", "bare-uring", "kaio/local"]
        );
    }
}
