//! Ballista executors read local files with Linux kernel AIO.
//!
//! A Ballista cluster plans a query in the scheduler, and reads its tables in the executors. So it is the
//! executors that need [`KaioFiles`]: clients and schedulers can stay as they are, and so can the URLs of
//! tables.
//!
//! | cluster | call |
//! |---|---|
//! | executors as processes | [`register_executor`], before `start_executor_process` |
//! | one process, `SessionContext::standalone_with_state` | [`register_standalone`] |
//!
//! Both do two things: the runtimes of the executor read and write `file://` through the store, and a
//! [`PrefetchCodec`] lets the Parquet scans of the plans that the executor receives fetch row groups ahead.
//!
//! # An executor
//!
//! ```
//! use std::sync::Arc;
//!
//! use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
//! use kaio_ballista::register_executor;
//! use kaio_datafusion::KaioFiles;
//!
//! # fn main() {
//! # if false {
//! # tokio::runtime::Runtime::new().unwrap().block_on(executor()).unwrap();
//! # }
//! # }
//! async fn executor() -> Result<(), Box<dyn std::error::Error>> {
//!     let files = KaioFiles::new();
//!     let mut config = ExecutorProcessConfig {
//!         scheduler_host: "scheduler.example".to_owned(),
//!         work_dir: Some("/var/lib/ballista".to_owned()),
//!         ..ExecutorProcessConfig::default()
//!     };
//!     register_executor(&mut config, &files);
//!     start_executor_process(Arc::new(config)).await?; // until SIGTERM
//!     println!("{}", files.metrics());
//!     Ok(())
//! }
//! ```
//!
//! The example `cluster` of this package starts a scheduler and executors, runs TPC-H queries on them, and
//! kills one of the executors. Shuffle files do not go through an object store, so they are written and read
//! as before.
#![cfg(target_os = "linux")]

mod executor_setup;
mod prefetch_codec;
mod standalone_setup;

pub use executor_setup::register_executor;
pub use prefetch_codec::PrefetchCodec;
pub use standalone_setup::register_standalone;

#[cfg(doc)]
use kaio_datafusion::KaioFiles;

/// The examples of the guide.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/datafusion.md")]
mod guide {}

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
