//! Anonymous memory mappings: `mmap(2)`, `mlock(2)`, `madvise(2)`.
#![allow(unsafe_code)]

use std::io;
use std::ptr::{self, NonNull};

use super::syscalls::syscall_result;

/// Zeroed private memory of whole pages, unmapped when dropped.
///
/// What it holds is read and written by its owner, and by the kernel on the owner's word; this
/// type only hands out the address.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: plain memory, not bound to a thread; it is reached only through raw pointers, whose
// users answer for how they share it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// At least `len` bytes, rounded up to whole pages.
    ///
    /// # Errors
    ///
    /// `EINVAL`: `len` is 0. `ENOMEM`: there is no such room, or it is more than a slice can have.
    pub(crate) fn anonymous(len: usize) -> io::Result<Mapping> {
        let len = len
            .checked_next_multiple_of(page_size())
            .filter(|&len| isize::try_from(len).is_ok())
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        // SAFETY: a new private mapping at an address of the kernel's choice touches no other.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        match NonNull::new(start.cast()) {
            Some(start) => Ok(Mapping { start, len }),
            None => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
        }
    }

    /// At least `len` bytes at an address that is a multiple of `alignment`, a power of two. `huge`:
    /// on huge pages, where the system has some to give; such a mapping consists of whole ones.
    ///
    /// # Errors
    ///
    /// As [`Mapping::anonymous`].
    pub(crate) fn aligned(len: usize, alignment: usize, huge: bool) -> io::Result<Mapping> {
        let alignment = match huge {
            true => alignment.max(HUGE_PAGE),
            false => alignment,
        };
        if alignment <= page_size() {
            return Mapping::anonymous(len);
        }
        let no_room = || io::Error::from_raw_os_error(libc::ENOMEM);
        let whole = if huge { HUGE_PAGE } else { page_size() };
        let rounded = len.checked_next_multiple_of(whole).ok_or_else(no_room)?;
        let more = rounded.checked_add(alignment).ok_or_else(no_room)?;
        if len == 0 {
            return Mapping::anonymous(0);
        }
        let mapping = Mapping::anonymous(more)?.trimmed(rounded, alignment);
        if huge {
            // Where the system has none to give, small ones do as well.
            let _ = mapping.advise(libc::MADV_HUGEPAGE);
        }
        Ok(mapping)
    }

    /// The first `len` bytes that start at a multiple of `alignment`, which must be in it. The rest
    /// is unmapped.
    fn trimmed(self, len: usize, alignment: usize) -> Mapping {
        let before = self.start.as_ptr().align_offset(alignment);
        let whole = std::mem::ManuallyDrop::new(self);
        let after = whole.len - before - len; // what was mapped is longer by `alignment`
        // SAFETY: within the mapping.
        let start = unsafe { whole.start.add(before) };
        // SAFETY: within the mapping, or right behind it.
        let end = unsafe { start.add(len) };
        // Each part is a mapping by itself, whole pages of the one that is forgotten here.
        let part = |start, len| Mapping { start, len };
        drop((before > 0).then(|| part(whole.start, before)));
        drop((after > 0).then(|| part(end, after)));
        part(start, len)
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Keeps the memory out of swap. Undone by unmapping it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EPERM`: past `RLIMIT_MEMLOCK`. `EAGAIN`: no memory to back it.
    pub(crate) fn lock(&self) -> io::Result<()> {
        if cfg!(miri) {
            return Ok(()); // Miri has no mlock
        }
        // SAFETY: locking changes neither content nor validity of a mapping that is ours.
        let code = unsafe { libc::mlock(self.start.as_ptr().cast(), self.len) };
        syscall_result(code.into()).map(drop)
    }

    /// Leaves the memory out of a child's address space, so that a `fork(2)` during a transfer
    /// can't redirect it to a copy of the page.
    pub(crate) fn dont_fork(&self) -> io::Result<()> {
        self.advise(libc::MADV_DONTFORK)
    }

    /// Zeroes the memory in a child. Since Linux 4.14.
    pub(crate) fn wipe_on_fork(&self) -> io::Result<()> {
        self.advise(libc::MADV_WIPEONFORK)
    }

    fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        if cfg!(miri) {
            return Ok(()); // nor madvise
        }
        // SAFETY: the advices used here leave this process' view of the memory as it is.
        let code = unsafe { libc::madvise(self.start.as_ptr().cast(), self.len, advice) };
        syscall_result(code.into()).map(drop)
    }

    /// Keeps the memory for the life of the process.
    pub(crate) fn leak(self) -> NonNull<u8> {
        std::mem::ManuallyDrop::new(self).start
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: what `anonymous` mapped, or the part that `trimmed` kept of it; whoever drops the mapping has no pointer into
        // it left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// The size of a huge page, as x86-64 and 64-bit ARM with 4 KiB pages have them.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

pub(crate) fn page_size() -> usize {
    // SAFETY: only asks.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}
