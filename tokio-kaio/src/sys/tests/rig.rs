//! [`Rig`]: a kernel with what a context has for it, and ways to wait for events.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::sys::abi::{IOCB_CMD_FSYNC, Iocb};
use crate::sys::{Aio, Events, FixedIocb, Kernel, System, Threads, create_eventfd, syscalls};

/// A kernel, and the eventfd that it signals.
pub(super) struct Rig {
    pub(super) kernel: System,
    eventfd: OwnedFd,
}

/// Runs `test` over each of the kernels that there are here.
pub(super) fn on_both(test: impl Fn(&mut Rig)) {
    match Aio::setup(16) {
        Ok(aio) => test(&mut Rig::new(System::Aio(aio))),
        Err(error) => println!("skipped for kernel AIO, which can't be had here: {error}"),
    }
    test(&mut Rig::on_threads());
}

impl Rig {
    fn new(kernel: System) -> Rig {
        Rig {
            kernel,
            eventfd: create_eventfd(0, false).unwrap(),
        }
    }

    pub(super) fn on_threads() -> Rig {
        Rig::new(System::Threads(Threads::new()))
    }

    /// Submits all of `batch`, or gives the errno of the first that is refused.
    ///
    /// # Safety
    ///
    /// As [`Kernel::submit`].
    pub(super) unsafe fn submit(&self, batch: &mut [Iocb]) -> Result<(), i32> {
        for iocb in batch.iter_mut() {
            iocb.notify(self.eventfd.as_raw_fd());
        }
        let port = self.kernel.port();
        let mut sent = 0;
        while sent < batch.len() {
            // SAFETY: the caller's promise.
            let taken = unsafe { System::submit(&port, &mut batch[sent..]) };
            sent += taken.map_err(|error| error.raw_os_error().unwrap())?;
        }
        Ok(())
    }

    /// Submits a poll, which comes back as `tag`.
    ///
    /// # Safety
    ///
    /// `fixed` stays until the event.
    pub(super) unsafe fn poll(
        &self,
        fixed: &FixedIocb,
        file: &impl AsRawFd,
        events: i16,
        tag: u64,
    ) -> Result<(), i32> {
        let stand_in = Iocb {
            fildes: file.as_raw_fd() as u32,
            data: tag,
            ..Iocb::stand_in(fixed, events as u16)
        };
        // SAFETY: the caller's promise; a poll has no memory.
        unsafe { self.submit(&mut [stand_in]) }
    }

    pub(super) fn cancel(&self, fixed: &FixedIocb) -> bool {
        System::cancel(&self.kernel.port(), fixed)
    }

    /// Waits for so many events; each as its tag and its result, by tags. There are no more.
    pub(super) fn events(&mut self, wanted: usize) -> Vec<(u64, i64)> {
        let mut events = Events::new();
        loop {
            self.kernel.reap(&mut events).unwrap();
            if events.len() >= wanted {
                break;
            }
            let signalled = libc::pollfd {
                fd: self.eventfd.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            syscalls::poll(&mut [signalled], true).unwrap();
            syscalls::drain(&self.eventfd);
        }
        assert_eq!(events.len(), wanted);
        let mut events: Vec<_> = events.iter().map(|e| (e.data, e.res)).collect();
        events.sort_unstable();
        events
    }

    /// Whether nothing has come so far.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.events(0).is_empty()
    }

    /// Waits for one event.
    pub(super) fn next_event(&mut self) -> Vec<(u64, i64)> {
        self.events(1)
    }
}

/// A request that any file takes.
pub(super) fn sync(file: &impl AsRawFd, tag: u64) -> Iocb {
    Iocb {
        lio_opcode: IOCB_CMD_FSYNC,
        fildes: file.as_raw_fd() as u32,
        data: tag,
        ..Iocb::default()
    }
}

/// What is written to the second is read from the first.
pub(super) fn pipe() -> (File, File) {
    let mut fds = [-1; 2];
    // SAFETY: the kernel writes two numbers.
    let code = unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) };
    assert_eq!(code, 0);
    // SAFETY: the kernel has just made them, and nobody else knows them.
    let [reader, writer] = fds.map(|fd| unsafe { File::from_raw_fd(fd) });
    (reader, writer)
}

/// A file with `content` that has no name.
pub(super) fn file_with(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

pub(super) fn content(file: &File) -> Vec<u8> {
    let mut content = Vec::new();
    io::Seek::rewind(&mut &*file).unwrap();
    (&*file).read_to_end(&mut content).unwrap();
    content
}
