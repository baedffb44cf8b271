//! Calls of a [`BoundFile`] that io_uring performs, and tokio's blocking pool on other backends.

use std::future::Future;
use std::io;

use lock_api::RawMutex;

use super::{Allocate, BoundFile, SyncRange};
#[cfg(doc)]
use crate::AioCommandError;
use crate::backend::OpCode;
use crate::op::{FileRef, IoOp};

/// The calls that a context performs, and not a thread of the process.
impl<M: RawMutex, A, L> BoundFile<M, A, L> {
    /// Allocates or frees the blocks of a range: [`File::allocate`](crate::File::allocate).
    ///
    /// On [`Backend::IoUring`](crate::Backend::IoUring) this takes a slot of the context, and no thread of
    /// tokio's blocking pool. The [deadline](BoundFile::with_deadline) of the handle applies on every backend.
    ///
    /// # Errors
    ///
    /// Those of [`File::allocate`](crate::File::allocate), and an [`AioCommandError`], as the source of an error
    /// without an errno: the context has ended, the deadline has passed, this process is a forked child of the one
    /// that made the context, or, on io_uring, no slot is free and requests do not wait for one.
    ///
    /// # Cancel safety
    ///
    /// The call may still take effect after its future is dropped, after its deadline, and after the end of the
    /// context. In the blocking pool, [`File::drain`](crate::File::drain) does not wait for it.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, if the pool has to perform the call: on backends other than io_uring, and on
    /// io_uring if a signal interrupts it. Never on a context with its [own
    /// thread](crate::AioContextBuilder::own_thread).
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{AioContextBuilder, Allocate, Backend, File, SyncRange};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("log");
    /// let handle = AioContextBuilder::new(8)
    ///     .backends(&[Backend::IoUring, Backend::KernelAio, Backend::ThreadPool])
    ///     .build_detached()?;
    /// let log = File::create(path, false).await?.with_handle(&handle);
    /// log.allocate(Allocate::Extend, 0, 1 << 20).await?;
    /// log.set_len(4096).await?;
    /// log.sync_range(0, 0, SyncRange::WRITE).await?;
    /// assert_eq!(log.file().metadata().await?.len(), 4096);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "fallocate")]
    pub async fn allocate(&self, mode: Allocate, offset: u64, len: u64) -> io::Result<()> {
        let request = match i64::try_from(offset) {
            Ok(at) if self.handle().file_calls().allocate && i64::try_from(len).is_ok() => {
                Some(IoOp {
                    offset: at,
                    nbytes: len,
                    rw_flags: mode.mode(),
                    ..IoOp::new(OpCode::Allocate)
                })
            }
            _ => None,
        };
        let on_pool = self.file().allocate(mode, offset, len);
        let on_done = || self.file().on_allocated(mode, offset, len);
        self.call(request, on_done, on_pool).await
    }

    /// Changes the length of the file: [`File::set_len`](crate::File::set_len). Since Linux 6.9, this takes no
    /// thread of tokio's blocking pool on io_uring, as [`allocate`](BoundFile::allocate).
    ///
    /// # Errors
    ///
    /// Those of [`File::set_len`](crate::File::set_len), and each [`AioCommandError`] of
    /// [`allocate`](BoundFile::allocate).
    ///
    /// # Cancel safety
    ///
    /// As [`allocate`](BoundFile::allocate).
    ///
    /// # Panics
    ///
    /// As [`allocate`](BoundFile::allocate).
    ///
    /// # Examples
    ///
    /// See [`allocate`](BoundFile::allocate).
    #[doc(alias = "ftruncate")]
    pub async fn set_len(&self, size: u64) -> io::Result<()> {
        let has_call = self.handle().file_calls().truncate && i64::try_from(size).is_ok();
        let request = has_call.then(|| IoOp {
            nbytes: size,
            ..IoOp::new(OpCode::Truncate)
        });
        let on_done = || self.file().on_len_set(size);
        self.call(request, on_done, self.file().set_len(size)).await
    }

    /// Writes dirty pages of a range to the disk, or waits for them:
    /// [`File::sync_range`](crate::File::sync_range). For ranges of less than 4 GiB, this takes no thread of
    /// tokio's blocking pool on io_uring, as [`allocate`](BoundFile::allocate).
    ///
    /// # Errors
    ///
    /// Those of [`File::sync_range`](crate::File::sync_range), and each [`AioCommandError`] of
    /// [`allocate`](BoundFile::allocate).
    ///
    /// # Cancel safety
    ///
    /// As [`allocate`](BoundFile::allocate).
    ///
    /// # Panics
    ///
    /// As [`allocate`](BoundFile::allocate).
    ///
    /// # Examples
    ///
    /// See [`allocate`](BoundFile::allocate).
    #[doc(alias = "sync_file_range")]
    pub async fn sync_range(&self, offset: u64, len: u64, steps: SyncRange) -> io::Result<()> {
        let has_call = self.handle().file_calls().allocate && u32::try_from(len).is_ok();
        let request = match i64::try_from(offset) {
            Ok(at) if has_call => Some(IoOp {
                offset: at,
                nbytes: len,
                rw_flags: steps.bits() as i32,
                ..IoOp::new(OpCode::SyncRange)
            }),
            _ => None,
        };
        let on_pool = self.file().sync_range(offset, len, steps);
        self.call(request, || (), on_pool).await
    }

    /// Performs a call: by `request`, after which `on_done` is called, or by `on_pool` if the context does not
    /// perform the call, or not to its end.
    async fn call(
        &self,
        request: Option<IoOp>,
        on_done: impl FnOnce(),
        on_pool: impl Future<Output = io::Result<()>>,
    ) -> io::Result<()> {
        let limited = self.handle().limited();
        let (deadline, handle) = self.handle().or_limited(&limited);
        handle.check_start(deadline)?;
        if let Some(op) = request {
            let file = FileRef::Open(&self.file().inner.open);
            let Err(error) = handle.file_call(file, op).await else {
                on_done();
                return Ok(());
            };
            match error.raw_os_error() {
                // The thread that submitted it has ended too often, or a signal has come. The context may have
                // ended meanwhile.
                Some(libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {
                    handle.check_start(deadline)?
                }
                Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
                None => return Err(error.into()),
            }
        }
        handle.in_place_of_request(deadline, on_pool).await
    }
}
