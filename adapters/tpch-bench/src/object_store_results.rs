//! [`ObjectStoreResults`]: results of kaio-object-store-bench.

use std::fs;
use std::path::Path;

use kaio_bench::Spread;
use serde::Deserialize;

use crate::Result;

/// What is drawn of these results.
#[derive(Debug, Deserialize)]
pub(crate) struct ObjectStoreResults {
    pub(crate) works: Vec<StoreWork>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct StoreWork {
    pub(crate) about: String,
    pub(crate) cache: Cache,
    /// KaioFileSystem divided by LocalFileSystem.
    pub(crate) ratios: Ratios,
}

/// The state of the page cache before a work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cache {
    Cold,
    Cached,
    Limited,
    Written,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Ratios {
    pub(crate) wall: Spread,
    pub(crate) cpu: Spread,
}

impl ObjectStoreResults {
    pub(crate) fn read(path: &Path) -> Result<ObjectStoreResults> {
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = fs::read_to_string(path).map_err(|error| failed(&error))?;
        Ok(serde_json::from_str(&text).map_err(|error| failed(&error))?)
    }
}

impl Cache {
    /// As in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Cache::Cold => "cold",
            Cache::Cached => "cached",
            Cache::Limited => "larger than memory",
            Cache::Written => "written",
        }
    }
}
