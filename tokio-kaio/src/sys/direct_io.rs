//! The alignment that direct I/O on a file requires: `statx(2)`, the logical block size of a device, and
//! trial reads.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::ptr::NonNull;

use super::syscalls::syscall_result;

/// The alignments that a file requires for direct I/O, and its size, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DirectIo {
    pub(crate) size: u64,
    /// Alignment of the memory.
    pub(crate) memory: u32,
    /// Alignment of offset and length.
    pub(crate) offset: u32,
    /// Alignment of offset and length of reads.
    pub(crate) read_offset: u32,
}

/// The sizes of atomic writes, which a crash leaves whole or undone, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AtomicSizes {
    pub(crate) unit_min: u32,
    pub(crate) unit_max: u32,
    /// The largest that the device does.
    pub(crate) unit_max_opt: Option<u32>,
    /// Most buffers of one write.
    pub(crate) segments_max: u32,
}

/// Asks `statx` for the alignments of the file behind `fd`. `None`: the kernel (before 6.1) or the file
/// system does not report them. Alignments of 0: the file can't do direct I/O.
///
/// # References
///
/// [`statx(2)`](https://man7.org/linux/man-pages/man2/statx.2.html): `STATX_DIOALIGN`,
/// `STATX_DIO_READ_ALIGN`
pub(crate) fn direct_io(fd: RawFd) -> io::Result<Option<DirectIo>> {
    let wanted = STATX_SIZE | STATX_DIOALIGN | STATX_DIO_READ_ALIGN;
    Ok(statx(fd, wanted)?.direct_io())
}

/// Asks `statx` for the sizes of atomic writes to the file behind `fd`. `None`: the file has none, or the
/// kernel (before 6.11) does not report them.
///
/// # References
///
/// [`statx(2)`](https://man7.org/linux/man-pages/man2/statx.2.html): `STATX_WRITE_ATOMIC`
pub(crate) fn atomic_sizes(fd: RawFd) -> io::Result<Option<AtomicSizes>> {
    Ok(statx(fd, STATX_WRITE_ATOMIC)?.atomic_sizes())
}

/// The logical block size of the block device that `fd` is.
///
/// # Errors
///
/// `ENOTTY` and others: it is not a block device.
///
/// # References
///
/// `BLKSSZGET` of [`ioctl(2)`](https://man7.org/linux/man-pages/man2/ioctl.2.html)
#[doc(alias = "BLKSSZGET")]
pub(crate) fn logical_block_size(device: impl AsFd) -> io::Result<u32> {
    let fd = device.as_fd().as_raw_fd();
    let mut size: libc::c_int = 0;
    // SAFETY: the kernel writes to our `int`.
    let code = unsafe { libc::ioctl(fd, libc::BLKSSZGET, &raw mut size) };
    syscall_result(code.into())?;
    u32::try_from(size).map_err(io::Error::other)
}

/// The least alignment, in bytes, with which I/O on the file is direct. On btrfs, its block: it silently
/// sends smaller transfers through the page cache. On other file systems, 1.
///
/// # References
///
/// [`fstatfs(2)`](https://man7.org/linux/man-pages/man2/fstatfs.2.html)
#[allow(clippy::unnecessary_cast)] // widths differ between targets
pub(crate) fn least_direct(file: impl AsFd) -> u32 {
    let fd = file.as_fd().as_raw_fd();
    let mut status = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the kernel writes one structure to our memory.
    let code = unsafe { libc::fstatfs(fd, status.as_mut_ptr()) };
    // SAFETY: all zeroes is a valid statfs, and the kernel may have filled it in.
    let status = unsafe { status.assume_init() };
    let (kind, block) = (status.f_type as i64, status.f_bsize as i64);
    match code == 0 && kind == libc::BTRFS_SUPER_MAGIC as i64 {
        true => u32::try_from(block).unwrap_or(1),
        false => 1,
    }
}

/// Reads `len` bytes at the start of `file` into memory that is aligned to `len` and no more. Returns the
/// number of bytes read. `len` is a power of two.
///
/// # Errors
///
/// `EINVAL`: the file requires a larger alignment, or can't do direct I/O although it was opened for it.
/// `EBADF`: it is not open for reading.
///
/// # References
///
/// [`pread(2)`](https://man7.org/linux/man-pages/man2/pread.2.html)
pub(crate) fn try_read(file: impl AsFd, len: usize) -> io::Result<usize> {
    let fd = file.as_fd().as_raw_fd();
    let memory = Memory::new(len)?;
    // SAFETY: the `len` bytes belong to `memory` alone, which outlives the call.
    let code = unsafe { libc::pread64(fd, memory.just_aligned().cast(), len, 0) };
    usize::try_from(code).map_err(|_| io::Error::last_os_error())
}

/// An allocation of two times `len` bytes, aligned to two times `len`.
struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

impl Memory {
    fn new(len: usize) -> io::Result<Memory> {
        debug_assert!(len.is_power_of_two());
        let layout = Layout::from_size_align(2 * len, 2 * len).map_err(io::Error::other)?;
        // SAFETY: the size is not 0, because `len` is a power of two.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Memory { start, layout })
    }

