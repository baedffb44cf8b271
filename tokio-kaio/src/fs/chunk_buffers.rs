//! [`ChunkBuffers`]: the buffers that a stream uses again. [`pooled_buffer`]: one from a pool.

use lock_api::RawMutex;

use super::unaligned_write::no_memory;
use crate::{AioCommandError, AlignedBuf, GenericAioContextHandle, SizeClassPool};

/// Buffers of chunks that are done, for the next chunks. Further ones come from the pool of the handle.
#[derive(Debug, Default)]
pub(super) struct ChunkBuffers(Vec<AlignedBuf>);

impl ChunkBuffers {
    /// Returns a buffer of at least `len` bytes. `alignment`: that of its address, a power of two.
    pub(super) fn take<M: RawMutex, A, L>(
        &mut self,
        aio_handle: &GenericAioContextHandle<M, A, L>,
        len: usize,
        alignment: usize,
    ) -> Result<AlignedBuf, AioCommandError> {
        let fits =
            |buffer: &AlignedBuf| buffer.size() >= len && buffer.as_ptr().addr() % alignment == 0;
        while let Some(buffer) = self.0.pop() {
            if fits(&buffer) {
                return Ok(buffer);
            }
        }
        pooled_buffer(aio_handle.buffers(), len, alignment)
    }

    /// Keeps a buffer, unless there are `depth` chunks already: those of `in_use` and those here.
    pub(super) fn keep(&mut self, buffer: AlignedBuf, in_use: usize, depth: usize) {
        if buffer.size() > 0 && self.0.len() + in_use < depth {
            self.0.push(buffer);
        }
    }
}

/// Returns a buffer of `len` bytes from `pool`, or a mapped one if the pool's are not aligned enough.
/// `alignment`: that of its address, a power of two.
pub(super) fn pooled_buffer(
    pool: &SizeClassPool,
    len: usize,
    alignment: usize,
) -> Result<AlignedBuf, AioCommandError> {
    let pooled = pool.get_or_map(len).map_err(no_memory)?;
    match pooled.as_ptr().addr() % alignment {
        0 => Ok(pooled),
        _ => AlignedBuf::with_alignment(len, alignment).map_err(no_memory),
    }
}
