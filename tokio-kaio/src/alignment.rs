//! [`Alignment`] and [`AtomicWrites`]: the alignment that direct I/O on a file requires, and the atomic
//! writes that the file offers.

/// The alignment that direct I/O on a file requires, in bytes. A transfer that violates it fails with
/// `EINVAL`. See [`File::alignment`](crate::File::alignment).
///
/// [`LockedBuf`](crate::LockedBuf) is aligned to a page, which is enough on most machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Alignment {
    /// The address of the memory.
    pub memory: usize,

    /// Offset and length of writes, and of reads unless [`read_offset`](Alignment::read_offset) is
    /// less.
    pub offset: u64,

    /// Offset and length of reads. Less than [`offset`](Alignment::offset) where the file system
    /// writes out of place in larger blocks, and reports both (Linux 6.14).
    pub read_offset: u64,

    /// Where these numbers come from.
    pub source: AlignmentSource,
}

impl Alignment {
    /// One number for all of it.
    pub(crate) fn of(size: u32, source: AlignmentSource) -> Alignment {
        Alignment {
            memory: size as usize,
            offset: size.into(),
            read_offset: size.into(),
            source,
        }
    }
}

/// The source of an [`Alignment`], from the most to the least reliable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AlignmentSource {
    /// The file is buffered and has no requirements: all alignments are 1. See
    /// [`File::is_direct`](crate::File::is_direct).
    Buffered,

    /// The file system reports the alignment: `STATX_DIOALIGN` of
    /// [`statx(2)`](https://man7.org/linux/man-pages/man2/statx.2.html) (Linux 6.1; of ext4, XFS,
    /// f2fs and block devices, for a start).
    Statx,

    /// The logical block size of the block device that the file is, or is on. Before Linux 6.1, ext4
    /// and XFS require no more; another file system may.
    BlockDevice,

    /// The smallest read at the start of the file that was not refused; on btrfs, its block, as it
    /// takes less and does that through the page cache. Where the file begins with a
    /// hole, the kernel may have taken what it would refuse elsewhere.
    Probed,

    /// A guess: the file is empty or not open for reading, and no other source has an answer. 4096, which
    /// hardly any file system exceeds.
    Assumed,
}

/// The sizes, in bytes, of writes to a file that a crash leaves whole or undone. See
/// [`File::atomic_writes`](crate::File::atomic_writes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct AtomicWrites {
    /// The smallest.
    pub unit_min: u32,

    /// The largest.
    pub unit_max: u32,

    /// Up to here the device does it, at no cost; above, the file system does, which is slower (XFS).
    ///
    /// `None` where there is no limit that tells these apart: the device does all of them, or, as on
    /// XFS where the device can't, the file system does all of them. Before Linux 6.16, and on ext4,
    /// it is always the device.
    pub unit_max_opt: Option<u32>,

    /// The most pieces of memory that one may be gathered from. All of this crate's are in one piece.
    pub segments_max: u32,
}
