//! The `kaio-bench` binary: measures the engines of this crate. See `kaio-bench --help`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: kaio_bench::CountingAllocator = kaio_bench::CountingAllocator;

fn main() -> ExitCode {
    kaio_bench::cli::main(Vec::new())
}
