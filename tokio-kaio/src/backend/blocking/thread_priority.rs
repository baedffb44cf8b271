//! [`ThreadPriority`]: changes the I/O priority of this thread for a while.
#![allow(unsafe_code)]

use std::io;

use super::blocking_syscalls::syscall_result;
use crate::sys::abi;

/// Gives this thread another I/O priority, until it is dropped.
#[derive(Debug)]
pub(super) struct ThreadPriority {
    /// The priority to restore. `None`: it was not changed.
    previous: Option<libc::c_int>,
}

impl ThreadPriority {
    /// # Errors
    ///
    /// `EINVAL`: not a priority. `EPERM`: a real-time priority, which needs `CAP_SYS_ADMIN` or
    /// `CAP_SYS_NICE`.
    pub(super) fn set(priority: u16) -> io::Result<ThreadPriority> {
        let priority = priority.into();
        let previous = ioprio_get()?;
        if previous == priority {
            return Ok(ThreadPriority { previous: None });
        }
        ioprio_set(priority)?;
        Ok(ThreadPriority {
            previous: Some(previous),
        })
    }
}

impl Drop for ThreadPriority {
    fn drop(&mut self) {
        if let Some(previous) = self.previous {
            // Fails if the thread has lost the right to its own priority: it keeps the other one.
            let _ = ioprio_set(previous);
        }
    }
}

const IOPRIO_WHO_PROCESS: libc::c_long = 1;
const THIS_THREAD: libc::c_long = 0;

/// The I/O priority of this thread. 0: it has none of its own.
///
/// # References
///
/// [`ioprio_get(2)`](https://man7.org/linux/man-pages/man2/ioprio_get.2.html)
pub(in crate::backend) fn ioprio_get() -> io::Result<libc::c_int> {
    // SAFETY: takes numbers.
    let code = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, THIS_THREAD) };
    let priority = syscall_result(code)? as libc::c_int;
    let class = priority >> abi::IOPRIO_CLASS_SHIFT;
    if class == abi::IOPRIO_CLASS_NONE.into() {
        return Ok(0); // some kernels report a level with it, and refuse that level in `ioprio_set`
    }
    Ok(priority)
}

/// # References
///
/// [`ioprio_set(2)`](https://man7.org/linux/man-pages/man2/ioprio_set.2.html)
fn ioprio_set(priority: libc::c_int) -> io::Result<()> {
    let priority: libc::c_long = priority.into();
    // SAFETY: takes numbers.
    let code = unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            IOPRIO_WHO_PROCESS,
            THIS_THREAD,
            priority,
        )
    };
    syscall_result(code).map(drop)
}

#[cfg(all(test, not(kaio_loom), not(miri)))]
mod tests {
    use super::*;

    const IDLE: u16 = abi::IOPRIO_CLASS_IDLE << abi::IOPRIO_CLASS_SHIFT;

    #[test]
    fn a_thread_has_its_own_priority_again_afterwards() {
        let own = ioprio_get().unwrap();
        for _ in 0..2 {
            let changed = ThreadPriority::set(IDLE).unwrap();
            assert_eq!(ioprio_get().unwrap(), IDLE.into());
            drop(changed);
            assert_eq!(ioprio_get().unwrap(), own);
        }
    }

    #[test]
    fn a_priority_that_was_set_before_is_restored_too() {
        let best_effort = (abi::IOPRIO_CLASS_BE << abi::IOPRIO_CLASS_SHIFT) | 6;
        let outer = ThreadPriority::set(best_effort).unwrap();
        drop(ThreadPriority::set(IDLE).unwrap());
        assert_eq!(ioprio_get().unwrap(), best_effort.into());
        drop(outer);
    }

    #[test]
    fn an_invalid_priority_leaves_the_thread_as_it_is() {
        let own = ioprio_get().unwrap();
        let errno = ThreadPriority::set(1 << 15).unwrap_err();
        assert_eq!(errno.raw_os_error(), Some(libc::EINVAL));
        assert_eq!(ioprio_get().unwrap(), own);
    }
}
