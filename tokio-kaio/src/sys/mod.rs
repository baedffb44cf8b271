//! The interface to the operating system, except I/O submission: memory, processes, direct I/O,
//! allocation. No policy, no tokio.

pub(crate) mod abi;
mod direct_io;
mod directory;
mod fallocate;
mod fork;
mod memory;
#[cfg(feature = "simulation")]
mod placeholder;
mod syscalls;
#[cfg(all(test, not(kaio_loom)))]
mod unknown_usage;

pub(crate) use direct_io::{
    DirectIo, atomic_sizes, direct_io, least_direct, logical_block_size, try_read,
};
pub(crate) use directory::{Directory, is_linkable};
pub(crate) use fallocate::{advise, allocate, sync_file_range};
pub use fork::Process;
pub(crate) use memory::{HUGE_PAGE, Mapping, page_size};
#[cfg(feature = "simulation")]
pub(crate) use placeholder::{NewPlaceholder, resize_placeholder, set_placeholder_permissions};
pub(crate) use syscalls::{
    ThreadUsage, clear_direct, create_eventfd, current_cpu, duplicate, is_direct, memlock_limit,
    set_direct, signal, status_flags, thread_usage,
};
#[cfg(all(test, not(kaio_loom)))]
pub(crate) use unknown_usage::UnknownUsage;
