//! Operations: the requests on a file, with their memory.
//!
//! These types carry data from the public API to the driver. They do not submit and do not lock. To add an
//! operation, add its [`OpCode`](crate::backend::OpCode) to the backends, a constructor to [`IoRequest`],
//! and a variant to [`RawCommand`](crate::RawCommand).

mod file_ref;
mod io_buffer;
mod io_op;
mod io_request;
mod iovecs;
mod new_request;
mod open_file;
mod owned_buffer;
mod submission;

pub(crate) use file_ref::FileRef;
pub(crate) use io_buffer::{BufferReturn, IoBuffer};
pub(crate) use io_op::{IoOp, Outcome};
pub(crate) use io_request::IoRequest;
pub(crate) use new_request::{NewRequest, SubmitPermit};
pub(crate) use open_file::{FileId, OpenFile};
pub(crate) use owned_buffer::{OwnedBuffer, OwnedBuffers};
pub(crate) use submission::SubmissionEntry;
