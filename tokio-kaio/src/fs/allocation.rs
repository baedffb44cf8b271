//! [`File::allocate`], [`File::sync_range`], [`File::advise`]: disk blocks and page cache of a file.

use std::io;
use std::sync::Arc;

use bitflags::bitflags;

use super::File;
use super::dispatch::run_on_file;
use super::file::FileInner;
use crate::sys;

/// The mode of [`File::allocate`]: a mode of
/// [`fallocate(2)`](https://man7.org/linux/man-pages/man2/fallocate.2.html).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Allocate {
    /// Allocates blocks where there are none, and extends the file if the range ends past its end (mode 0).
    /// New blocks read as zeroes; existing data stays.
    Extend,

    /// Allocates blocks like [`Extend`](Allocate::Extend), but the file keeps its length
    /// (`FALLOC_FL_KEEP_SIZE`): blocks past its end are reserved for writes that extend it later.
    KeepSize,

    /// Frees blocks, and leaves a hole that reads as zeroes. The file keeps its length
    /// (`FALLOC_FL_PUNCH_HOLE`). Blocks that the range covers in part stay, and that part is zeroed.
    PunchHole,

    /// Zeroes the range, mostly without writing zeroes to the disk: its blocks are allocated and marked as
    /// unwritten (`FALLOC_FL_ZERO_RANGE`). Extends the file if the range ends past its end.
    ZeroRange,

    /// Zeroes the range like [`ZeroRange`](Allocate::ZeroRange), but the file keeps its length.
    ZeroRangeKeepSize,
}

impl Allocate {
    pub(super) fn mode(self) -> libc::c_int {
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
        /// First wait for the pages of the range that are already being written to the disk.
        const WAIT_BEFORE = libc::SYNC_FILE_RANGE_WAIT_BEFORE;

        /// Start to write the dirty pages of the range to the disk. This can wait for the device's queue.
        const WRITE = libc::SYNC_FILE_RANGE_WRITE;

        /// Last wait until all pages that are being written to the disk are written.
        const WAIT_AFTER = libc::SYNC_FILE_RANGE_WAIT_AFTER;
    }
}

