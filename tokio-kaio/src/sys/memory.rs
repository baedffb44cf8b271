//! Anonymous memory mappings: `mmap(2)`, `mlock(2)`, `madvise(2)`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};

use super::syscalls::syscall_result;

/// Zeroed private memory of whole pages, unmapped when dropped.
///
/// This type only hands out the address. The owner reads and writes the memory, or has the kernel do so.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: plain memory, not bound to a thread. It is accessed only through raw pointers, whose users are
// responsible for sharing.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes, rounded up to whole pages.
    ///
    /// # Errors
    ///
    /// `EINVAL`: `len` is 0. `ENOMEM`: not enough memory, or more than a slice can hold.
    pub(crate) fn anonymous(len: usize) -> io::Result<Mapping> {
        let len = len
            .checked_next_multiple_of(page_size())
            .filter(|&len| isize::try_from(len).is_ok())
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        // SAFETY: a new private mapping, at an address that the kernel chooses, affects no other.
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

    /// Maps the first `len` bytes of what `fd` is, rounded up to whole pages, and shares them with the kernel.
    ///
    /// # Errors
    ///
    /// The errno of `mmap(2)`.
    #[cfg_attr(not(feature = "io-uring"), allow(dead_code))]
    pub(crate) fn shared(fd: RawFd, len: usize) -> io::Result<Mapping> {
        // SAFETY: a new mapping, at an address that the kernel chooses, affects no other.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        match NonNull::new(start.cast()) {
            Some(start) => Ok(Mapping {
                start,
                len: len.next_multiple_of(page_size()),
            }),
            None => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
        }
    }

    /// Maps at least `len` bytes at a multiple of `alignment`, a power of two. `huge`: whole huge pages, if
    /// the system has some.
    ///
    /// # Errors
    ///
    /// The same as [`Mapping::anonymous`].
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
            // If the system has no huge pages, small pages work too.
            let _ = mapping.advise(libc::MADV_HUGEPAGE);
        }
        Ok(mapping)
    }

    /// Keeps the first `len` bytes that start at a multiple of `alignment`, and unmaps the rest. The
    /// mapping must contain these bytes.
    fn trimmed(self, len: usize, alignment: usize) -> Mapping {
        let before = self.start.as_ptr().align_offset(alignment);
        let whole = std::mem::ManuallyDrop::new(self);
        let after = whole.len - before - len; // no underflow: the mapping is longer by `alignment`
        // SAFETY: within the mapping.
        let start = unsafe { whole.start.add(before) };
        // SAFETY: within the mapping, or at its end.
        let end = unsafe { start.add(len) };
        // Each part consists of whole pages, and is a mapping of its own. `whole` is forgotten.
        let part = |start, len| Mapping { start, len };
        drop((before > 0).then(|| part(whole.start, before)));
        drop((after > 0).then(|| part(end, after)));
        part(start, len)
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Keeps the memory out of swap, until it is unmapped.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EPERM`: past `RLIMIT_MEMLOCK`. `EAGAIN`: not enough memory.
    pub(crate) fn lock(&self) -> io::Result<()> {
        if cfg!(miri) {
            return Ok(()); // Miri has no mlock
        }
        // SAFETY: locking changes neither the content nor the validity of our mapping.
        let code = unsafe { libc::mlock(self.start.as_ptr().cast(), self.len) };
        syscall_result(code.into()).map(drop)
    }

    /// Faults all pages in, so that their first use takes no fault.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: not enough memory. `EFAULT`, `EHWPOISON`: a page can't be used.
    pub(crate) fn populate(&self) -> io::Result<()> {
        match self.advise(libc::MADV_POPULATE_WRITE) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.write_every_page(); // before Linux 5.14
                Ok(())
            }
            populated => populated,
        }
    }

    fn write_every_page(&self) {
        for offset in (0..self.len).step_by(page_size()) {
            // SAFETY: within the mapping.
            let byte = unsafe { self.start.add(offset) };
            // SAFETY: the mapping is writable, and only its owner, which calls this, uses it. All bytes are
            // 0: they were not used yet.
            unsafe { byte.write_volatile(0) };
        }
    }

    /// Excludes the memory from the address space of children, so that a `fork(2)` during a transfer can't
    /// redirect the transfer to a copy of the page.
    pub(crate) fn dont_fork(&self) -> io::Result<()> {
        self.advise(libc::MADV_DONTFORK)
    }

    /// Zeroes the memory in a child. Since Linux 4.14.
    pub(crate) fn wipe_on_fork(&self) -> io::Result<()> {
        self.advise(libc::MADV_WIPEONFORK)
    }

    fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        if cfg!(miri) {
            return Ok(()); // Miri has no madvise
        }
        // SAFETY: the advices used here do not change this process's view of the memory.
        let code = unsafe { libc::madvise(self.start.as_ptr().cast(), self.len, advice) };
        syscall_result(code.into()).map(drop)
    }

    /// Keeps the memory mapped for the life of the process.
    pub(crate) fn leak(self) -> NonNull<u8> {
        std::mem::ManuallyDrop::new(self).start
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `anonymous`, or kept by `trimmed`. The owner has no pointer into it left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// The size of a huge page on x86-64, and on 64-bit ARM with pages of 4 KiB.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

pub(crate) fn page_size() -> usize {
    // SAFETY: takes a number, and changes nothing.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_can_be_populated_by_the_kernel_and_by_writing() {
        let mapping = Mapping::anonymous(5 * page_size()).unwrap();
        mapping.populate().unwrap();
        mapping.write_every_page();
    }
}
