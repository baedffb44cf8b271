//! An [`ObjectStore`] over local files with Linux kernel AIO, in place of `object_store`'s `LocalFileSystem`.
//!
//! `KaioFileSystem` is constructed and behaves as `LocalFileSystem` does. It reads with direct I/O and many
//! requests in flight, instead of one `pread` after another on the blocking pool:
//!
//! - Ranges of an object that are close together are read together, and many reads are in flight at a time.
//! - Streams read ahead.
//! - Data that is in the page cache is read from there, without a thread.
//! - Durable uploads write directly to the device.
//!
//! Choose the module of the `object_store` that the rest of the program uses: [`v0_13`] or [`v0_14`]. Both
//! are the same code, and the features of these names select them.
//!
//! ```
//! use kaio_object_store::v0_14::KaioFileSystem;
//! use object_store_0_14::{ObjectStore, ObjectStoreExt, path::Path};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> object_store_0_14::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! let store = KaioFileSystem::new_with_prefix(dir.path())?;
//! let path = Path::from("table/part-0");
//! store.put(&path, vec![7; 1 << 20].into()).await?;
//! let ranges = store.get_ranges(&path, &[10..20, 900_000..900_100]).await?;
//! assert_eq!((ranges[0].len(), ranges[1].len()), (10, 100));
//! println!("{}", store.metrics());
//! # Ok(())
//! # }
//! ```
//!
//! # How an object is read
//!
//! | data | path |
//! |---|---|
//! | in the page cache (`cachestat(2)`, Linux 6.5) | copied from there, on the calling thread |
//! | of an object below [16 KiB](v0_14::KaioFileSystemBuilder::with_small_object_size) | through the page cache, from the blocking pool |
//! | of a file system without direct I/O | through the page cache, from the blocking pool |
//! | all other | direct I/O with kernel AIO, or on threads where AIO is not available |
//!
//! A direct read that fails is repeated through the page cache, so the caller sees the error of an ordinary
//! read, or none. [`StoreMetrics`] counts the reads of each path.
//!
//! # Runtimes
//!
//! The store can be used on any runtime, and kept in a `static`. A thread that all stores of the process share
//! completes the requests; with
//! [`with_runtime_contexts`](v0_14::KaioFileSystemBuilder::with_runtime_contexts), the threads of the runtime
//! do. As with `LocalFileSystem`, blocking calls run on the blocking pool of the current tokio runtime. Outside
//! a tokio runtime they run on the calling thread.
//!
//! # Descriptors
//!
//! The store keeps the [last 256](v0_14::KaioFileSystemBuilder::with_descriptors) files that it has read
//! open, for five seconds after their last use. Each use compares the file with that at the path (`stat(2)`),
//! so a file that was replaced, or changed, is opened again. Files on network file systems are not kept.
//!
//! [`ObjectStore`]: https://docs.rs/object_store/latest/object_store/trait.ObjectStore.html
// The documentation names items of both versions.
#![cfg_attr(
    not(all(feature = "v0_13", feature = "v0_14")),
    allow(rustdoc::broken_intra_doc_links)
)]
#![cfg(all(target_os = "linux", any(feature = "v0_13", feature = "v0_14")))]
#![warn(missing_docs)]

mod blocking_call;
mod descriptor_cache;
mod descriptor_limit;
mod disk_context;
mod object_copy;
mod object_files;
mod object_write;
mod open_object;
mod page_cache_read;
mod parent_dirs;
mod staged_object;
mod store_fault;
mod store_metrics;
mod store_settings;

#[cfg(feature = "v0_13")]
pub mod v0_13;
#[cfg(feature = "v0_14")]
pub mod v0_14;

pub use store_metrics::{StoreMetrics, Transfers};
