//! [`Allocate`], [`SyncRange`], [`Advice`]: what a file has on the disk and in the page cache.

use std::io;
use std::sync::Arc;

use bitflags::bitflags;

use super::File;
use super::file::FileInner;
use super::file::run_blocking;
use crate::sys;

/// What [`File::allocate`] does to a range of a file: the modes of
/// [`fallocate(2)`](https://man7.org/linux/man-pages/man2/fallocate.2.html).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Allocate {
    /// Allocates blocks where there are none, and makes the file longer where the range ends past
    /// its end (mode 0). New blocks read as zeroes; data stay as they are.
    Extend,

    /// The same, but the file keeps its length (`FALLOC_FL_KEEP_SIZE`): blocks past its end are
    /// kept for writes that extend it later.
    KeepSize,

    /// Gives blocks back, and leaves a hole, which reads as zeroes; the file keeps its length
    /// (`FALLOC_FL_PUNCH_HOLE`). Blocks that the range covers in part stay, zeroed in that part.
    PunchHole,

    /// Zeroes the range, mostly without writing zeroes to the disk: its blocks are allocated, and
    /// marked as unwritten (`FALLOC_FL_ZERO_RANGE`). The file gets longer where the range ends past
    /// its end.
    ZeroRange,

    /// The same, but the file keeps its length.
    ZeroRangeKeepSize,
}

impl Allocate {
    fn mode(self) -> libc::c_int {
        match self {
            Allocate::Extend => 0,
            Allocate::KeepSize => libc::FALLOC_FL_KEEP_SIZE,
            Allocate::PunchHole => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
            Allocate::ZeroRange => libc::FALLOC_FL_ZERO_RANGE,
            Allocate::ZeroRangeKeepSize => libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
        }
    }
}

bitflags! {
    /// The steps of [`File::sync_range`]: the flags of
    /// [`sync_file_range(2)`](https://man7.org/linux/man-pages/man2/sync_file_range.2.html).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct SyncRange: u32 {
        /// Wait, first, for those pages of the range that are on their way to the disk already.
        const WAIT_BEFORE = libc::SYNC_FILE_RANGE_WAIT_BEFORE;

        /// Send the dirty pages of the range on their way. That too can wait, for the device's queue.
        const WRITE = libc::SYNC_FILE_RANGE_WRITE;

        /// Wait, last, until those that are on their way have been written.
        const WAIT_AFTER = libc::SYNC_FILE_RANGE_WAIT_AFTER;
    }
}

/// What to expect of the page cache, for [`File::advise`]: the advice of
/// [`posix_fadvise(2)`](https://man7.org/linux/man-pages/man2/posix_fadvise.2.html).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Advice {
    /// Nothing in particular (`POSIX_FADV_NORMAL`).
    Normal,

    /// Buffered reads go from lower offsets to higher ones: read further ahead
    /// (`POSIX_FADV_SEQUENTIAL`).
    Sequential,

    /// Buffered reads go anywhere: do not read ahead (`POSIX_FADV_RANDOM`).
    Random,

    /// What is read is not read again soon (`POSIX_FADV_NOREUSE`; without effect before Linux 6.3).
    NoReuse,

    /// Read the range to the page cache now (`POSIX_FADV_WILLNEED`).
    WillNeed,

    /// Take the range out of the page cache, except pages that are dirty or in use
    /// (`POSIX_FADV_DONTNEED`).
    DontNeed,
}

impl Advice {
    fn code(self) -> libc::c_int {
        match self {
            Advice::Normal => libc::POSIX_FADV_NORMAL,
            Advice::Sequential => libc::POSIX_FADV_SEQUENTIAL,
            Advice::Random => libc::POSIX_FADV_RANDOM,
            Advice::NoReuse => libc::POSIX_FADV_NOREUSE,
            Advice::WillNeed => libc::POSIX_FADV_WILLNEED,
            Advice::DontNeed => libc::POSIX_FADV_DONTNEED,
        }
    }
}