    /// The second half, which is aligned to `len` and no more.
    fn just_aligned(&self) -> *mut u8 {
        self.start.as_ptr().wrapping_add(self.layout.size() / 2)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed only here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

// The `statx` structure of some C libraries ends before the latest fields.
const STATX_SIZE: u32 = 0x200;
const STATX_DIOALIGN: u32 = 0x2000;
const STATX_WRITE_ATOMIC: u32 = 0x1_0000;
const STATX_DIO_READ_ALIGN: u32 = 0x2_0000;

/// `struct statx` of `linux/stat.h`, as far as it is used here. Fields that a kernel does not know are 0.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Statx {
    mask: u32,
    _blksize_to_ino: [u32; 9],
    size: u64,
    _blocks_to_mnt_id: [u64; 13],
    dio_mem_align: u32,
    dio_offset_align: u32,
    _subvol: u64,
    atomic_write_unit_min: u32,
    atomic_write_unit_max: u32,
    atomic_write_segments_max: u32,
    dio_read_offset_align: u32,
    atomic_write_unit_max_opt: u32,
    _spare: [u32; 17],
}

const _: () = {
    assert!(size_of::<Statx>() == 256);
    assert!(size_of::<Statx>() >= size_of::<libc::statx>());
    assert!(align_of::<Statx>() >= align_of::<libc::statx>());
    assert!(offset_of!(Statx, mask) == 0);
    assert!(offset_of!(Statx, size) == 40);
    assert!(offset_of!(Statx, dio_mem_align) == 152);
    assert!(offset_of!(Statx, dio_offset_align) == 156);
    assert!(offset_of!(Statx, atomic_write_unit_min) == 168);
    assert!(offset_of!(Statx, atomic_write_unit_max) == 172);
    assert!(offset_of!(Statx, atomic_write_segments_max) == 176);
    assert!(offset_of!(Statx, dio_read_offset_align) == 180);
    assert!(offset_of!(Statx, atomic_write_unit_max_opt) == 184);
};

/// Asks for the fields in `wanted` of the file behind `fd`.
fn statx(fd: RawFd, wanted: u32) -> io::Result<Statx> {
    let mut status = MaybeUninit::<Statx>::zeroed();
    // SAFETY: an empty path with AT_EMPTY_PATH asks about the descriptor itself; a closed one is
    // EBADF. The kernel writes its structure of 256 bytes to our memory of the same size.
    let code = unsafe {
        libc::statx(
            fd,
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC,
            wanted,
            status.as_mut_ptr().cast(),
        )
    };
    syscall_result(code.into())?;
    // SAFETY: plain numbers, for which zero is valid, and the kernel has filled them in.
    Ok(unsafe { status.assume_init() })
}

impl Statx {
    fn has(&self, bit: u32) -> bool {
        self.mask & bit != 0
    }

    fn direct_io(&self) -> Option<DirectIo> {
        let reads_apart = self.has(STATX_DIO_READ_ALIGN) && self.dio_read_offset_align != 0;
        self.has(STATX_DIOALIGN).then_some(DirectIo {
            size: self.size,
            memory: self.dio_mem_align,
            offset: self.dio_offset_align,
            read_offset: match reads_apart {
                true => self.dio_read_offset_align,
                false => self.dio_offset_align,
            },
        })
    }

    fn atomic_sizes(&self) -> Option<AtomicSizes> {
        let offered = self.has(STATX_WRITE_ATOMIC) && self.atomic_write_unit_max != 0;
        offered.then_some(AtomicSizes {
            unit_min: self.atomic_write_unit_min,
            unit_max: self.atomic_write_unit_max,
            unit_max_opt: match self.atomic_write_unit_max_opt {
                0 => None,
                limit => Some(limit),
            },
            segments_max: self.atomic_write_segments_max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> Statx {
        // SAFETY: plain numbers, for which zero is valid.
        unsafe { MaybeUninit::zeroed().assume_init() }
    }

    #[test]
    fn a_kernel_without_statx_dioalign_differs_from_a_file_without_direct_io() {
        assert_eq!(nothing().direct_io(), None);
        let not_direct = Statx {
            mask: STATX_DIOALIGN,
            ..nothing()
        };
        assert_eq!(not_direct.direct_io().map(|direct| direct.offset), Some(0));
    }

    #[test]
    fn reads_are_aligned_like_writes_unless_the_file_system_reports_a_read_alignment() {
        let mut status = Statx {
            mask: STATX_DIOALIGN,
            dio_mem_align: 512,
            dio_offset_align: 4096,
            ..nothing()
        };
        assert_eq!(status.direct_io().unwrap().read_offset, 4096);
        status.mask |= STATX_DIO_READ_ALIGN;
        assert_eq!(status.direct_io().unwrap().read_offset, 4096);
        status.dio_read_offset_align = 512;
        let direct = status.direct_io().unwrap();
        assert_eq!((direct.offset, direct.read_offset), (4096, 512));
    }

    #[test]
    fn atomic_writes_have_a_maximum_size_and_perhaps_an_optimized_one() {
        assert_eq!(nothing().atomic_sizes(), None);
        let mut status = Statx {
            mask: STATX_WRITE_ATOMIC,
            ..nothing()
        };
        assert_eq!(status.atomic_sizes(), None);
        status.atomic_write_unit_min = 4096;
        status.atomic_write_unit_max = 65536;
        status.atomic_write_segments_max = 1;
        assert_eq!(status.atomic_sizes().unwrap().unit_max_opt, None);
        status.atomic_write_unit_max_opt = 16384;
        let sizes = AtomicSizes {
            unit_min: 4096,
            unit_max: 65536,
            unit_max_opt: Some(16384),
            segments_max: 1,
        };
        assert_eq!(status.atomic_sizes(), Some(sizes));
    }

    #[test]
    fn probe_memory_has_exactly_the_requested_alignment() {
        for len in [512, 4096, 65536] {
            let address = Memory::new(len).unwrap().just_aligned().addr();
            assert_eq!((address % len, address % (2 * len)), (0, len));
        }
    }
}
