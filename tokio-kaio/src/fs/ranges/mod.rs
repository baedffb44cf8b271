//! Byte ranges of a file as [`Bytes`](bytes::Bytes), read into pooled memory.

mod coalesce;
mod range_plan;
mod range_setup;
mod range_stream;
mod read_ranges;

pub use coalesce::Coalesce;
pub use range_stream::RangeStream;
