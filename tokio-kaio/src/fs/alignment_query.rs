//! [`File::alignment`] and [`File::atomic_writes`]: queries for the alignment that direct I/O on a file
//! requires, and for the sizes of its atomic writes.

use std::fs::{self, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use super::File;
use super::dispatch::run_on_file;
use super::file::{FileInner, path_of};
use crate::sys::{self, DirectIo};
use crate::{Alignment, AlignmentSource, AtomicWrites};

/// The sizes of the probe reads in bytes, in the order in which they are tried.
const PROBE_SIZES: [u32; 8] = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536];

/// The alignment in bytes that is assumed if it can't be found out. Nearly every file system accepts it.
const ASSUMED_ALIGNMENT: u32 = 4096;

impl File {
    /// Returns the alignment of offset, length and memory that direct I/O on this file requires.
    ///
    /// Mostly the alignment is known since the file was opened, and the call returns at once: from `statx`;
    /// else by the logical block size of the block device; else from small reads at the start of the file.
    /// [`Alignment::source`] says which of these gave the answer. This file and its
    /// [clones](File#clones) keep it. An answer that has to be assumed, because the file is empty or not
    /// open for reading, is not kept: then each call queries the file, on tokio's blocking pool.
    ///
    /// A [buffered](File::is_direct) file has no requirements: all alignments are 1.
    ///
    /// # Errors
    ///
    /// None if the alignment is known. Otherwise:
    ///
    /// - [`io::ErrorKind::Unsupported`]: the file refuses all direct I/O, though it seemed to do it when it
    ///   was opened. Open the file again with
    ///   [`aio_open_or_buffered`](crate::AioOpenOptionsExt::aio_open_or_buffered).
    /// - `EAGAIN`: no [thread](File#threads) can be started.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, if the file has to be queried.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::{AioOpenOptionsExt, LockedBuf, WriteFlags, aio_context};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("log");
    /// let (context, handle) = aio_context(32, true)?;
    /// let mut options = std::fs::OpenOptions::new();
    /// let log = options.read(true).write(true).create(true).aio_open(path, false).await?;
    ///
    /// // The shortest write that holds a record of 700 bytes.
    /// let alignment = log.alignment().await?;
    /// let len = 700_u64.next_multiple_of(alignment.offset);
    /// let buffer = LockedBuf::with_size(len as usize)?;
    /// assert_eq!(log.write_at(&handle, 0, &buffer, len, WriteFlags::empty()).await?, len);
    /// # context.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn alignment(&self) -> io::Result<Alignment> {
        if let Some(known) = self.known_alignment() {
            return Ok(known);
        }
        run_on_file(Arc::clone(&self.inner), find_alignment).await
    }

    /// Does what [`alignment`](File::alignment) does, on the calling thread, which may wait for the disk.
    ///
    /// # Errors
    ///
    /// Those of [`alignment`](File::alignment), except `EAGAIN`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::File;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let table = File::create_blocking(path, false)?;
    /// assert!(table.alignment_blocking()?.offset.is_power_of_two());
    /// # Ok(())
    /// # }
    /// ```
    pub fn alignment_blocking(&self) -> io::Result<Alignment> {
        match self.known_alignment() {
            Some(known) => Ok(known),
            None => find_alignment(&self.inner),
        }
    }

    /// Returns the alignment, if it is known without a query.
    pub(super) fn known_alignment(&self) -> Option<Alignment> {
        match self.is_direct() {
            true => self.inner.alignment.get().copied(),
            false => Some(Alignment::of(1, AlignmentSource::Buffered)),
        }
    }

    /// Returns the sizes of atomic writes: after a crash, either all of an atomic write is on the disk or
    /// nothing of it. `None`: the device, the file system or the kernel (before 6.11) supports none, or the
    /// file is not open for direct I/O. Runs on tokio's blocking pool.
    ///
    /// A write with the flag [`WriteFlags::ATOMIC`](crate::WriteFlags::ATOMIC) is atomic; a write of any size
    /// without the flag may be torn. The length of an atomic write must be a power of two from `unit_min` to
    /// `unit_max`, and its offset a multiple of its length; otherwise it fails with `EINVAL`. The flag makes a
    /// write atomic, not durable: use [`DSYNC`](crate::WriteFlags::DSYNC) for that. Two atomic writes are not
    /// atomic together.
    ///
    /// A database that writes its pages atomically needs no doublewrite buffer, and no full pages in its log.
    ///
    /// # Errors
    ///
    /// The errors of [`statx(2)`](https://man7.org/linux/man-pages/man2/statx.2.html): `EPERM` or `ENOSYS`
    /// in a sandbox that forbids it.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::File;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// const PAGE: u32 = 16384;
    ///
    /// let table = File::create(path, false).await?;
    /// let sizes = table.atomic_writes().await?;
    /// let no_torn_pages =
    ///     sizes.is_some_and(|sizes| (sizes.unit_min..=sizes.unit_max).contains(&PAGE));
    /// if !no_torn_pages {
    ///     // Write each page to a doublewrite buffer first.
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "RWF_ATOMIC")]
    #[doc(alias = "STATX_WRITE_ATOMIC")]
    pub async fn atomic_writes(&self) -> io::Result<Option<AtomicWrites>> {
        if !self.is_direct() {
            return Ok(None);
        }
        run_on_file(Arc::clone(&self.inner), find_atomic_writes).await
    }

    /// Does what [`atomic_writes`](File::atomic_writes) does, on the calling thread.
    ///
    /// # Errors
    ///
    /// Those of [`atomic_writes`](File::atomic_writes), except `EAGAIN`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::File;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("table");
    /// let table = File::create_blocking(path, false)?;
    /// if let Some(sizes) = table.atomic_writes_blocking()? {
    ///     assert!(sizes.unit_min <= sizes.unit_max);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn atomic_writes_blocking(&self) -> io::Result<Option<AtomicWrites>> {
        match self.is_direct() {
            true => find_atomic_writes(&self.inner),
            false => Ok(None),
        }
    }
}

