//! Files: opening, transfers, allocation and queries.

mod alignment_query;
mod allocation;
mod buffered;
mod conversion;
mod direct;
mod file;
mod file_facts;
mod open_options;
#[cfg_attr(not(test), allow(dead_code, reason = "for streams, which follow"))]
mod owned_op;
mod owned_transfer;
mod page_cache;
mod range_lock;
mod transfer;
mod unaligned;
mod unaligned_state;
mod unaligned_write;

pub use allocation::{Advice, Allocate, SyncRange};
pub use file::File;
pub use open_options::AioOpenOptionsExt;
