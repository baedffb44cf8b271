//! Measures how a file system handles direct I/O that is submitted with kernel AIO, for each class of
//! request: whether `io_submit` blocks, how the kernel answers `RWF_NOWAIT`, and how the submit policies
//! perform. `kaio doctor` and the example `file_systems` use it; the example produces the tables of
//! `docs/file-systems.md`, which defines the terms.
//!
//! The measurements use only the public interface of tokio-kaio. They issue one request at a time, on
//! one thread, and need a current-thread runtime. Only [`BackendReads`] issues several at a time.
//!
//! | module | contents |
//! |---|---|
//! | `request_class` | [`RequestClass`]: the operation, and the file that it needs |
//! | `measure_settings` | [`MeasureSettings`]: the number and size of the requests |
//! | `measure_target` | [`MeasureTarget`]: the file to measure on |
//! | `request_runner` | issues the requests of a class |
//! | `timed_request` | times one request and its submission |
//! | `context_switches` | counts voluntary context switches |
//! | `submit_stats` | [`SubmitStats`]: submissions without `NOWAIT`, and the [`Verdict`] |
//! | `nowait_results` | [`NowaitResults`]: requests with `NOWAIT` |
//! | `policy_run` | [`PolicyRun`]: requests under a submit policy |
//! | `backend_reads` | [`BackendReads`]: reads on each backend |
//! | `percent` | formats shares |
//!
//! # Examples
//!
//! ```
//! use kaio_cli::request_classes::{SubmitStats, RequestClass, MeasureSettings, MeasureTarget};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> kaio_cli::request_classes::Result<()> {
//! let dir = tempfile::tempdir_in(".")?;
//! let effort = MeasureSettings { requests: 16, ..MeasureSettings::default() };
//! let target = MeasureTarget::Scratch(dir.path().into());
//! let bare = SubmitStats::measure(&target, RequestClass::Extending, effort).await?;
//! println!("extending: {}", bare.verdict());
//! # Ok(())
//! # }
//! ```

mod backend_reads;
mod context_switches;
mod measure_settings;
mod measure_target;
mod nowait_results;
mod percent;
mod policy_run;
mod request_class;
mod request_runner;
mod submit_stats;
mod timed_request;

pub use backend_reads::{BACKENDS, BackendReads};
pub use measure_settings::MeasureSettings;
pub use measure_target::MeasureTarget;
pub use nowait_results::NowaitResults;
pub use percent::{percent, percent_of};
pub use policy_run::PolicyRun;
pub use request_class::RequestClass;
pub use submit_stats::{SubmitStats, Verdict};

use std::error::Error;

/// The result of a measurement. The error says why it failed.
pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;
