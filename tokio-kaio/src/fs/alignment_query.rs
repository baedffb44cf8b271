//! [`File::alignment`] and [`File::atomic_writes`]: asking a file what direct I/O on it wants, and
//! what it offers.

use std::fs::{self, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use super::File;
use super::file::run_blocking;
use super::open_options::name_of;
use crate::sys::{self, DirectIo};
use crate::{Alignment, AlignmentSource, AtomicWrites};

/// The sizes of the trial reads where nothing else says what the alignment is, in this order.
const PROBED: [u32; 8] = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536];

/// What nearly every file system is content with.
const ASSUMED: u32 = 4096;

impl File {
    /// Returns the alignment of offset, length and memory that direct I/O on this file requires.
    ///
    /// The first call asks, on tokio's blocking pool: `statx`; then the logical block size of the block
    /// device; then small reads at the start of the file. [`Alignment::source`] says which of them gave the
    /// answer. This file and its [clones](File::try_clone) keep the answer, and later calls return at once.
    /// An answer that had to be assumed is not kept.
    ///
    /// A [buffered](File::is_direct) file has no requirements: all alignments are 1.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::Unsupported`]: the file can't do direct I/O any more, though it could when it was
    /// opened. On ext4, somebody has turned on data journaling or verity for it, or has written it so
    /// small, through the page cache, that its data are in its inode. Open it once more, with
    /// [`aio_open_or_buffered`](crate::AioOpenOptionsExt::aio_open_or_buffered). Others: those of
    /// `fstat(2)`, and `EAGAIN` where [no thread](File#threads) can be started.
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
        if !self.is_direct() {
            return Ok(Alignment::of(1, AlignmentSource::Buffered));
        }
        if let Some(known) = self.inner.alignment.get() {
            return Ok(*known);
        }
        let file = Arc::clone(&self.inner);
        run_blocking(move || {
            let Some(alignment) = learn(file.file())? else {
                return Err(not_direct(file.file()));
            };
            if alignment.source != AlignmentSource::Assumed {
                let _ = file.alignment.set(alignment); // or somebody else has, to the same
            }
            Ok(alignment)
        })
        .await
    }

    /// The sizes of writes that are atomic: after a crash, all or nothing of one is there. `None`:
    /// the device, the file system or the kernel (before 6.11) offers none, or the file is not open
    /// for direct I/O. Asked for on tokio's blocking pool.
    ///
    /// A write is one with the flag [`WriteFlags::ATOMIC`](crate::WriteFlags::ATOMIC); without it, a
    /// write of any size may be torn. Its length is a power of two from `unit_min` to `unit_max`, and
    /// its offset a multiple of its length; else it is `EINVAL`. The flag makes it atomic, not durable:
    /// [`DSYNC`](crate::WriteFlags::DSYNC) does that. Two such writes are not atomic together.
    ///
    /// A database whose pages are written so can do without a copy of them in its log, or a
    /// doublewrite buffer.
    ///
    /// # Errors
    ///
    /// Those of [`statx(2)`](https://man7.org/linux/man-pages/man2/statx.2.html): `EPERM` or `ENOSYS`
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
        let file = Arc::clone(&self.inner);
        run_blocking(move || {
            let sizes = sys::atomic_sizes(file.as_raw_fd())?;
            Ok(sizes.map(|sizes| AtomicWrites {
                unit_min: sizes.unit_min,
                unit_max: sizes.unit_max,
                unit_max_opt: sizes.unit_max_opt,
                segments_max: sizes.segments_max,
            }))
        })
        .await
    }
}

/// What `statx` says: whether I/O on the file is direct, once `O_DIRECT` is set. `None`: nothing.
pub(super) fn is_said_direct(file: &impl Sources) -> Option<bool> {
    file.told().map(|told| told.offset != 0)
}

/// Whether the file, which has `O_DIRECT` set, refuses reads of any alignment.
pub(super) fn refuses_reads(file: &impl Sources) -> bool {
    file.accepts(PROBED[PROBED.len() - 1]) == Some(false)
}

