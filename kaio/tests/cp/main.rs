//! Tests of the program `kaio cp`.

#![allow(missing_docs)]

mod block_devices;
mod cp_fixture;
mod cp_options;
mod existing_targets;
mod file_lengths;
mod interrupted;
mod mounted_file_systems;
mod preserve;
mod progress_bar;
mod random_files;
mod recursive;
mod refusals;
mod sparse_files;
