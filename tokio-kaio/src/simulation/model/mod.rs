//! The model of a simulated disk: pure and synchronous. It has no clock, no lock and no runtime.

mod block_set;
mod cut_choice;
mod data_block;
mod device_queue;
mod disk_config;
mod disk_image;
mod disk_request;
mod disk_state;
mod disk_trace;
mod fault_injector;
mod file_content;
mod file_tree;
mod flight;
mod name_log;
mod power_cut;
mod request_kind;
mod request_life;
mod size_history;
#[cfg(test)]
mod tests;
mod write_faults;

pub(crate) use disk_config::{DiskConfig, NameDurability};
pub use disk_image::DiskImage;
pub(crate) use disk_request::{
    AllocateKind, Begun, Errno, Inode, Now, OpenMode, Rename, Request, RequestId, RequestKind, Stat,
};
pub(crate) use disk_state::DiskState;
pub use disk_trace::DiskTrace;
