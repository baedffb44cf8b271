//! [`Borrowed`]: the I/O priority of this thread, for a while.
#![allow(unsafe_code)]

use std::io;

use super::abi;
use super::syscalls::syscall_result;

/// As long as this lives, the thread does its I/O with another priority than its own.
#[derive(Debug)]
pub(super) struct Borrowed {
    /// What it goes back to; `None`: it was the same.
    own: Option<libc::c_int>,
}

impl Borrowed {
    /// # Errors
    ///
    /// `EINVAL`: `priority` is none. `EPERM`: it is a real-time one, for which `CAP_SYS_ADMIN` or
    /// `CAP_SYS_NICE` is wanted.
    pub(super) fn new(priority: i16) -> io::Result<Borrowed> {
        let priority = priority.into();
        let own = ioprio_get()?;
        if own == priority {
            return Ok(Borrowed { own: None });
        }
        ioprio_set(priority)?;
        Ok(Borrowed { own: Some(own) })
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(own) = self.own {
            // It may fail where the thread has lost the right to what it had: nothing to be done.
            let _ = ioprio_set(own);
        }
    }
}

const IOPRIO_WHO_PROCESS: libc::c_long = 1;
const THIS_THREAD: libc::c_long = 0;

/// # References
///
/// [`ioprio_get(2)`](https://man7.org/linux/man-pages/man2/ioprio_get.2.html)
pub(super) fn ioprio_get() -> io::Result<libc::c_int> {
    // SAFETY: takes numbers.
    let code = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, THIS_THREAD) };
    let priority = syscall_result(code)? as libc::c_int;
    let class = priority >> abi::IOPRIO_CLASS_SHIFT;
    if class == abi::IOPRIO_CLASS_NONE.into() {
        return Ok(0); // some kernels give it a level, with which none of them takes it back
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

    const IDLE: i16 = (abi::IOPRIO_CLASS_IDLE << abi::IOPRIO_CLASS_SHIFT) as i16;

    #[test]
    fn a_thread_has_its_own_priority_again_afterwards() {
        let own = ioprio_get().unwrap();
        for _ in 0..2 {
            let borrowed = Borrowed::new(IDLE).unwrap();
            assert_eq!(ioprio_get().unwrap(), IDLE.into());
            drop(borrowed);
            assert_eq!(ioprio_get().unwrap(), own);
        }
    }

    #[test]
    fn a_priority_of_its_own_is_given_back_too() {
        let best = (abi::IOPRIO_CLASS_BE << abi::IOPRIO_CLASS_SHIFT) as i16 | 6;
        let own = Borrowed::new(best).unwrap();
        drop(Borrowed::new(IDLE).unwrap());
        assert_eq!(ioprio_get().unwrap(), best.into());
        drop(own);
    }

    #[test]
    fn what_is_no_priority_leaves_the_thread_as_it_is() {
        let own = ioprio_get().unwrap();
        let errno = Borrowed::new(i16::MIN).unwrap_err();
        assert_eq!(errno.raw_os_error(), Some(libc::EINVAL));
        assert_eq!(ioprio_get().unwrap(), own);
    }
}