/// The access pattern that the kernel should expect, for [`File::advise`]: the advice of
/// [`posix_fadvise(2)`](https://man7.org/linux/man-pages/man2/posix_fadvise.2.html).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Advice {
    /// No particular pattern (`POSIX_FADV_NORMAL`).
    Normal,

    /// Buffered reads have ascending offsets: read further ahead (`POSIX_FADV_SEQUENTIAL`).
    Sequential,

    /// Buffered reads have random offsets: do not read ahead (`POSIX_FADV_RANDOM`).
    Random,

    /// Data is not read again soon (`POSIX_FADV_NOREUSE`; no effect before Linux 6.3).
    NoReuse,

    /// Read the range into the page cache now (`POSIX_FADV_WILLNEED`).
    WillNeed,

    /// Remove the range from the page cache, except pages that are dirty or in use
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
    /// Allocates, frees or zeroes `len` bytes at `offset`, depending on `mode`, on tokio's blocking pool.
    ///
    /// With direct I/O this decides whether a write is asynchronous. A write that extends the file or fills a
    /// hole has to allocate disk blocks within the submission, which waits for that on ext4. A write to a
    /// range that [`Allocate::Extend`] has allocated before does not wait on ext4 and XFS, and is not refused
    /// with `NOWAIT`. [`Allocate::KeepSize`] saves only the allocation: a write past the end of the file still
    /// changes the length of the file, and waits for that on ext4. Writes into a punched hole allocate
    /// again.
    ///
    /// The file remembers the call for [`SubmitPolicy::NoWaitFirst`](crate::SubmitPolicy::NoWaitFirst): later
    /// writes to an allocated or zeroed range count as overwrites. After a hole was punched, writes at or
    /// past its start count as writes to a range without data.
    ///
    /// The range need not be aligned. Requests on the file wait while the range is changed, and a hole is
    /// punched when the requests in flight are done. Allocated space survives a crash once a later
    /// [`sync_all`](File::sync_all) or [`sync_data`](File::sync_data) has completed.
    ///
    /// # Errors
    ///
    /// The errors of [`fallocate(2)`](https://man7.org/linux/man-pages/man2/fallocate.2.html), among them:
    ///
    /// - `EBADF`: the file is not open for writing.
    /// - `EFBIG`: the range ends past the largest file that the file system or `RLIMIT_FSIZE` allows.
    /// - `EINVAL`: `len` is 0.
    /// - `ENOSPC`: there is not enough space for the whole range; a part of it may have been allocated. ext4
    ///   allocates all free space in this case: the disk is full then, and the file is longer
    ///   ([`Allocate::Extend`]), until [`set_len`](File::set_len) or [`Allocate::PunchHole`] frees the space.
    /// - `EOPNOTSUPP`: the file system does not support this mode; tmpfs, for example, can't zero ranges.
    ///   Write zeroes instead.
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
        let call = move |file: &FileInner| allocate(file, mode, offset, len);
        run_on_file(Arc::clone(&self.inner), call).await
    }

    /// Does what [`allocate`](File::allocate) does, on the calling thread, which may wait for the disk.
    ///
    /// # Errors
    ///
    /// Those of [`allocate`](File::allocate), except `EAGAIN`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{Allocate, File};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("log");
    /// let log = File::create_blocking(path, false)?;
    /// log.allocate_blocking(Allocate::Extend, 0, 1 << 20)?;
    /// assert_eq!(log.metadata_blocking()?.len(), 1 << 20);
    /// # Ok(())
    /// # }
    /// ```
    pub fn allocate_blocking(&self, mode: Allocate, offset: u64, len: u64) -> io::Result<()> {
        allocate(&self.inner, mode, offset, len)
    }

    /// Writes the dirty pages of `len` bytes at `offset` from the page cache to the disk, or waits for that, as
    /// `steps` selects, on tokio's blocking pool. A `len` of 0 means: from `offset` to the end of the file.
    ///
    /// This concerns only data that was written to the same file through the page cache. Direct I/O leaves
    /// nothing there. Called early, with [`SyncRange::WRITE`] alone, it keeps dirty pages from piling up, so
    /// that a later [`sync_data`](File::sync_data) has little left to do.
    ///
    /// **This makes nothing durable.** It does not write metadata, without which new blocks can't be found,
    /// and does not flush the cache of the disk. [`sync_data`](File::sync_data) and
    /// [`sync_all`](File::sync_all) do both.
    ///
    /// # Errors
    ///
    /// The errors of [`sync_file_range(2)`](https://man7.org/linux/man-pages/man2/sync_file_range.2.html),
    /// among them:
    ///
    /// - `EINVAL`: the range ends past `i64::MAX`, or `steps` has an unknown bit.
    /// - `EIO`, `ENOSPC`: a page could not be written.
    /// - `ESPIPE`: the file is neither a regular file nor a block device.
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
    /// table.sync_range(0, 0, SyncRange::all()).await?; // waits for them
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "sync_file_range")]
    pub async fn sync_range(&self, offset: u64, len: u64, steps: SyncRange) -> io::Result<()> {
        let call = move |file: &FileInner| sync_range(file, offset, len, steps);
        run_on_file(Arc::clone(&self.inner), call).await
    }

    /// Does what [`sync_range`](File::sync_range) does, on the calling thread, which may wait for the disk.
    ///
    /// # Errors
    ///
    /// Those of [`sync_range`](File::sync_range), except `EAGAIN`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{File, SyncRange};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, [7; 4096])?;
    /// let table = File::open_blocking(path, false)?;
    /// table.sync_range_blocking(0, 0, SyncRange::all())?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn sync_range_blocking(&self, offset: u64, len: u64, steps: SyncRange) -> io::Result<()> {
        sync_range(&self.inner, offset, len, steps)
    }

    /// Declares the expected access pattern of `len` bytes at `offset` to the kernel, on tokio's blocking pool.
    /// A `len` of 0 means: from `offset` to the end of the file.
    ///
    /// The advice concerns the page cache and this open file. Direct reads and writes neither use the data
    /// that [`Advice::WillNeed`] brings into the page cache, nor read ahead. [`Advice::DontNeed`] helps them if
    /// others have read or written the file buffered: each direct write has to write out and drop the pages
    /// of its range, which blocks, and is refused with `NOWAIT`. Dirty pages stay, so call
    /// [`sync_range`](File::sync_range) before.
    ///
    /// # Errors
    ///
    /// The errors of [`posix_fadvise(2)`](https://man7.org/linux/man-pages/man2/posix_fadvise.2.html):
    /// `EINVAL` if `offset` or `len` exceeds `i64::MAX`, `ESPIPE` for a pipe.
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
    /// table.advise(0, 0, Advice::DontNeed).await?; // the page cache has none of it now
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "posix_fadvise")]
    #[doc(alias = "fadvise")]
    pub async fn advise(&self, offset: u64, len: u64, advice: Advice) -> io::Result<()> {
        let call = move |file: &FileInner| advise(file, offset, len, advice);
        run_on_file(Arc::clone(&self.inner), call).await
    }

    /// Does what [`advise`](File::advise) does, on the calling thread, which may wait for the disk.
    ///
    /// # Errors
    ///
    /// Those of [`advise`](File::advise), except `EAGAIN`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{Advice, File};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// # std::fs::write(&path, [7; 4096])?;
    /// let table = File::open_blocking(path, false)?;
    /// table.advise_blocking(0, 0, Advice::DontNeed)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn advise_blocking(&self, offset: u64, len: u64, advice: Advice) -> io::Result<()> {
        advise(&self.inner, offset, len, advice)
    }

    /// Takes note of an allocation.
    pub(super) fn on_allocated(&self, mode: Allocate, offset: u64, len: u64) {
        on_allocated(&self.inner, mode, offset, len);
    }
}

