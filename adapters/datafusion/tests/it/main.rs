//! `KaioFiles`, by its public interface.

mod answers;
mod failures;
mod fixture;
mod formats;
mod prefetching;
mod registration;
mod runtimes;
mod tpch;
