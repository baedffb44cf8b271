//! Reads of data that is in the page cache, without a thread, and reads through the page cache that may
//! block.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio_kaio::SizeClassPool;

use crate::open_object::OpenObject;

/// Results of at least this size get memory of a pool: fresh memory of the allocator would be mapped and
/// cleared by the kernel, page by page.
const POOLED: usize = 64 << 10;

/// Whether all of a range is in the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cached {
    Whole,
    NotWhole,
    /// The kernel does not say.
    Unknown,
}

/// Reads a range that is in the page cache. `None`: it is not, or the kernel does not say.
///
/// Why `cachestat` first: a read with `RWF_NOWAIT` alone fails for uncached data, too, but the kernel has
/// then started to read ahead, so a direct read would fetch the data a second time.
pub(crate) fn read_cached(
    object: &OpenObject,
    range: &Range<u64>,
    pool: Option<&SizeClassPool>,
) -> Option<Bytes> {
    if !object.asks_for_cached(range.end - range.start) {
        return None;
    }
    let found = cached(&object.buffered, range);
    object.observe_cached(found == Cached::Whole);
    match found {
        Cached::Whole => {}
        Cached::NotWhole => return None,
        Cached::Unknown => {
            object.does_not_report_cached();
            return None;
        }
    }
    let len = usize::try_from(range.end - range.start).ok()?;
    let flags = ReadWriteFlags::NOWAIT; // a page may have been evicted meanwhile
    let mut read = |memory: &mut [u8]| {
        fill(memory, range.start, |memory, offset| {
            match preadv2(
                &object.buffered,
                &mut [IoSliceMut::new(memory)],
                offset,
                flags,
            ) {
                Err(Errno::OPNOTSUPP) => {
                    object.does_not_report_cached(); // the file system knows no NOWAIT
                    Err(Errno::OPNOTSUPP.into())
                }
                read => Ok(read?),
            }
        })
    };
    let bytes = filled(len, pool, &mut read).ok()?;
    (bytes.len() == len).then_some(bytes)
}

/// Reads a range through the page cache, and waits for it. Shorter at the end of the file.
pub(crate) fn read_blocking(
    file: &File,
    range: &Range<u64>,
    pool: Option<&SizeClassPool>,
) -> io::Result<Bytes> {
    let len = usize::try_from(range.end - range.start);
    let len = len.map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    let mut read = |memory: &mut [u8]| {
        fill(memory, range.start, |memory, offset| {
            file.read_at(memory, offset)
        })
    };
    filled(len, pool, &mut read)
}

/// Memory of `len` bytes, as far as `read` has filled it.
fn filled(
    len: usize,
    pool: Option<&SizeClassPool>,
    read: &mut impl FnMut(&mut [u8]) -> io::Result<usize>,
) -> io::Result<Bytes> {
    let pooled = pool.filter(|_| len >= POOLED);
    if let Some(mut buffer) = pooled.and_then(|pool| pool.get_or_map(len).ok()) {
        let read = read(&mut buffer)?;
        return Ok(Bytes::from(buffer).slice(..read));
    }
    let mut memory = Vec::new();
    memory.try_reserve_exact(len)?;
    memory.resize(len, 0);
    let read = read(&mut memory)?;
    memory.truncate(read);
    Ok(memory.into())
}

/// Calls `read` until `memory` is full or the file ends.
fn fill(
    memory: &mut [u8],
    start: u64,
    read: impl Fn(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut filled = 0;
    while filled < memory.len() {
        match read(&mut memory[filled..], start + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Asks the kernel whether a range is in the page cache. See `cachestat(2)`, Linux 6.5. Fails with `EPERM` if
/// the file belongs to another user and is not writable.
fn cached(file: &File, range: &Range<u64>) -> Cached {
    /// The same on all architectures.
    const CACHESTAT: libc::c_long = 451;
    const PAGE: u64 = 4096; // larger pages: the count below is smaller, and the range counts as not cached

    #[repr(C)]
    struct CachestatRange {
        offset: u64,
        len: u64,
    }

    #[repr(C)]
    #[derive(Default)]
    struct Cachestat {
        cached: u64,
        dirty: u64,
        writeback: u64,
        evicted: u64,
        recently_evicted: u64,
    }

    let of = CachestatRange {
        offset: range.start,
        len: range.end - range.start,
    };
    let mut found = Cachestat::default();
    let (fd, flags) = (file.as_raw_fd(), 0_u32);
    // SAFETY: `file` keeps the descriptor open. The kernel reads `of` and writes `found` during the call
    // only; both have the layout of its structures `cachestat_range` and `cachestat`.
    let code = unsafe { libc::syscall(CACHESTAT, fd, &raw const of, &raw mut found, flags) };
    let pages = range.end.div_ceil(PAGE) - range.start / PAGE;
    match code {
        0 if found.cached >= pages => Cached::Whole,
        0 => Cached::NotWhole,
        _ => Cached::Unknown,
    }
}