/// `None`: the file can't do direct I/O.
fn learn(file: &impl Sources) -> io::Result<Option<Alignment>> {
    if let Some(told) = file.told() {
        let alignment = Alignment {
            memory: told.memory as usize,
            offset: told.offset.into(),
            read_offset: told.read_offset.into(),
            source: AlignmentSource::Statx,
        };
        return Ok((told.offset != 0).then_some(alignment));
    }
    if let Some(size) = file.block_size()? {
        return Ok(Some(Alignment::of(size, AlignmentSource::BlockDevice)));
    }
    let tried = PROBED.map(|size| (size, file.accepts(size)));
    let accepted = tried.iter().find(|(_, accepts)| *accepts == Some(true));
    Ok(match accepted {
        Some((size, _)) => Some(Alignment::of(*size, AlignmentSource::Probed)),
        None if tried.iter().all(|(_, accepts)| *accepts == Some(false)) => None,
        None => Some(Alignment::of(ASSUMED, AlignmentSource::Assumed)),
    })
}

/// What the alignment of a file can be learnt from.
pub(super) trait Sources {
    /// By `statx`; `None`: nothing.
    fn told(&self) -> Option<DirectIo>;

    /// The logical block size of the device that it is or is on; `None`: there is none, or it can't
    /// be had.
    fn block_size(&self) -> io::Result<Option<u32>>;

    /// Whether a read takes place that is aligned to `size` and no more; `None`: nothing can be read.
    fn accepts(&self, size: u32) -> Option<bool>;
}

impl Sources for fs::File {
    fn told(&self) -> Option<DirectIo> {
        sys::direct_io(self.as_raw_fd()).unwrap_or(None) // a sandbox without statx tells nothing
    }

    fn block_size(&self) -> io::Result<Option<u32>> {
        let metadata = self.metadata()?;
        Ok(match metadata.file_type().is_block_device() {
            true => sys::logical_block_size(self).ok(),
            false => block_size_beneath(&metadata, Path::new("/sys")),
        })
    }

    fn accepts(&self, size: u32) -> Option<bool> {
        if size < sys::least_direct(self) {
            return Some(false);
        }
        match sys::try_read(self, size as usize) {
            Ok(0) => None, // at the end of a file, anything is fine
            Ok(_) => Some(true),
            Err(error) => (error.raw_os_error() == Some(libc::EINVAL)).then_some(false),
        }
    }
}

/// The logical block size of the device that a file is on, from a tree as `/sys` has it. A partition
/// has that of the disk that it is part of.
fn block_size_beneath(file: &Metadata, sysfs: &Path) -> Option<u32> {
    let (major, minor) = (libc::major(file.dev()), libc::minor(file.dev()));
    let device = sysfs.join(format!("dev/block/{major}:{minor}"));
    let read = |path| fs::read_to_string(device.join(path)).ok();
    let text = read("queue/logical_block_size").or_else(|| read("../queue/logical_block_size"))?;
    text.trim().parse().ok().filter(|size| *size != 0)
}

