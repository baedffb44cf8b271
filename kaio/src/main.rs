//! The program `kaio`. All of it is in the library beside it.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: kaio_bench::CountingAllocator = kaio_bench::CountingAllocator;

fn main() -> ExitCode {
    kaio_cli::main()
}
