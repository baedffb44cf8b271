//! The program `kaio`. The code is in the library `kaio_cli`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: kaio_bench::CountingAllocator = kaio_bench::CountingAllocator;

fn main() -> ExitCode {
    kaio_cli::main()
}
