//! For object_store 0.14.

#[allow(clippy::duplicate_mod)] // the same source for each version
#[path = "store/mod.rs"]
mod store;

pub use store::{KaioFileSystem, KaioFileSystemBuilder};

/// What differs between the versions.
mod version {
    use std::ops::Range;

    use object_store::{GetResult, GetResultPayload, ObjectMeta, PutResult};
    pub(super) use object_store_0_14 as object_store;

    use object_store::local::LocalFileSystem;

    use crate::open_object::ObjectFacts;

    /// Whether `LocalFileSystem` can make copies and renames durable.
    pub(super) const LOCAL_CAN_SYNC: bool = true;

    pub(super) fn with_fsync(local: LocalFileSystem, fsync: bool) -> LocalFileSystem {
        local.with_fsync(fsync)
    }

    pub(super) fn e_tag(facts: &ObjectFacts) -> String {
        format!("\"{}\"", facts.e_tag())
    }

    pub(super) fn put_result(facts: &ObjectFacts) -> PutResult {
        PutResult {
            e_tag: Some(e_tag(facts)),
            version: None,
            extensions: Default::default(),
        }
    }

    pub(super) fn get_result(
        payload: GetResultPayload,
        meta: ObjectMeta,
        range: Range<u64>,
    ) -> GetResult {
        GetResult {
            payload,
            meta,
            range,
            attributes: Default::default(),
            extensions: Default::default(),
        }
    }
}
