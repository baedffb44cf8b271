//! Kernel AIO and the blocking backend, held to the same contract.
#![allow(unsafe_code)]

mod contract_fixture;
mod poll_contract;
mod priority_contract;
mod submit_contract;
mod vectored_contract;
