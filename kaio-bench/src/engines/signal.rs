//! [`Signal`]: an eventfd, and an epoll instance to wait for it in.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// What completions signal, and what waits for them: as tokio does it, with an eventfd that is
/// registered edge-triggered, so that nobody has to read it.
pub(super) struct Signal {
    eventfd: OwnedFd,
    epoll: OwnedFd,
}

impl Signal {
    pub(super) fn new() -> io::Result<Signal> {
        // SAFETY: makes a descriptor, from plain numbers.
        let eventfd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        let eventfd = owned(eventfd)?;
        // SAFETY: as above.
        let epoll = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        let mut interest = libc::epoll_event {
            events: (libc::EPOLLIN | libc::EPOLLET) as u32,
            u64: 0,
        };
        let (instance, fd) = (epoll.as_raw_fd(), eventfd.as_raw_fd());
        // SAFETY: two descriptors of ours, and an event for the call.
        let code = unsafe { libc::epoll_ctl(instance, libc::EPOLL_CTL_ADD, fd, &raw mut interest) };
        match code {
            0 => Ok(Signal { eventfd, epoll }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// What requests are to signal.
    pub(super) fn eventfd(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }

    /// Sleeps until there has been a signal since the last time.
    pub(super) fn wait(&self) -> io::Result<()> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        loop {
            // SAFETY: room for one event.
            let code = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), &raw mut event, 1, -1) };
            if code >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

/// A descriptor that a system call has just returned.
fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