/// Returns the alignment that `statx` reports for the file once `O_DIRECT` is set. `Some(None)`: `statx`
/// reports that the file can't do direct I/O. `None`: `statx` does not report it.
pub(super) fn reported_alignment(file: &impl AlignmentQuery) -> Option<Option<Alignment>> {
    file.statx().map(|reported| {
        (reported.offset != 0).then_some(Alignment {
            memory: reported.memory as usize,
            offset: reported.offset.into(),
            read_offset: reported.read_offset.into(),
            source: AlignmentSource::Statx,
        })
    })
}

/// Finds out the alignment of a file that has `O_DIRECT` set, and for which `statx` does not report it.
/// `None`: the file refuses reads of any alignment.
pub(super) fn tested_alignment(file: &impl AlignmentQuery) -> Option<Alignment> {
    let Some(size) = file.block_size() else {
        return probed_alignment(file);
    };
    let refuses_all_reads = file.accepts_read(PROBE_SIZES[PROBE_SIZES.len() - 1]) == Some(false);
    (!refuses_all_reads).then_some(Alignment::of(size, AlignmentSource::BlockDevice))
}

/// Finds out the alignment of a file with reads. `None`: the file refuses reads of any alignment.
fn probed_alignment(file: &impl AlignmentQuery) -> Option<Alignment> {
    for size in PROBE_SIZES {
        match file.accepts_read(size) {
            Some(true) => return Some(Alignment::of(size, AlignmentSource::Probed)),
            Some(false) => {}
            // There is nothing to read, so larger reads give no answer either.
            None => {
                return Some(Alignment::of(ASSUMED_ALIGNMENT, AlignmentSource::Assumed));
            }
        }
    }
    None
}

/// Finds out the alignment of a file. `None`: the file can't do direct I/O.
fn query_alignment(file: &impl AlignmentQuery) -> Option<Alignment> {
    reported_alignment(file).unwrap_or_else(|| match file.block_size() {
        Some(size) => Some(Alignment::of(size, AlignmentSource::BlockDevice)),
        None => probed_alignment(file),
    })
}

/// Returns the alignment of an open file, and keeps it unless it is a guess.
fn find_alignment(file: &FileInner) -> io::Result<Alignment> {
    let Some(alignment) = query_alignment(file.file()) else {
        return Err(not_direct(file.file()));
    };
    if alignment.source != AlignmentSource::Assumed {
        let _ = file.alignment.set(alignment); // others set the same value
    }
    Ok(alignment)
}

