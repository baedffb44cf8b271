//! [`BlockIo`]: reads and writes of blocks past the page cache.

use std::ops::Deref;

use tokio::runtime::Runtime;
use tokio_kaio::{AioContext, AioContextBuilder, AioContextHandle, Backend, IoGroup};

use super::block_buffers::BlockBuffers;
use super::copy_error::CopyError;
use super::session::Session;
use crate::command_error::CommandError;
use crate::thread_limit::current_thread_runtime;

/// Up to this many bytes are copied by threads: that takes less time than the 30 ms that the kernel needs
/// to destroy an AIO context.
const THREADS_UP_TO: u64 = 8 << 20;

/// The context and the buffers of a run, for files that are copied in blocks.
#[derive(Debug)]
pub(super) struct BlockIo<'a> {
    pub(super) session: &'a Session<'a>,
    pub(super) handle: AioContextHandle,
    /// The handle whose operations obey `--limit`: those that read, or where that is not possible, write.
    pub(super) limited: AioContextHandle,
    pub(super) buffers: BlockBuffers,
}

impl<'a> BlockIo<'a> {
    pub(super) fn new(
        session: &'a Session<'a>,
        handle: AioContextHandle,
    ) -> Result<BlockIo<'a>, CommandError> {
        let args = session.args;
        let limited = match args.limit {
            Some(rate) => handle.with_group(&IoGroup::new("cp").with_max_bandwidth(rate)),
            None => handle.clone(),
        };
        Ok(BlockIo {
            session,
            handle,
            limited,
            buffers: BlockBuffers::new(args.depth.into(), args.bs as usize)?,
        })
    }

    /// The size of chunks, a multiple of `alignment`.
    pub(super) fn chunk_size(&self, alignment: u64) -> Result<u64, CopyError> {
        let most = self.session.args.bs / alignment * alignment;
        if most == 0 {
            return Err(CopyError::new(format!(
                "direct I/O needs blocks of {alignment} bytes there, and --bs is {}; use --bs {alignment}",
                self.session.args.bs
            )));
        }
        let limit = self.session.args.limit;
        Ok(limit.map_or(most, |rate| chunk_at_rate(rate, most, alignment)))
    }
}

/// The size of chunks, at most `most`, at which about ten are transferred per second. A multiple of
/// `alignment`, as `most` is.
fn chunk_at_rate(bytes_per_second: u64, most: u64, alignment: u64) -> u64 {
    let tenth = (bytes_per_second / 10).next_multiple_of(alignment);
    tenth.clamp(alignment, most)
}

/// A [`BlockIo`] with the runtime that it needs. Made before anything is written, so that a machine that
/// can't start threads is an early error.
#[derive(Debug)]
pub(super) struct BlockEngine<'a> {
    io: BlockIo<'a>,
    context: AioContext,
    runtime: Runtime,
}

impl<'a> BlockEngine<'a> {
    /// Starts the runtime and a context for `bytes` bytes, of which up to `files` files may be flushed at
    /// the same time.
    ///
    /// # Errors
    ///
    /// A thread can't be started, or the context or the buffers can't be allocated.
    pub(super) fn start(
        session: &'a Session<'a>,
        bytes: u64,
        files: usize,
    ) -> Result<BlockEngine<'a>, CommandError> {
        let runtime = current_thread_runtime()?;
        // Each file in progress may have a flush in flight, which needs a slot.
        let builder = AioContextBuilder::new(usize::from(session.args.depth) + files);
        let builder = match bytes <= THREADS_UP_TO {
            true => builder.backend(Backend::ThreadPool),
            false => builder.automatic_backend(),
        };
        let (context, handle) = runtime.block_on(async { builder.build() })?;
        Ok(BlockEngine {
            io: BlockIo::new(session, handle)?,
            context,
            runtime,
        })
    }

    /// Runs `copy` to its end. A blocking call that has not returned, such as a read from a pipe without
    /// a writer, is left to the end of the process.
    pub(super) fn run<T>(self, copy: impl AsyncFnOnce(&BlockIo<'a>) -> T) -> T {
        let BlockEngine {
            io,
            context,
            runtime,
        } = self;
        let result = runtime.block_on(async {
            let result = copy(&io).await;
            // Nothing is in flight, and the process is about to end. close() would need a thread.
            drop(context);
            result
        });
        runtime.shutdown_background();
        result
    }
}

impl<'a> Deref for BlockIo<'a> {
    type Target = Session<'a>;

    fn deref(&self) -> &Session<'a> {
        self.session
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_get_smaller_with_the_rate() {
        assert_eq!(chunk_at_rate(1 << 40, 1 << 20, 4096), 1 << 20);
        assert_eq!(chunk_at_rate(100_000, 1 << 20, 4096), 12288);
        assert_eq!(chunk_at_rate(1, 1 << 20, 4096), 4096);
    }
}
