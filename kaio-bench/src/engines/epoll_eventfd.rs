//! [`EpollEventfd`]: an eventfd and the epoll instance that waits for it.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// An eventfd, registered edge-triggered in an epoll instance, as in tokio. Because of the edge trigger
/// the eventfd is never read.
pub(super) struct EpollEventfd {
    eventfd: OwnedFd,
    epoll: OwnedFd,
}

impl EpollEventfd {
    pub(super) fn new() -> io::Result<EpollEventfd> {
        let eventfd = new_eventfd()?;
        // SAFETY: `epoll_create1` takes a plain number and returns a new descriptor.
        let epoll = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        let mut interest = libc::epoll_event {
            events: (libc::EPOLLIN | libc::EPOLLET) as u32,
            u64: 0,
        };
        let (instance, fd) = (epoll.as_raw_fd(), eventfd.as_raw_fd());
        // SAFETY: both descriptors are open, and `interest` is valid for the call.
        let code = unsafe { libc::epoll_ctl(instance, libc::EPOLL_CTL_ADD, fd, &raw mut interest) };
        match code {
            0 => Ok(EpollEventfd { eventfd, epoll }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The eventfd that completions signal.
    pub(super) fn eventfd(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }

    /// Waits for a signal since the last wait.
    pub(super) fn wait(&self) -> io::Result<()> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        loop {
            // SAFETY: `event` is valid for writes of one entry.
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

/// Creates an eventfd with the value 0.
pub(super) fn new_eventfd() -> io::Result<OwnedFd> {
    // SAFETY: `eventfd` takes plain numbers and returns a new descriptor.
    owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}

/// Takes ownership of the descriptor that a system call returned, or returns the last OS error.
fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
