//! What the integration tests share.
#![allow(dead_code, unused_imports, unused_macros, unreachable_pub, unsafe_code)] // each binary uses a part

mod child;
mod data;
mod dirs;
mod fixture;
mod limits;
mod occupied;
mod resources;
mod runtimes;
mod waiting;

pub use child::*;
pub use data::*;
pub use dirs::*;
pub use fixture::*;
pub use limits::*;
pub use occupied::*;
pub use resources::*;
pub use runtimes::*;
pub use waiting::*;

pub(crate) use child::in_child;

use std::ffi::{CStr, c_void};
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// After this many requests that completed inline, further ones are submitted without an eventfd.
pub const FAST_REQUESTS: usize = 20_000;

/// The C library's function `name`, for a binary that defines its own function of that name.
///
/// # Safety
///
/// `F` is the type of a pointer to that function.
pub unsafe fn real_function<F: Copy>(name: &CStr) -> F {
    assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
    // SAFETY: asks for a symbol by its name.
    let symbol = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    assert!(!symbol.is_null());
    // SAFETY: the caller promises the type.
    unsafe { std::mem::transmute_copy(&symbol) }
}

/// A pipe: the end to read from, and the end to write to.
pub fn pipe() -> (File, File) {
    let mut fds = [-1; 2];
    // SAFETY: `fds` has room for both descriptors.
    let code = unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) };
    assert_eq!(code, 0, "{}", io::Error::last_os_error());
    // SAFETY: both descriptors are new, and nothing else owns them.
    fds.map(|fd| File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
        .into()
}