impl File {
    /// Allocates, frees or zeroes `len` bytes at `offset`, as `mode` says, on tokio's blocking pool.
    ///
    /// With direct I/O this decides whether a write is asynchronous. One that extends the file, or
    /// fills a hole, has to allocate its blocks inside the submission, and on ext4 waits there; one
    /// to blocks that [`Allocate::Extend`] has allocated ahead of it does not wait on ext4 and XFS, and
    /// is not refused with `NOWAIT`. [`Allocate::KeepSize`] saves the allocation alone: a write past
    /// the end of the file still changes its length, and on ext4 waits for that. Into a hole that was
    /// punched, writes allocate again.
    ///
    /// The file learns from that ([`SubmitPolicy::NoWaitFirst`](crate::SubmitPolicy::NoWaitFirst)):
    /// writes to what was allocated or zeroed count as overwrites, and those from the start of a
    /// hole on as going to where no data is known to be.
    ///
    /// The range need not be aligned. While it is changed, requests on the file wait for that, and
    /// a hole is punched when the requests in flight are done. Allocated space survives a crash once
    /// [`sync_all`](File::sync_all) or [`sync_data`](File::sync_data) has completed after it.
    ///
    /// # Errors
    ///
    /// Those of [`fallocate(2)`](https://man7.org/linux/man-pages/man2/fallocate.2.html), among them:
    ///
    /// - `EBADF`: the file is not open for writing.
    /// - `EFBIG`: the range ends past the largest file that the file system or `RLIMIT_FSIZE` allows.
    /// - `EINVAL`: `len` is 0.
    /// - `ENOSPC`: there is no room for all of it; some of the range may have been allocated. On ext4
    ///   that is all that was free: the disk is full then, and the file longer
    ///   ([`Allocate::Extend`]), until [`set_len`](File::set_len) or [`Allocate::PunchHole`] gives it
    ///   back.
    /// - `EOPNOTSUPP`: the file system doesn't have this mode: tmpfs has no zeroing. Write zeroes
    ///   then.
    /// - `EPERM`, `ETXTBSY`: the file is immutable, sealed, or being executed.
    ///
    /// # Cancel safety
    ///
    /// The call may still take effect after its future is dropped.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{Allocate, File, LockedBuf, WriteFlags, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("log");
    /// // A log gets its blocks 1 MiB at a time, ahead of what is written.
    /// let (context, handle) = aio_context(32, true)?;
    /// let log = File::create(path, false).await?;
    /// log.allocate(Allocate::Extend, 0, 1 << 20).await?;
    /// assert_eq!(log.metadata().await?.len(), 1 << 20);
    ///
    /// let record = LockedBuf::with_size(4096)?;
    /// log.write_at(&handle, 0, &record, 4096, WriteFlags::DSYNC).await?;
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "fallocate")]
    pub async fn allocate(&self, mode: Allocate, offset: u64, len: u64) -> io::Result<()> {
        let file = Arc::clone(&self.inner);
        run_blocking(move || {
            let (at, bytes) = (signed(offset, libc::EFBIG)?, signed(len, libc::EFBIG)?);
            sys::allocate(file.file(), mode.mode(), at, bytes)?;
            match mode {
                Allocate::PunchHole => file.open.history().ends_at(offset),
                _ => has_blocks_to(&file, offset.saturating_add(len)),
            }
            Ok(())
        })
        .await
    }

    /// Writes what the page cache has of `len` bytes at `offset` to the disk, or waits for that, in
    /// the steps that `steps` name, on tokio's blocking pool. With a `len` of 0: from `offset` to the
    /// end of the file.
    ///
    /// It is about the page cache. What is written with direct I/O has not been there, so this does
    /// nothing for it; it is for what was written to the same file buffered. Begun early,
    /// with [`SyncRange::WRITE`] alone, it keeps dirty pages from piling up, so that a later
    /// [`sync_data`](File::sync_data) has little left to do.
    ///
    /// **Nothing is durable after it.** Metadata, without which new blocks can't be found, is not
    /// written, and the disk's own cache is not flushed. [`sync_data`](File::sync_data) and
    /// [`sync_all`](File::sync_all) do both.
    ///
    /// # Errors
    ///
    /// Those of [`sync_file_range(2)`](https://man7.org/linux/man-pages/man2/sync_file_range.2.html),
    /// among them:
    ///
    /// - `EINVAL`: the range ends past `i64::MAX`, or `steps` has a bit that is not named.
    /// - `EIO`, `ENOSPC`: a page could not be written.
    /// - `ESPIPE`: what is open is neither a regular file nor a block device.
    ///
    /// # Cancel safety
    ///
    /// The call may still take effect after its future is dropped.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{File, SyncRange};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, [7; 4096])?;
    /// let table = File::open(path, false).await?;
    /// table.sync_range(0, 0, SyncRange::WRITE).await?; // does not wait for the pages
    /// table.sync_range(0, 0, SyncRange::all()).await?; // does
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "sync_file_range")]
    pub async fn sync_range(&self, offset: u64, len: u64, steps: SyncRange) -> io::Result<()> {
        let file = Arc::clone(&self.inner);
        run_blocking(move || {
            let (at, bytes) = (signed(offset, libc::EINVAL)?, signed(len, libc::EINVAL)?);
            sys::sync_file_range(file.file(), at, bytes, steps.bits())
        })
        .await
    }

    /// Tells the kernel what to expect of `len` bytes at `offset`, on tokio's blocking pool. With a
    /// `len` of 0: from `offset` to the end of the file.
    ///
    /// It is about the page cache, and about this open file: reads and writes that are direct
    /// neither use what [`Advice::WillNeed`] brings there, nor read ahead. What helps them is
    /// [`Advice::DontNeed`], where others have read or written the file buffered: pages in the cache
    /// have to be written out and dropped by each direct write there, which waits for that, and is
    /// refused with `NOWAIT`. Dirty pages stay; [`sync_range`](File::sync_range) before it.
    ///
    /// # Errors
    ///
    /// Those of [`posix_fadvise(2)`](https://man7.org/linux/man-pages/man2/posix_fadvise.2.html):
    /// `EINVAL` where `offset` or `len` is past `i64::MAX`; `ESPIPE` for a pipe.
    ///
    /// # Cancel safety
    ///
    /// The call may still take effect after its future is dropped.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{Advice, File, SyncRange};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// std::fs::write(&path, [7; 8192])?; // through the page cache
    /// let table = File::open(path, false).await?;
    /// table.sync_range(0, 0, SyncRange::all()).await?;
    /// table.advise(0, 0, Advice::DontNeed).await?; // which is empty now
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "posix_fadvise")]
    #[doc(alias = "fadvise")]
    pub async fn advise(&self, offset: u64, len: u64, advice: Advice) -> io::Result<()> {
        let file = Arc::clone(&self.inner);
        run_blocking(move || {
            let (at, bytes) = (signed(offset, libc::EINVAL)?, signed(len, libc::EINVAL)?);
            sys::advise(file.file(), at, bytes, advice.code())
        })
        .await
    }
}