fn allocate(file: &FileInner, mode: Allocate, offset: u64, len: u64) -> io::Result<()> {
    let (at, bytes) = (to_i64(offset, libc::EFBIG)?, to_i64(len, libc::EFBIG)?);
    #[cfg(feature = "simulation")]
    if let Some(simulated) = file.open.simulated() {
        simulated.allocate(mode.mode(), offset, len)?;
        return Ok(());
    }
    sys::allocate(file.file(), mode.mode(), at, bytes)?;
    on_allocated(file, mode, offset, len);
    Ok(())
}

fn on_allocated(file: &FileInner, mode: Allocate, offset: u64, len: u64) {
    match mode {
        Allocate::PunchHole => file.open.history().ends_at(offset),
        _ => record_allocated(file, offset.saturating_add(len)),
    }
}

fn sync_range(file: &FileInner, offset: u64, len: u64, steps: SyncRange) -> io::Result<()> {
    let (at, bytes) = (to_i64(offset, libc::EINVAL)?, to_i64(len, libc::EINVAL)?);
    #[cfg(feature = "simulation")]
    if file.open.simulated().is_some() {
        return Ok(()); // writes out pages, and makes nothing durable
    }
    sys::sync_file_range(file.file(), at, bytes, steps.bits())
}

fn advise(file: &FileInner, offset: u64, len: u64, advice: Advice) -> io::Result<()> {
    let (at, bytes) = (to_i64(offset, libc::EINVAL)?, to_i64(len, libc::EINVAL)?);
    #[cfg(feature = "simulation")]
    if file.open.simulated().is_some() {
        return Ok(());
    }
    sys::advise(file.file(), at, bytes, advice.code())
}

/// Converts an offset or a length to the type of the system call. `errno`: the error of the system call for
/// a value that is too large.
fn to_i64(value: u64, errno: i32) -> io::Result<i64> {
    i64::try_from(value).map_err(|_| io::Error::from_raw_os_error(errno))
}

/// Records that the file has blocks up to `end`. Writes to them count as overwrites up to the end of the
/// file; past it a write changes the length of the file.
fn record_allocated(file: &FileInner, end: u64) {
    if let Ok(metadata) = file.open.metadata() {
        file.open.history().has_data_to(end.min(metadata.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::OpCode;
    use crate::fs::file_facts::FileFacts;
    use crate::op::IoOp;
    use crate::policy::OpClass;

    const BLOCK: u64 = 4096;

    /// The class of a write of one block.
    fn class_at(file: &File, block: u64) -> Option<OpClass> {
        let op = IoOp {
            nbytes: BLOCK,
            offset: (block * BLOCK) as i64,
            ..IoOp::new(OpCode::Write)
        };
        file.inner.open.history().classify(&op.info())
    }

    fn new_file() -> File {
        let file = tempfile::tempfile().unwrap();
        let facts = FileFacts::of(&file).unwrap();
        File::new(file, facts)
    }

    #[tokio::test]
    async fn writes_to_allocated_space_count_as_overwrites_up_to_the_end_of_the_file() {
        let file = new_file();
        assert_eq!(class_at(&file, 0), Some(OpClass::Extend));
        file.allocate(Allocate::Extend, 0, 4 * BLOCK).await.unwrap();
        assert_eq!(class_at(&file, 3), Some(OpClass::Overwrite));
        let allocated = file.allocate(Allocate::KeepSize, 4 * BLOCK, 4 * BLOCK);
        allocated.await.unwrap();
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
