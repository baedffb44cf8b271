//! DataFusion reads and writes local files with Linux kernel AIO.
//!
//! [`KaioFiles::register`] makes a session read and write `file://` through a
//! [`KaioFileSystem`](kaio_object_store::v0_13::KaioFileSystem), and fetch row groups of Parquet files ahead.
//! No URL, table or query of the program changes.
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

pub use kaio_files::KaioFiles;
pub use kaio_files_metrics::{KaioFilesMetrics, PrefetchMetrics};
pub use prefetch::Prefetch;
