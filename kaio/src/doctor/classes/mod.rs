//! What a file system does with direct I/O that is submitted with kernel AIO, class of request by
//! class of request: whether the submission waits, what `RWF_NOWAIT` is answered, and what the submit
//! policies make of it. `kaio doctor` measures with it, and the example `file_systems`, which makes the
//! tables of `docs/file-systems.md`, where all terms are told.
//!
//! All of it goes through the public interface of tokio-kaio, one request after another, on one thread:
//! to be run on a current-thread runtime.
//!
//! | module | has |
//! |---|---|
//! | `class` | [`Class`], what a request does, and the file that it wants |
//! | `effort` | [`Effort`], how much is measured |
//! | `target` | [`Target`], the file that requests go to |
//! | `subject` | a file with requests still to be made |
//! | `watch` | one request and its submission |
//! | `slept` | how often a thread has slept |
//! | `bare` | [`Bare`], submissions without a flag, and the [`Verdict`] |
//! | `answers` | [`Answers`], requests with `NOWAIT` |
//! | `run` | [`Run`], requests under a policy |
//! | `share` | shares, as text |
//!
//! # Examples
//!
//! ```
//! use kaio_cli::classes::{Bare, Class, Effort, Target};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> kaio_cli::classes::Result<()> {
//! let dir = tempfile::tempdir_in(".")?;
//! let effort = Effort { requests: 16, ..Effort::default() };
//! let target = Target::Scratch(dir.path().into());
//! let bare = Bare::measure(&target, Class::Extending, effort).await?;
//! println!("extending: {}", bare.verdict());
//! # Ok(())
//! # }
//! ```

mod answers;
mod bare;
mod class;
mod effort;
mod run;
mod share;
mod slept;
mod subject;
mod target;
mod watch;

pub use answers::Answers;
pub use bare::{Bare, Verdict};
pub use class::Class;
pub use effort::Effort;
pub use run::Run;
pub use share::{percent, percent_of};
pub use target::Target;

use std::error::Error;

/// With whatever keeps something from being measured.
pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;
