//! A simulated disk: files in memory that forget what was not flushed when the power is cut.

mod fault;
#[allow(dead_code, reason = "the disk uses it")]
mod model;
mod seeded_rng;
mod service_time;

pub use fault::{Fault, FaultPlan, Operations};
pub use model::{DiskImage, DiskTrace};
pub use service_time::{Bandwidth, Latency};

#[allow(unused_imports, reason = "the interface of the model")]
pub(crate) use model::{
    AllocateKind, Begun, DiskConfig, DiskState, Errno, Inode, NameDurability, Now, OpenMode,
    Rename, Request, RequestId, RequestKind, Stat,
};