/// Returns the sizes of atomic writes to an open file.
fn find_atomic_writes(file: &FileInner) -> io::Result<Option<AtomicWrites>> {
    #[cfg(feature = "simulation")]
    if let Some(simulated) = file.open.simulated() {
        return Ok(simulated.atomic_writes());
    }
    let sizes = sys::atomic_sizes(file.as_raw_fd())?;
    Ok(sizes.map(|sizes| AtomicWrites {
        unit_min: sizes.unit_min,
        unit_max: sizes.unit_max,
        unit_max_opt: sizes.unit_max_opt,
        segments_max: sizes.segments_max,
    }))
}

/// The queries that answer which alignment a file requires. Tests replace them.
pub(super) trait AlignmentQuery {
    /// Returns the alignment that `statx` reports. `None`: `statx` does not report it.
    fn statx(&self) -> Option<DirectIo>;

    /// Returns the logical block size of the block device that the file is or is on. `None`: there is no
    /// such device, or its block size is not available.
    fn block_size(&self) -> Option<u32>;

    /// Returns whether the file accepts a read that is aligned to `size` bytes and no more. `None`: the
    /// file can't be read or has no data.
    fn accepts_read(&self, size: u32) -> Option<bool>;
}

impl AlignmentQuery for fs::File {
    fn statx(&self) -> Option<DirectIo> {
        sys::direct_io(self.as_raw_fd()).unwrap_or(None) // a sandbox may forbid statx
    }

    fn block_size(&self) -> Option<u32> {
        let metadata = self.metadata().ok()?;
        match metadata.file_type().is_block_device() {
            true => sys::logical_block_size(self).ok(),
            // Device numbers with this major number belong to no device: tmpfs, btrfs, overlayfs.
            false if libc::major(metadata.dev()) == 0 => None,
            false => sysfs_block_size(&metadata, Path::new("/sys")),
        }
    }

    fn accepts_read(&self, size: u32) -> Option<bool> {
        if size < sys::least_direct(self) {
            return Some(false);
        }
        match sys::try_read(self, size as usize) {
            Ok(0) => None, // a read at the end of a file succeeds with any alignment
            Ok(_) => Some(true),
            Err(error) => (error.raw_os_error() == Some(libc::EINVAL)).then_some(false),
        }
    }
}

/// Reads the logical block size of the device that a file is on from `sysfs`, a directory like `/sys`. The
/// directory of a partition has no queue; its disk, the parent directory, has.
fn sysfs_block_size(file: &Metadata, sysfs: &Path) -> Option<u32> {
    let (major, minor) = (libc::major(file.dev()), libc::minor(file.dev()));
    let device = sysfs.join(format!("dev/block/{major}:{minor}"));
    let read = |path| fs::read_to_string(device.join(path)).ok();
    let text = read("queue/logical_block_size").or_else(|| read("../queue/logical_block_size"))?;
    text.trim().parse().ok().filter(|size| *size != 0)
}

