//! The package, by its public interface, and its example.

mod cluster_example;
mod executors;
mod files_on_disk;
mod plans;
mod standalone_clusters;
