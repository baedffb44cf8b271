//! Tests of the public API that need nothing process-wide, or run in a child process of their own.

#[path = "../common/mod.rs"]
mod common;

mod aligned_buf;
mod alignment;
mod backends;
mod bound_file;
mod buffered;
mod cancellation;
mod conversions;
mod ends;
mod errors;
mod eventfd;
mod fairness;
mod file_calls;
mod file_reader;
mod file_writer;
mod files;
mod flags;
mod fork;
mod generic_context;
mod groups;
mod growing_files;
mod io_uring;
mod kill;
mod layers;
mod leaks;
mod lifecycle;
mod metrics;
mod model;
mod offsets;
mod opening;
mod own_thread;
mod owned_batches;
mod policies;
mod read_ranges;
mod reference_api;
mod sandbox;
mod signalling;
mod space;
mod staged_file;
mod surface;