/// The error for a file that could do direct I/O when it was opened, and can't any more.
fn not_direct(file: &fs::File) -> io::Error {
    let text = format!(
        "{}: this file can't do direct I/O any more, though it is open for it (O_DIRECT): statx says so, \
         or every read is refused; open it with aio_open_or_buffered",
        name_of(file).display()
    );
    io::Error::new(io::ErrorKind::Unsupported, text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A file whose sources say this.
    #[derive(Clone, Copy, Default)]
    struct Fake {
        told: Option<DirectIo>,
        block_size: Option<u32>,
        /// Of reads, the smallest that is accepted; `None`: nothing can be read.
        reads_from: Option<u32>,
    }

    impl Sources for Fake {
        fn told(&self) -> Option<DirectIo> {
            self.told
        }

        fn block_size(&self) -> io::Result<Option<u32>> {
            Ok(self.block_size)
        }

        fn accepts(&self, size: u32) -> Option<bool> {
            self.reads_from.map(|least| size >= least)
        }
    }

    const ALL: Fake = Fake {
        told: Some(DirectIo {
            size: 0,
            memory: 4,
            offset: 8192,
            read_offset: 512,
        }),
        block_size: Some(1024),
        reads_from: Some(2048),
    };

    fn learnt(file: Fake) -> Alignment {
        learn(&file).unwrap().unwrap()
    }

    #[test]
    fn what_statx_tells_goes_before_all_else() {
        let alignment = Alignment {
            memory: 4,
            offset: 8192,
            read_offset: 512,
            source: AlignmentSource::Statx,
        };
        assert_eq!(learnt(ALL), alignment);
    }

    #[test]
    fn the_block_device_goes_before_a_probe() {
        let file = Fake { told: None, ..ALL };
        let alignment = Alignment::of(1024, AlignmentSource::BlockDevice);
        assert_eq!(learnt(file), alignment);
    }

    #[test]
    fn a_probe_finds_the_smallest_read_that_is_accepted() {
        for least in [1, 512, 2048, 65536] {
            let file = Fake {
                reads_from: Some(least),
                ..Fake::default()
            };
            let alignment = Alignment::of(least.max(512), AlignmentSource::Probed);
            assert_eq!(learnt(file), alignment);
        }
    }

    #[test]
    fn a_file_that_nothing_is_known_of_is_taken_for_one_of_4096() {
        let alignment = Alignment::of(4096, AlignmentSource::Assumed);
        assert_eq!(learnt(Fake::default()), alignment);
    }

    #[test]
    fn a_file_that_says_so_or_refuses_every_read_has_no_direct_io() {
        let mut says_so = ALL;
        says_so.told = ALL.told.map(|told| DirectIo { offset: 0, ..told });
        let refuses = Fake {
            reads_from: Some(u32::MAX),
            ..Fake::default()
        };
        for file in [says_so, refuses] {
            assert_eq!(learn(&file).unwrap(), None);
        }
        let silent = Fake { told: None, ..ALL };
        assert_eq!(
            [says_so, ALL, silent].map(|file| is_said_direct(&file)),
            [Some(false), Some(true), None]
        );
        assert_eq!(
            [refuses, silent, Fake::default()].map(|file| refuses_reads(&file)),
            [true, false, false]
        );
    }

    #[test]
    fn a_partition_has_the_block_size_of_its_disk() {
        let sysfs = tempfile::tempdir().unwrap();
        let metadata = fs::metadata(sysfs.path()).unwrap();
        assert_eq!(block_size_beneath(&metadata, sysfs.path()), None);

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
            assert_eq!(block_size_beneath(&metadata, sysfs.path()), Some(4096));
            fs::remove_file(&link).unwrap();
        }
    }

    #[test]
    fn a_block_device_tells_its_own_block_size() {
        let devices = fs::read_dir("/dev").unwrap().flatten();
        let open = |path| fs::File::open(path).ok();
        let device = devices
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_block_device()))
            .find_map(|entry| open(entry.path()));
        let Some(device) = device else {
            eprintln!("skipped: no block device can be opened here");
            return;
        };
        let size = device.block_size().unwrap().unwrap();
        assert!(size >= 512 && size.is_power_of_two(), "{size}");
        let memory = tempfile::tempfile().unwrap();
        let refused = sys::logical_block_size(&memory).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOTTY));
    }

    #[test]
    fn a_file_that_nothing_can_be_read_of_is_not_probed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let write_only = fs::File::create(&path).unwrap();
        assert_eq!(fs::File::open(&path).unwrap().accepts(512), None); // empty
        fs::write(&path, [7; 10]).unwrap();
        assert_eq!(write_only.accepts(512), None);
        assert_eq!(fs::File::open(&path).unwrap().accepts(512), Some(true));
    }
}
