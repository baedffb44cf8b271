//! Kernel AIO, the blocking backend and io_uring, held to the same contract.
#![allow(unsafe_code)]

mod contract_fixture;
mod poll_contract;
mod priority_contract;
mod submit_contract;
#[cfg(feature = "io-uring")]
mod uring_contract;
mod vectored_contract;
