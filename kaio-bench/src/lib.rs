//! Measures file I/O in Rust and compares it with bare system calls.
//!
//! # What is measured
//!
//! An [`Engine`] is an implementation of file I/O. [`engines`] has a bare loop of `io_submit` and
//! `io_getevents`, the same loop with an epoll wait, a bare loop over io_uring, tokio-kaio on each of
//! tokio's runtimes (with two workers also in two shards, and with one also with a thread of the context's
//! own), `spawn_blocking`, and `tokio::fs`. A binary can add engines: it passes them to [`cli::main`].
//!
//! A [`Workload`] is a [`Pattern`] (what is read and written), a [`Shape`] (many tasks with one transfer
//! each, or one task with waves of transfers) and a depth (transfers in flight). All engines use direct
//! I/O, except where the name says otherwise.
//!
//! | figure | meaning |
//! |---|---|
//! | CPU | user and system time of all threads of the process (`getrusage`), per transfer |
//! | user | user-space share of the CPU time |
//! | machine | busy time of all CPUs of the machine, with any process, per transfer |
//! | IOPS | transfers per second of wall time |
//! | p50, p99, p99.9 | latency percentiles: of each transfer for tasks, of each wave for waves |
//! | calls | system calls per transfer |
//! | allocs | allocations per transfer |
//! | switches | context switches per transfer, voluntary and involuntary |
//!
//! A [`Pair`](pairs::Pair) is a set of ways to do the same job with tokio-kaio, such as a batch and single
//! reads. Its variants are engines, and each pair has its own workload.
//!
//! [`scale`] measures the cost of a transfer with more tasks, open files and contexts.
//!
//! # Method
//!
//! [`measure`] prepares all engines for a workload, including everything that their transfers need. It
//! finds for each engine how many transfers fill a round. Then it runs the rounds: every engine runs once
//! in each round, and each round starts with a different engine. A machine that becomes slower or faster
//! in between affects all engines alike. A ratio to the baseline is computed within each round; the
//! reported median and quartiles are those of the ratios, not ratios of medians.
//!
//! Reading the clock for each transfer and counting events both cost time. So latencies have rounds of
//! their own, and system calls and allocations are counted last ([`counting`]), as the difference between
//! a run and one of three times its length.
//!
//! # Limits
//!
//! *CPU* leaves out work that the kernel does outside of the process: kernel threads, and interrupts that
//! arrive while the process sleeps, which are charged to no process. This affects engines differently. The
//! bare loop sleeps until its whole wave is complete and is charged for almost no interrupts; an engine
//! that the first completion wakes is charged for the interrupts of the rest.
//!
//! *Machine* includes all of that: it is the time in which CPUs were neither idle nor waiting for a disk,
//! from `/proc/stat`. It also includes every other program, and time that the host takes from a virtual
//! machine, so it is meaningful only if nothing else runs. A report says how busy the machine was right
//! before the start. Its resolution is a tick of 10 ms, so it is the sum of all rounds, without quartiles:
//! with 15 rounds of 100 ms it is off by about 20 ms, which is 0.01 or 0.02 of the ratio for an engine that
//! keeps a CPU busy, and more for an engine that mostly sleeps.
//!
//! Neither includes the effects of an engine on other programs through caches and queues. On a virtual
//! machine the disk belongs to the host.
//!
//! # Running it
//!
//! ```sh
//! cargo run --release -p kaio-bench -- --patterns random-read --depths 1,32
//! ```
//!
//! See `--help` for all options.

mod bench_file;
mod bench_report;
mod calibrate;
mod chart;
pub mod cli;
pub mod counting;
mod engine;
mod engine_summary;
pub mod engines;
mod interleaved;
mod machine_info;
mod machine_load;
mod page_buffer;
pub mod pairs;
mod plots;
mod rusage;
pub mod scale;
mod spread;
mod steady_window;
mod tables;
pub mod task_runner;
pub mod temp_path;
mod workload;

pub use bench_file::BenchFile;
pub use bench_report::{
    EngineReport, Figures, Outcome, Quantiles, Report, ResultSet, Sample, Settings, summarize,
};
pub use chart::{Chart, Colour, Line};
pub use counting::{CountingAllocator, Counts};
pub use engine::{Engine, Latencies, Prepared, Result, Run, RunStats, Unavailable};
pub use engine_summary::Summary;
pub use engines::RuntimeFlavor;
pub use interleaved::{measure, measure_with_progress, progress_steps};
pub use machine_info::{Disk, Machine, Place};
pub use page_buffer::PageBuffer;
pub use plots::plot;
pub use spread::Spread;
pub use steady_window::{SteadyPart, SteadyWindow};
pub use tables::Tables;
pub use workload::{Direction, Pattern, Shape, Transfer, TransferGenerator, Workload};
