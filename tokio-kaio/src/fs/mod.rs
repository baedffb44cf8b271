//! Files: opening, transfers, allocation and queries.

mod alignment_query;
mod allocation;
mod bound_file;
mod buffered;
#[cfg(feature = "bytes")]
mod bytes_sink;
mod chunk_buffers;
mod conversion;
mod dir_entries;
mod direct;
mod dispatch;
mod edge_write;
mod file;
mod file_call;
mod file_facts;
mod file_len;
mod file_reader;
#[cfg(feature = "bytes")]
mod file_stream;
mod file_writer;
mod in_flight_write;
mod open_by_handle;
mod open_error;
mod open_flags;
mod open_options;
mod owned_transfer;
mod page_cache;
mod publish;
mod publish_error;
mod range_lock;
#[cfg(feature = "bytes")]
mod ranges;
mod read_plan;
mod read_write_op;
#[cfg(feature = "simulation")]
mod simulated_open;
mod staged_file;
mod staged_file_builder;
mod staging_dir;
mod stream_error;
mod sync_dir;
mod temp_entry;
mod transfer;
mod unaligned;
mod unaligned_state;
mod unaligned_write;
mod write_behind;
mod write_plan;
mod write_setup;
mod write_signal;

pub use allocation::{Advice, Allocate, SyncRange};
pub use bound_file::BoundFile;
pub use dir_entries::{
    create_dir, create_dir_all, create_dir_all_blocking, create_dir_blocking, hard_link,
    hard_link_blocking, read_dir, read_dir_blocking, remove_dir, remove_dir_blocking, remove_file,
    remove_file_blocking, rename, rename_blocking, try_exists, try_exists_blocking,
};
pub use file::File;
pub use file_reader::FileReader;
#[cfg(feature = "bytes")]
pub use file_stream::FileStream;
pub use file_writer::FileWriter;
pub use open_options::AioOpenOptionsExt;
pub use publish::PublishMode;
pub use publish_error::PublishError;
#[cfg(feature = "bytes")]
pub use ranges::{Coalesce, RangeStream};
pub use staged_file::StagedFile;
pub use staged_file_builder::StagedFileBuilder;
pub use stream_error::StreamError;
pub use sync_dir::{sync_dir, sync_dir_blocking};
