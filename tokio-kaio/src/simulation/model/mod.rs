//! The model of a simulated disk: pure and synchronous. It has no clock, no lock and no runtime.

mod disk_config;
mod disk_image;
mod disk_request;
mod disk_state;
mod disk_trace;

pub(crate) use disk_config::{DiskConfig, NameDurability};
pub use disk_image::DiskImage;
pub(crate) use disk_request::{
    AllocateKind, Begun, Errno, Inode, Now, OpenMode, Rename, Request, RequestId, RequestKind, Stat,
};
pub(crate) use disk_state::DiskState;
pub use disk_trace::DiskTrace;
