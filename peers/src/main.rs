//! kaio-bench with other crates as additional engines. See `--help`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: kaio_bench::CountingAllocator = kaio_bench::CountingAllocator;

fn main() -> ExitCode {
    kaio_bench::cli::main(peers::engines())
}
