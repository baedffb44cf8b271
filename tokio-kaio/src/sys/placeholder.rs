//! Placeholders: descriptors of files that the kernel can't read or write, for files that exist elsewhere.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

use parking_lot::Mutex;

use super::syscalls::syscall_result;

/// Longest name that `memfd_create(2)` accepts.
const NAME_MAX: usize = 249;

/// A placeholder whose length is not set yet.
#[derive(Debug)]
pub(crate) struct NewPlaceholder {
    writable: File,
    placeholder: File,
}

impl NewPlaceholder {
    /// Creates a descriptor of an empty file, on which every read, write and sync fails with `EBADF` (`O_PATH`).
    /// `fstat(2)` works. `/proc/self/fd` shows `name`.
    ///
    /// # Errors
    ///
    /// `EMFILE`, `ENFILE`: two descriptors are needed.
    pub(crate) fn create(name: &str) -> io::Result<NewPlaceholder> {
        let name: Vec<u8> = name
            .bytes()
            .filter(|&byte| byte != 0)
            .take(NAME_MAX)
            .collect();
        let name = CString::new(name).unwrap_or_default(); // has no 0
        // SAFETY: a string that ends with 0, and flags.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
        syscall_result(fd.into())?;
        // SAFETY: the kernel has just made it, and nobody else knows it.
        let writable = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_PATH);
        let placeholder = reopen(&writable, &options)?;
        Ok(NewPlaceholder {
            writable,
            placeholder,
        })
    }

    /// Sets the length in bytes. Needs no further descriptor.
    pub(crate) fn with_len(self, len: u64) -> io::Result<File> {
        self.writable.set_len(len)?;
        Ok(self.placeholder)
    }
}

/// Locked while permissions change: [`resize_placeholder`] changes them for a moment.
static PERMISSIONS: Mutex<()> = Mutex::new(());

/// Sets the length of a placeholder, whatever its permissions.
pub(crate) fn resize_placeholder(placeholder: &File, len: u64) -> io::Result<()> {
    let _locked = PERMISSIONS.lock();
    let mut options = OpenOptions::new();
    options.write(true);
    let writable = match reopen(placeholder, &options) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let kept = placeholder.metadata()?.permissions();
            std::fs::set_permissions(link_of(placeholder), Permissions::from_mode(0o600))?;
            let reopened = reopen(placeholder, &options);
            std::fs::set_permissions(link_of(placeholder), kept)?;
            reopened
        }
        reopened => reopened,
    };
    writable?.set_len(len)
}

/// Sets the permissions of a placeholder.
pub(crate) fn set_placeholder_permissions(
    placeholder: &File,
    permissions: Permissions,
) -> io::Result<()> {
    let _locked = PERMISSIONS.lock();
    std::fs::set_permissions(link_of(placeholder), permissions)
}

fn reopen(file: &File, options: &OpenOptions) -> io::Result<File> {
    options.open(link_of(file))
}

fn link_of(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}
