//! For object_store 0.14.

#[allow(clippy::duplicate_mod)] // the same source for each version
#[path = "store/mod.rs"]
mod store;

/// # Examples
///
/// ```
/// use kaio_object_store::v0_14::KaioFileSystem;
/// use object_store_0_14::{ObjectStoreExt, path::Path};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> object_store_0_14::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// let store = KaioFileSystem::new_with_prefix(dir.path())?.with_fsync(true);
/// store.put(&Path::from("log/1"), "first".into()).await?;
/// assert_eq!(store.get_range(&Path::from("log/1"), 1..3).await?, "ir");
/// # Ok(())
/// # }
/// ```
pub use store::KaioFileSystem;
/// # Examples
///
/// ```
/// use kaio_object_store::v0_14::KaioFileSystem;
/// use tokio_kaio::SizeClassPoolBuilder;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// let buffers = SizeClassPoolBuilder::new(64 << 20).huge_pages(true).build()?;
/// let store = KaioFileSystem::builder()
///     .with_prefix(dir.path())
///     .with_buffers(&buffers)
///     .with_coalesce_gap(16 << 10)
///     .build()?;
/// println!("{}", store.metrics());
/// # Ok(())
/// # }
/// ```
pub use store::KaioFileSystemBuilder;

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

    pub(super) fn e_tag(unquoted: &str) -> String {
        ["\"", unquoted, "\""].concat()
    }

    pub(super) fn put_result(facts: &ObjectFacts) -> PutResult {
        PutResult {
            e_tag: Some(e_tag(&facts.e_tag())),
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
