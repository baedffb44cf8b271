//! Measures ways to read and write a disk against the bare system calls.
//!
//! # What is measured
//!
//! An [`Engine`] is one way to do it: [`engines`] has a bare loop of `io_submit` and
//! `io_getevents`, the same with its waiting done in epoll, a bare loop over io_uring, tokio-kaio on
//! each of tokio's runtimes (with two workers also in two shards), `spawn_blocking`, and
//! `tokio::fs`. Others can be added: a binary hands its own to [`cli::main`].
//! A [`Workload`] is a [`Pattern`] (what is read and written), a [`Shape`] (many tasks with one
//! transfer each, or one task with waves of them) and a depth (transfers in flight). All of it is
//! direct I/O, but for what says otherwise in its name.
//!
//! | figure | is |
//! |---|---|
//! | CPU | user and system time of all threads of the process, from `getrusage`; a transfer's share |
//! | user | how much of that is user space |
//! | machine | time that CPUs were busy, with whatever it was; a transfer's share |
//! | IOPS | transfers a second of wall time |
//! | p50, p99, p99.9 | latencies: of each transfer for tasks, of each wave for waves |
//! | calls | system calls a transfer |
//! | allocs | calls to the allocator a transfer |
//! | switches | context switches a transfer, voluntary or not |
//!
//! A [`Pair`](pairs::Pair) is ways to do one thing with tokio-kaio that a program can choose from, such
//! as a batch and its operations one by one. They are engines too, each pair with one workload.
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
//! *CPU* leaves out what the kernel does outside of the process: its own threads, and interrupts that
//! come while the process sleeps, which are charged to nobody. That is not the same for all. The
//! bare loop sleeps until its whole wave is done, and is charged for next to none; who is woken by
//! the first completion is charged for the interrupts of the rest.
//!
//! *Machine* has all of that: it is the time that CPUs were not idle, nor waiting for a disk, as
//! `/proc/stat` has it. But it has everything else on the machine too, and what the host took of a
//! virtual one, so that it means something only where nothing else runs. A report says how busy
//! others were right before the start. And it is told in ticks of 10 ms, so that it is no median of
//! rounds but their sum, without quartiles: with 15 rounds of 100 ms it is off by 20 ms or so, one
//! or two hundredths where a CPU is busy throughout, more for an engine that mostly sleeps.
//!
//! What an engine does to others on the machine, by caches and queues, is in neither. On a virtual
//! machine the disk is the host's.
//!
//! # Running it
//!
//! ```sh
//! cargo run --release -p kaio-bench -- --patterns random-read --depths 1,32
//! ```
//!
//! `--help` has the rest.

mod buffer;
mod busy;
mod calibrate;
mod chart;
pub mod cli;
pub mod counting;
mod engine;
pub mod engines;
pub mod leftovers;
mod machine;
mod measure;
pub mod on_tokio;
pub mod pairs;
mod plots;
mod report;
mod site;
mod stats;
mod summary;
mod text;
mod usage;
mod workload;

pub use buffer::Buffer;
pub use chart::{Chart, Colour, Line};
pub use counting::{CountingAllocator, Counts};
pub use engine::{Engine, Latencies, Prepared, Result, Run, Tally, Unavailable};
pub use engines::Flavour;
pub use machine::{Disk, Machine, Place};
pub use measure::{measure, measure_watched, steps};
pub use plots::plot;
pub use report::{
    EngineReport, Figures, Outcome, Quantiles, Report, Sample, Set, Settings, summarize,
};
pub use site::Site;
pub use stats::Spread;
pub use summary::Summary;
pub use text::Tables;
pub use workload::{Direction, Lane, Pattern, Shape, Transfer, Workload};
