//! Measures ways to read and write a disk against the bare system calls.
//!
//! # What is measured
//!
//! An [`Engine`] is one way to do it: [`engines`] has a bare loop of `io_submit` and
//! `io_getevents`, the same with its waiting done in epoll, a bare loop over io_uring, tokio-kaio on each of tokio's runtimes,
//! `spawn_blocking`, and `tokio::fs`. Others can be added: a binary hands its own to [`cli::main`].
//! A [`Workload`] is a [`Pattern`] (what is read and written), a [`Shape`] (many tasks with one
//! transfer each, or one task with waves of them) and a depth (transfers in flight). All of it is
//! direct I/O, but for what says otherwise in its name.
//!
//! | figure | is |
//! |---|---|
//! | CPU | user and system time of all threads of the process, from `getrusage`; a transfer's share |
//! | user | how much of that is user space |
//! | IOPS | transfers a second of wall time |
//! | p50, p99, p99.9 | latencies: of each transfer for tasks, of each wave for waves |
//! | calls | system calls a transfer |
//! | allocations | calls to the allocator a transfer |
//! | switches | context switches a transfer, voluntary or not |
//!
//! # How
//!
//! [`measure`] prepares all engines for a workload: what they need for a transfer is there before
//! the first. Each finds out how many transfers fill a round. Then come the rounds, and in each of
//! them every engine runs once; a different one begins each time. A machine that becomes slower or
//! faster meanwhile does so for all. A ratio to the baseline is taken within each round, and the
//! median and the quartiles are those of the ratios, not ratios of medians.
//!
//! Looking at the clock for each transfer, and counting, cost time. So latencies have rounds of
//! their own, and system calls and allocations ([`counting`]) come last: what is counted is the
//! difference between a run and one of three times its length.
//!
//! # What it can't tell
//!
//! CPU that the kernel uses outside of the process is not in the figures: interrupts, and its own
//! threads, where they are not the process's. Nor is what an engine does to others on the machine.
//! On a virtual machine the disk is the host's.
//!
//! # Running it
//!
//! ```sh
//! cargo run --release -p kaio-bench -- --patterns random-read --depths 1,32
//! ```
//!
//! `--help` has the rest.

mod buffer;
mod calibrate;
pub mod cli;
pub mod counting;
mod engine;
pub mod engines;
mod machine;
mod measure;
pub mod on_tokio;
mod plots;
mod report;
mod stats;
mod summary;
mod text;
mod usage;
mod workload;

pub use buffer::Buffer;
pub use counting::{CountingAllocator, Counts};
pub use engine::{Engine, Latencies, Prepared, Result, Run, Tally, Unavailable};
pub use engines::Flavour;
pub use machine::{Machine, Place};
pub use measure::measure;
pub use plots::plot;
pub use report::{EngineReport, Figures, Outcome, Quantiles, Report, Sample, Set, Settings};
pub use stats::Spread;
pub use summary::Summary;
pub use text::Tables;
pub use workload::{Direction, Lane, Pattern, Shape, Transfer, Workload};
