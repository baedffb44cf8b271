//! Measures ways to read and write a disk against the bare system calls.

mod engine;
mod workload;

pub use engine::{Engine, Latencies, Prepared, Result, Run, Tally};
pub use workload::{Direction, Lane, Pattern, Shape, Transfer, Workload};
