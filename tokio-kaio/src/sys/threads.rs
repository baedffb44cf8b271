//! [`Threads`]: a kernel of our own, whose submissions do the whole request with system calls that
//! wait. For where AIO is forbidden.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::abi::{self, IoEvent, Iocb};
use super::fork::Process;
use super::poller::Poller;
use super::priority::Borrowed;
use super::{Events, FixedIocb, Kernel, syscalls, transfers};

/// Requests are done by the thread that submits them, before the submission returns. To be used
/// from threads that may wait. Polls, which may take for ever, have a [thread](Poller) of their own.
#[derive(Debug)]
pub(crate) struct Threads {
    port: Performer,
}

/// Does requests; see [`Threads`].
#[derive(Clone, Debug)]
pub(crate) struct Performer {
    poller: Arc<Poller>,
    owner: Process,
}

impl Threads {
    pub(crate) fn new() -> Threads {
        Threads {
            port: Performer {
                poller: Arc::default(),
                owner: Process::current(),
            },
        }
    }

    #[cfg(all(test, not(kaio_loom), not(miri)))]
    pub(super) fn poller(&self) -> &Arc<Poller> {
        &self.port.poller
    }
}

impl Kernel for Threads {
    type Port = Performer;

    fn port(&self) -> Performer {
        self.port.clone()
    }

    /// Takes one request at a time: what is refused is to be told apart from what was done.
    unsafe fn submit(port: &Performer, batch: &mut [Iocb]) -> io::Result<usize> {
        let Some(iocb) = batch.first() else {
            return Ok(0);
        };
        if !port.is_ours() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        if let Some(poll) = iocb.poll() {
            // SAFETY: what a stand-in stands for lives, by the caller's promise.
            unsafe { port.poller.submit(&poll, iocb.fixed()) }?;
            return Ok(1);
        }
        let priority = iocb.flags & abi::IOCB_FLAG_IOPRIO != 0 && iocb.is_transfer();
        let borrowed = priority.then(|| Borrowed::new(iocb.reqprio)).transpose()?;
        // SAFETY: the caller's promise: the memory is the request's own until its event is reaped,
        // which is made below.
        let performed = unsafe { perform(iocb) };
        drop(borrowed);
        let res = match performed {
            Ok(moved) => moved as i64,
            Err(error) => match error.raw_os_error().unwrap_or(libc::EIO) {
                // What AIO says of a directory.
                libc::EISDIR => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
                errno if is_refusal(iocb, errno) => {
                    return Err(io::Error::from_raw_os_error(errno));
                }
                errno => -i64::from(errno),
            },
        };
        port.poller.post(IoEvent {
            data: iocb.data,
            obj: 0,
            res,
            res2: 0,
        });
        if let Some(eventfd) = iocb.notifies() {
            syscalls::signal(eventfd);
        }
        Ok(1)
    }

    fn reap(&mut self, events: &mut Events) -> io::Result<()> {
        if self.port.is_ours() {
            self.port.poller.take(events);
        }
        Ok(())
    }

    /// A poll that is not there yet ends as soon as it is.
    fn cancel(port: &Performer, poll: &FixedIocb) -> bool {
        port.is_ours() && port.poller.cancel(poll)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if self.port.is_ours() {
            self.port.poller.close();
        }
    }
}

impl Performer {
    /// Whether this process has made it. In a child the lock may have been taken when it was made,
    /// by a thread that it has not.
    fn is_ours(&self) -> bool {
        self.owner == Process::current()
    }
}

/// Whether [`io_submit(2)`](https://man7.org/linux/man-pages/man2/io_submit.2.html) would not take
/// the request, rather than take it and have it fail.
fn is_refusal(iocb: &Iocb, errno: i32) -> bool {
    let too_many = iocb.is_vectored() && iocb.nbytes > abi::UIO_MAXIOV;
    match errno {
        libc::EBADF | libc::EOPNOTSUPP => true,
        // Of a transfer that is well-formed, it is the alignment; that comes as an event.
        libc::EINVAL => !iocb.is_transfer() || iocb.offset < 0 || too_many,
        _ => false,
    }
}

/// Does what `iocb` says; returns the bytes moved.
///
/// # Safety
///
/// The memory that it names is valid, and for reads unobserved.
unsafe fn perform(iocb: &Iocb) -> io::Result<usize> {
    let fd = iocb.fildes as RawFd;
    match iocb.lio_opcode {
        abi::IOCB_CMD_FSYNC => syscalls::fsync(fd).map(|()| 0),
        abi::IOCB_CMD_FDSYNC => syscalls::fdatasync(fd).map(|()| 0),
        // SAFETY: the caller's promise.
        abi::IOCB_CMD_PREAD => unsafe { transfers::read_at(fd, iocb) },
        // SAFETY: the caller's promise.
        abi::IOCB_CMD_PWRITE => unsafe { transfers::write_at(fd, iocb) },
        // SAFETY: the caller's promise.
        abi::IOCB_CMD_PREADV => unsafe { transfers::read_vectored_at(fd, iocb) },
        // SAFETY: the caller's promise.
        abi::IOCB_CMD_PWRITEV => unsafe { transfers::write_vectored_at(fd, iocb) },
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}
