//! DataFusion reads and writes local files with Linux kernel AIO.
//!
//! [`KaioFiles::register`] makes a session read and write `file://` through a
//! [`KaioFileSystem`](kaio_object_store::v0_13::KaioFileSystem), and fetch row groups of Parquet files ahead.
//! No URL, table or query of the program changes.
//!
//! ```
//! use datafusion::prelude::*;
//! use kaio_datafusion::KaioFiles;
//!
//! # #[tokio::main]
//! # async fn main() -> datafusion::error::Result<()> {
//! # let dir = tempfile::tempdir()?;
//! # let orders = dir.path().join("orders.parquet");
//! # let orders = orders.to_str().unwrap();
//! # let context = SessionContext::new();
//! # let rows = context.sql("select i as id, i % 3 as status from generate_series(1, 99) t(i)").await?;
//! # rows.write_parquet(orders, Default::default(), None).await?;
//! let context = SessionContext::new();
//! let files = KaioFiles::new();
//! files.register(&context);
//!
//! context.register_parquet("orders", orders, ParquetReadOptions::default()).await?;
//! let counts = context.sql("select status, count(*) from orders group by status").await?;
//! assert_eq!(counts.count().await?, 3);
//! println!("{}", files.metrics());
//! # Ok(())
//! # }
//! ```
//!
//! # What is read and written through the store
//!
//! Everything with a `file://` URL, or a path: tables of all formats, their listings and statistics, `COPY TO`,
//! and `INSERT INTO`. There are three exceptions:
//!
//! - Whole Arrow IPC files whose messages are aligned to more than 8 bytes are opened as `LocalFileSystem` opens
//!   them, because DataFusion 55 can't infer the schema of such a stream.
//! - DataFusion writes and reads its spill files itself.
//! - Ballista writes and reads its shuffle files itself.
//!
//! # Row groups that are fetched ahead
//!
//! DataFusion reads the columns of a row group with one request, decodes them, and then asks for the next row
//! group. The page cache reads ahead meanwhile; direct I/O does not. So a
//! [`PhysicalOptimizerRule`](datafusion::physical_optimizer::PhysicalOptimizerRule) gives the scans of local
//! Parquet files readers that do.
//!
//! A reader learns from the requests of the decoder which columns it reads, and in which order. After each
//! request, it starts to read the same columns of the [next row groups](Prefetch::with_row_groups), and at the
//! end of a file those of the first row group of the next file. Row groups that DataFusion has pruned by
//! statistics, bloom filters or a limit are not fetched, if the reader can know it: DataFusion's metrics say
//! how many there are. A scan stops fetching ahead when less than two thirds of the fetched bytes were used.
//!
//! All readers of a [`KaioFiles`] share an [amount of memory](Prefetch::with_memory), for which they never
//! wait. Fetched data belongs to the query as soon as the decoder takes it, and no longer counts against this
//! amount.
//!
//! If a file is replaced during a query, row groups may be of the old file and of the new one, as without
//! prefetch. But the columns that the decoder asks for together are of one file: if some were fetched ahead and
//! the file is replaced before the others are read, all of them are read again.
//!
//! An error of a prefetch is no error of the query: the data is read again when it is needed. A reader that
//! is dropped abandons its prefetches.
//!
//! # Runtimes
//!
//! Prefetches are tasks of the tokio runtime in which the query runs. A [`KaioFiles`] can be used from several
//! runtimes, one after another or at the same time.
#![cfg(target_os = "linux")]
#![warn(missing_docs)]

mod aborting_task;
mod chunk_fetch;
mod file_row_groups;
mod files_ahead;
mod first_group_fetch;
mod group_ahead;
mod kaio_files;
mod kaio_files_metrics;
mod parquet_scan;
mod prefetch;
mod prefetch_budget;
mod prefetch_rule;
mod prefetcher;
mod prefetching_factory;
mod prefetching_reader;
mod read_order;
mod row_group_pruning;
mod scan_progress;
mod session_store;

pub use kaio_files::KaioFiles;
pub use kaio_files_metrics::{KaioFilesMetrics, PrefetchMetrics};
pub use prefetch::Prefetch;
