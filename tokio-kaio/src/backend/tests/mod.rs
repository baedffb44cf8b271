//! Kernel AIO, the blocking backend, io_uring and the simulated backend, held to the same contract.
#![allow(unsafe_code)]

mod contract_fixture;
mod poll_contract;
mod priority_contract;
#[cfg(feature = "simulation")]
mod simulated_contract;
#[cfg(feature = "simulation")]
mod simulated_time;
mod submit_contract;
#[cfg(feature = "io-uring")]
mod uring_contract;
mod vectored_contract;
