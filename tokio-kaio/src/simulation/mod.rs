//! A simulated disk: files in memory that forget what was not flushed when the power is cut.
//!
//! [`SimDisk`] is the disk. A program uses it through the same API as any other: it opens files below
//! [`SimDisk::path`], and runs requests on a context of
//! [`AioContextBuilder::simulated`](crate::AioContextBuilder::simulated). [`SimDisk::power_cut`] returns a
//! [`DiskImage`] that boots as a new disk. A [`FaultPlan`] says what goes wrong.
//! [`explore`] and [`Explorer`] run a program under many power cuts, and shrink a failure to the earliest one.

mod disk;
mod exploration;
mod explore_failure;
mod explorer;
mod fault;
mod model;
mod mount_name;
mod mount_points;
mod seeded_rng;
mod service_time;
mod sim_disk;
mod sim_disk_builder;
mod simulated_file;
mod simulated_path;

pub use exploration::Explored;
pub use explore_failure::ExploreFailure;
pub use explorer::{Explorer, explore};
pub use fault::{Fault, FaultPlan, Operations};
pub use model::{DiskImage, DiskTrace};
pub use service_time::{Bandwidth, Latency};
pub use sim_disk::SimDisk;
pub use sim_disk_builder::SimDiskBuilder;

pub(crate) use disk::{Access, Descriptor, Disk, DiskCore, PowerListener};
pub(crate) use simulated_file::{OpenedFile, SimulatedFile};
pub(crate) use simulated_path::{OpenDir, SimulatedPath};

#[allow(unused_imports, reason = "the interface of the model")]
pub(crate) use model::{
    AllocateKind, Begun, DiskConfig, DiskState, Errno, Inode, NameDurability, Now, OpenMode,
    Rename, Request, RequestId, RequestKind, Stat,
};
