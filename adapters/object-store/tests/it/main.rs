//! The store, by its public interface. Each topic is compiled for each version of `object_store`.
#![allow(clippy::single_range_in_vec_init)] // `get_ranges` takes an array of ranges
#![allow(clippy::duplicate_mod)] // the same tests for each version

mod fixture;

#[path = "."]
mod v0_13 {
    use kaio_object_store::v0_13::{KaioFileSystem, KaioFileSystemBuilder};
    use object_store_0_13 as object_store;

    mod conformance;
    mod descriptors;
    mod differential;
    mod faults;
    mod paths;
    mod reads;
    mod runtimes;
    mod writes;
}

#[path = "."]
mod v0_14 {
    use kaio_object_store::v0_14::{KaioFileSystem, KaioFileSystemBuilder};
    use object_store_0_14 as object_store;

    mod conformance;
    mod descriptors;
    mod differential;
    mod faults;
    mod paths;
    mod reads;
    mod runtimes;
    mod writes;
}
