//! The model of a simulated disk: pure and synchronous. It has no clock, no lock and no runtime.
//!
//! # What survives a power cut
//!
//! The weakest that POSIX, ext4 (with `data=ordered`) and XFS allow:
//!
//! | what | durable after | until then |
//! |---|---|---|
//! | data | `fsync`, `fdatasync`; a write with `O_DSYNC`, `RWF_DSYNC` or stronger; the completion of a direct write, if the disk has no volatile cache | each atomic unit of each write survives or not, whatever the order; a write through the page cache has the earlier bytes of its sectors |
//! | length | `fsync`, `fdatasync`; such a write beyond the shortest length that may survive | a length that the file had since, or one between two if it grew |
//! | truncated data | as the length | survives with the old length only |
//! | holes, zeroed ranges | as data | as data |
//! | names | `fsync` of their directory | each name is at a point of its history; both names of a rename change together |
//! | names, with [`NameDurability::Journal`] | also `fsync` of the file; `fdatasync` commits its creation | the changes survive in order |
//!
//! What was complete when a sync began is durable when the sync completes. A request that is in flight at the cut
//! may have happened in part: any of its atomic units. What survives of the length decides what survives of the data
//! beyond it: the rest reads as zeroes.
//!
//! # Sources
//!
//! - `fsync` and `fdatasync`, with the length as metadata that `fdatasync` writes, and the note that the name of a
//!   file needs a sync of the directory: [`fsync(2)`](https://man7.org/linux/man-pages/man2/fsync.2.html), and
//!   [POSIX](https://pubs.opengroup.org/onlinepubs/9799919799/functions/fsync.html).
//! - `O_DSYNC`, `O_SYNC` and `O_TMPFILE`: [`open(2)`](https://man7.org/linux/man-pages/man2/open.2.html).
//! - Atomic renames: [`rename(2)`](https://man7.org/linux/man-pages/man2/rename.2.html).
//! - A journal that commits metadata in order, and data that is written before it:
//!   [ext4, `data=ordered`](https://docs.kernel.org/admin-guide/ext4.html), and
//!   [XFS, delayed logging](https://docs.kernel.org/filesystems/xfs/xfs-delayed-logging-design.html).
//! - Volatile caches, flushes and `FUA`:
//!   [writeback cache control](https://docs.kernel.org/block/writeback_cache_control.html).
//! - Which file systems keep which order, found by enumeration of the states after a crash: Pillai et al., *All File
//!   Systems Are Not Created Equal* (ALICE, OSDI 2014); Mohan et al., *Finding Crash-Consistency Bugs with Bounded
//!   Black-Box Crash Testing* (CrashMonkey, OSDI 2018).
//! - Syncs that fail and lose the data: Rebello et al., *Can Applications Recover from fsync Failures?* (USENIX ATC
//!   2020).
//!
//! # Where the model is weaker than ext4 and XFS
//!
//! It loses names of which the journal of both would keep the order, unless [`NameDurability::Journal`] is set. After
//! a truncation that is not durable, it may keep the old length with sectors of later writes.

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