/// As the kernel takes it; where it can't, the errno that the kernel has for what is too much.
fn signed(value: u64, errno: i32) -> io::Result<i64> {
    i64::try_from(value).map_err(|_| io::Error::from_raw_os_error(errno))
}

/// There are blocks up to `end`. As far as the file goes, a write to them is one like any overwrite;
/// past that it would have to change the file's length.
fn has_blocks_to(file: &FileInner, end: u64) {
    if let Ok(metadata) = file.file().metadata() {
        file.open.history().has_data_to(end.min(metadata.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::OpCode;
    use crate::op::IoOp;
    use crate::policy::OpClass;

    const BLOCK: u64 = 4096;

    /// What a write of one block is taken for.
    fn class_at(file: &File, block: u64) -> Option<OpClass> {
        let op = IoOp {
            nbytes: BLOCK,
            offset: (block * BLOCK) as i64,
            ..IoOp::new(OpCode::Write)
        };
        file.inner.open.history().classify(&op.info())
    }

    fn new_file() -> File {
        File::new(tempfile::tempfile().unwrap(), false)
    }

    #[tokio::test]
    async fn writes_to_allocated_space_count_as_overwrites_up_to_the_end_of_the_file() {
        let file = new_file();
        assert_eq!(class_at(&file, 0), Some(OpClass::Extend));
        file.allocate(Allocate::Extend, 0, 4 * BLOCK).await.unwrap();
        assert_eq!(class_at(&file, 3), Some(OpClass::Overwrite));
        let kept = file.allocate(Allocate::KeepSize, 4 * BLOCK, 4 * BLOCK);
        kept.await.unwrap();
        assert_eq!(class_at(&file, 4), Some(OpClass::Extend));
    }

    #[tokio::test]
    async fn writes_into_a_punched_hole_do_not_count_as_overwrites() {
        let file = new_file();
        file.allocate(Allocate::Extend, 0, 4 * BLOCK).await.unwrap();
        let punched = file.allocate(Allocate::PunchHole, 2 * BLOCK, BLOCK).await;
        if let Err(error) = punched {
            eprintln!("skipped: no holes can be punched here: {error}");
            return;
        }
        assert_eq!(class_at(&file, 1), Some(OpClass::Overwrite));
        assert_eq!(class_at(&file, 2), Some(OpClass::Extend));
    }
}