/// The error for a file that could do direct I/O when it was opened and can't any more.
fn not_direct(file: &fs::File) -> io::Error {
    let text = format!(
        "{}: this file can't do direct I/O any more, though it was opened for it (O_DIRECT): statx reports \
         so, or the file refuses every read; open it with aio_open_or_buffered",
        path_of(file).display()
    );
    io::Error::new(io::ErrorKind::Unsupported, text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A file with fixed answers.
    #[derive(Clone, Copy, Default)]
    struct FakeFile {
        statx: Option<DirectIo>,
        block_size: Option<u32>,
        /// The smallest read that is accepted; `None`: nothing can be read.
        min_read: Option<u32>,
    }

    impl AlignmentQuery for FakeFile {
        fn statx(&self) -> Option<DirectIo> {
            self.statx
        }

        fn block_size(&self) -> Option<u32> {
            self.block_size
        }

        fn accepts_read(&self, size: u32) -> Option<bool> {
            self.min_read.map(|min| size >= min)
        }
    }

    const ALL_ANSWERS: FakeFile = FakeFile {
        statx: Some(DirectIo {
            size: 0,
            memory: 4,
            offset: 8192,
            read_offset: 512,
        }),
        block_size: Some(1024),
        min_read: Some(2048),
    };

    fn queried(file: FakeFile) -> Alignment {
        query_alignment(&file).unwrap()
    }

    #[test]
    fn statx_takes_precedence_over_all_other_queries() {
        let alignment = Alignment {
            memory: 4,
            offset: 8192,
            read_offset: 512,
            source: AlignmentSource::Statx,
        };
        assert_eq!(queried(ALL_ANSWERS), alignment);
    }

    #[test]
    fn the_block_device_takes_precedence_over_probe_reads() {
        let file = FakeFile {
            statx: None,
            ..ALL_ANSWERS
        };
        let alignment = Alignment::of(1024, AlignmentSource::BlockDevice);
        assert_eq!(queried(file), alignment);
    }

    #[test]
    fn probe_reads_find_the_smallest_accepted_size() {
        for min in [1, 512, 2048, 65536] {
            let file = FakeFile {
                min_read: Some(min),
                ..FakeFile::default()
            };
            let alignment = Alignment::of(min.max(512), AlignmentSource::Probed);
            assert_eq!(queried(file), alignment);
        }
    }

    #[test]
    fn a_file_without_answers_is_assumed_to_require_4096() {
        let alignment = Alignment::of(4096, AlignmentSource::Assumed);
        assert_eq!(queried(FakeFile::default()), alignment);
    }

    #[test]
    fn a_file_that_reports_it_or_refuses_every_read_has_no_direct_io() {
        let mut reports_none = ALL_ANSWERS;
        reports_none.statx = ALL_ANSWERS.statx.map(|reported| DirectIo {
            offset: 0,
            ..reported
        });
        let refuses = FakeFile {
            min_read: Some(u32::MAX),
            ..FakeFile::default()
        };
        for file in [reports_none, refuses] {
            assert_eq!(query_alignment(&file), None);
        }
        let no_statx = FakeFile {
            statx: None,
            ..ALL_ANSWERS
        };
        let reports = |file| reported_alignment(&file).map(|alignment| alignment.is_some());
        assert_eq!(
            [reports_none, ALL_ANSWERS, no_statx].map(reports),
            [Some(false), Some(true), None]
        );
        let refuses_on_device = FakeFile {
            block_size: Some(512),
            ..refuses
        };
        let sources = [refuses, refuses_on_device, no_statx, FakeFile::default()]
            .map(|file| tested_alignment(&file).map(|alignment| alignment.source));
        let (device, assumed) = (AlignmentSource::BlockDevice, AlignmentSource::Assumed);
        assert_eq!(sources, [None, None, Some(device), Some(assumed)]);
    }

    #[test]
    fn a_partition_has_the_block_size_of_its_disk() {
        let sysfs = tempfile::tempdir().unwrap();
        let metadata = fs::metadata(sysfs.path()).unwrap();
        assert_eq!(sysfs_block_size(&metadata, sysfs.path()), None);

        let disk = sysfs.path().join("devices/disk");
        let part = disk.join("disk1");
        let (numbered, queue) = (sysfs.path().join("dev/block"), disk.join("queue"));
        for dir in [&part, &numbered, &queue] {
            fs::create_dir_all(dir).unwrap();
        }
        fs::write(queue.join("logical_block_size"), "4096\n").unwrap();
        let (major, minor) = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
        let link = numbered.join(format!("{major}:{minor}"));
        for device in [&disk, &part] {
            symlink(device, &link).unwrap();
            assert_eq!(sysfs_block_size(&metadata, sysfs.path()), Some(4096));
            fs::remove_file(&link).unwrap();
        }
    }

    #[test]
    fn a_block_device_reports_its_own_block_size() {
        let devices = fs::read_dir("/dev").unwrap().flatten();
        let open = |path| fs::File::open(path).ok();
        let device = devices
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_block_device()))
            .find_map(|entry| open(entry.path()));
        let Some(device) = device else {
            eprintln!("skipped: no block device can be opened here");
            return;
        };
        let size = device.block_size().unwrap();
        assert!(size >= 512 && size.is_power_of_two(), "{size}");
        let memory = tempfile::tempfile().unwrap();
        let refused = sys::logical_block_size(&memory).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOTTY));
    }

    #[test]
    fn a_file_that_cannot_be_read_or_is_empty_gives_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let write_only = fs::File::create(&path).unwrap();
        assert_eq!(fs::File::open(&path).unwrap().accepts_read(512), None); // empty
        fs::write(&path, [7; 10]).unwrap();
        assert_eq!(write_only.accepts_read(512), None);
        assert_eq!(fs::File::open(&path).unwrap().accepts_read(512), Some(true));
    }
}
