//! Tests that need the [`interposer`]: this binary defines the C library's `syscall` and a few of its
//! other functions, so that tests can hold, shorten, refuse and watch requests.

#[path = "../common/mod.rs"]
mod common;
mod interposer;

mod batches;
mod buffer_pool;
mod close_timeout;
mod deadlines;
mod drain;
mod exact;
mod faults;
mod hostile;
mod in_flight;
mod merged_writes;
mod owned;
mod polls;
mod priorities;
mod publishing;
mod ranges;
mod shards;
mod size_class_pool;
mod stream_faults;
mod unaligned;
#[cfg(feature = "io-uring")]
mod uring_faults;
mod uring_interposer;
mod vectored;
