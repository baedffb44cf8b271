//! Tests of the program `kaio cp`.

#![allow(missing_docs)]

mod block_devices;
mod cp_fixture;
mod cp_options;
mod existing_targets;
mod file_lengths;
mod interrupted;
#[allow(dead_code, unreachable_pub, unsafe_code)]
#[path = "../../../tokio-kaio/tests/common/limits.rs"]
mod limits;
mod long_paths;
mod mounted_file_systems;
mod pipe_ends;
mod plain_renames;
mod preserve;
mod preserved_links;
mod progress_bar;
mod random_files;
mod recursive;
mod refusals;
mod running_copy;
mod shared_blocks;
mod small_trees;
mod sparse_files;
#[path = "../common/terminal.rs"]
mod terminal;
