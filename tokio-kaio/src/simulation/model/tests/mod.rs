//! Tests of the model.

mod disk_fixture;
mod durability_tests;
mod fault_tests;
mod name_tests;
mod reference_tests;
mod request_tests;
