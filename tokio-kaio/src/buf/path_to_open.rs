//! [`PathToOpen`]: the memory of a request that opens a file.
#![allow(unsafe_code)] // owns a descriptor that the kernel has opened

use std::ffi::{CString, c_char};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// The path of a file to open, and its descriptor once it is open.
///
/// It is shared by a request and its future. The last of them closes the descriptor, unless the future has
/// taken it. So an open whose future was dropped leaves nothing behind.
#[derive(Debug)]
pub(crate) struct PathToOpen {
    path: CString,
    /// Owned. `NONE` before the file is open, and after the descriptor was taken.
    descriptor: AtomicI32,
}

const NONE: RawFd = -1;

impl PathToOpen {
    pub(crate) fn new(path: CString) -> Arc<PathToOpen> {
        Arc::new(PathToOpen {
            path,
            descriptor: AtomicI32::new(NONE),
        })
    }

    /// Takes the descriptor. `None`: the file is not open, or the descriptor was taken.
    pub(crate) fn take(&self) -> Option<OwnedFd> {
        let descriptor = self.descriptor.swap(NONE, Ordering::AcqRel);
        // SAFETY: `store` was given ownership, and the swap passes it on once.
        (descriptor != NONE).then(|| unsafe { OwnedFd::from_raw_fd(descriptor) })
    }

    /// The address that names this memory in an entry of a backend.
    pub(crate) fn address(this: &Arc<PathToOpen>) -> u64 {
        Arc::as_ptr(this).expose_provenance() as u64
    }

    /// The path, which ends with a 0, of the `PathToOpen` at `address`.
    ///
    /// # Safety
    ///
    /// `address` is that of a `PathToOpen` that lives.
    #[cfg_attr(not(feature = "io-uring"), allow(dead_code))]
    pub(crate) unsafe fn path_at(address: u64) -> *const c_char {
        // SAFETY: the caller's promise. The reference ends before this returns; the path does not move.
        unsafe { PathToOpen::at(address) }.path.as_ptr()
    }

    /// Gives a descriptor to the `PathToOpen` at `address`.
    ///
    /// # Safety
    ///
    /// `address` is that of a `PathToOpen` that lives. The descriptor is open, and nobody else owns it.
    #[cfg_attr(not(feature = "io-uring"), allow(dead_code))]
    pub(crate) unsafe fn store(address: u64, descriptor: RawFd) {
        // SAFETY: the caller's promise.
        let this = unsafe { PathToOpen::at(address) };
        let before = this.descriptor.swap(descriptor, Ordering::AcqRel);
        debug_assert_eq!(before, NONE, "one completion an entry");
    }

    /// # Safety
    ///
    /// As [`PathToOpen::store`], as long as the reference is used.
    unsafe fn at<'a>(address: u64) -> &'a PathToOpen {
        let this = std::ptr::with_exposed_provenance::<PathToOpen>(address as usize);
        // SAFETY: the caller's promise. Only shared references to it exist: it is in an `Arc`.
        unsafe { &*this }
    }
}

impl Drop for PathToOpen {
    fn drop(&mut self) {
        drop(self.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::IntoRawFd;
    use std::os::unix::net::UnixStream;

    fn stored(file: File) -> Arc<PathToOpen> {
        let path = PathToOpen::new(CString::from(c"data"));
        let address = PathToOpen::address(&path);
        // SAFETY: `path` lives, and the descriptor is given away here.
        unsafe { PathToOpen::store(address, file.into_raw_fd()) };
        path
    }

    #[test]
    fn a_descriptor_is_taken_once() {
        let path = stored(tempfile::tempfile().unwrap());
        let mut file = File::from(path.take().unwrap());
        assert_eq!(file.read(&mut [0]).unwrap(), 0);
        assert!(path.take().is_none());
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no socket that is a file")]
    fn a_descriptor_that_nobody_takes_is_closed() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        let path = stored(File::from(OwnedFd::from(writer)));
        let request = Arc::clone(&path);
        drop(path);
        drop(request);
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "the other end is closed");
    }
}
