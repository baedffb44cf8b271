//! [`Fixture`]: a backend with its eventfd, and ways to wait for completions.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

#[cfg(feature = "simulation")]
use super::simulated_time::{FileOfDisk, SimulatedTime};
use crate::backend::aio::AioBackend;
use crate::backend::any::{AnyBackend, AnySubmitter};
use crate::backend::blocking::{self, BlockingBackend};
#[cfg(feature = "io-uring")]
use crate::backend::uring::UringBackend;
use crate::backend::{
    Completions, IoBackend, Notify, OpCode, Sqe, SubmitError, Submitter, refused_with,
};
#[cfg(feature = "io-uring")]
use crate::buf::RegisteredPool;
use crate::sys::create_eventfd;

pub(super) struct Fixture {
    pub(super) backend: AnyBackend,
    pub(super) submitter: AnySubmitter,
    pub(super) eventfd: OwnedFd,
    /// The disk and the clock of the simulated backend.
    #[cfg(feature = "simulation")]
    simulated: Option<SimulatedTime>,
}

/// Runs `test` over each backend that works on this machine.
pub(super) fn on_each_backend(test: impl Fn(&mut Fixture)) {
    on_each_polling_backend(&test);
    #[cfg(feature = "simulation")]
    on_the_simulated_backend(test);
}

/// Runs `test` over the simulated backend, in a runtime whose clock is paused.
#[cfg(feature = "simulation")]
pub(super) fn on_the_simulated_backend(test: impl FnOnce(&mut Fixture)) {
    let mut fixture = Fixture::simulated();
    let runtime = fixture.simulated_time().runtime.handle().clone();
    let _in_runtime = runtime.enter(); // the clock of the disk is that of the runtime
    test(&mut fixture);
}

/// As [`on_each_backend`], without the simulated backend, which refuses polls: a simulated disk has regular files
/// only, and these are always ready.
pub(super) fn on_each_polling_backend(test: impl Fn(&mut Fixture)) {
    match AioBackend::setup(16) {
        Ok(aio) => test(&mut Fixture::new(AnyBackend::Aio(aio))),
        Err(error) => println!("skipped for kernel AIO, which is not available here: {error}"),
    }
    test(&mut Fixture::blocking());
    #[cfg(feature = "io-uring")]
    if let Some(mut fixture) = Fixture::uring(16) {
        test(&mut fixture);
    }
}

impl Fixture {
    pub(super) fn new(backend: AnyBackend) -> Fixture {
        Fixture::with_eventfd(backend, create_eventfd(0, false).unwrap())
    }

    fn with_eventfd(backend: AnyBackend, eventfd: OwnedFd) -> Fixture {
        Fixture {
            submitter: backend.submitter(Some(eventfd.as_raw_fd())),
            backend,
            eventfd,
            #[cfg(feature = "simulation")]
            simulated: None,
        }
    }

    #[cfg(feature = "simulation")]
    fn simulated() -> Fixture {
        let (simulated, backend) = SimulatedTime::with_backend();
        let mut fixture = Fixture::new(AnyBackend::Simulated(backend));
        fixture.simulated = Some(simulated);
        fixture
    }

    #[cfg(feature = "simulation")]
    pub(super) fn simulated_time(&self) -> &SimulatedTime {
        self.simulated.as_ref().expect("the simulated backend")
    }

    pub(super) fn blocking() -> Fixture {
        Fixture::new(AnyBackend::Blocking(BlockingBackend::new()))
    }

    /// `None`, with a message: kernel AIO is not available.
    pub(super) fn aio(nr: u32) -> Option<Fixture> {
        match AioBackend::setup(nr) {
            Ok(aio) => Some(Fixture::new(AnyBackend::Aio(aio))),
            Err(error) => {
                println!("skipped: kernel AIO is not available here: {error}");
                None
            }
        }
    }

    /// `None`, with a message: io_uring is not available.
    #[cfg(feature = "io-uring")]
    pub(super) fn uring(nr: u32) -> Option<Fixture> {
        Fixture::uring_with(nr, &[])
    }

    /// As [`uring`](Fixture::uring), with registered memory.
    #[cfg(feature = "io-uring")]
    pub(super) fn uring_with(nr: u32, pools: &[RegisteredPool]) -> Option<Fixture> {
        let eventfd = create_eventfd(0, false).unwrap();
        match UringBackend::setup(nr, Some(eventfd.as_raw_fd()), pools) {
            Ok(uring) => Some(Fixture::with_eventfd(AnyBackend::Uring(uring), eventfd)),
            Err(error) => {
                println!("skipped: io_uring is not available here: {error}");
                None
            }
        }
    }

    #[cfg(feature = "io-uring")]
    pub(super) fn is_uring(&self) -> bool {
        matches!(self.backend, AnyBackend::Uring(_))
    }

    #[cfg(not(feature = "io-uring"))]
    pub(super) fn is_uring(&self) -> bool {
        false
    }

    pub(super) fn is_simulated(&self) -> bool {
        #[cfg(feature = "simulation")]
        return self.simulated.is_some();
        #[cfg(not(feature = "simulation"))]
        false
    }

    pub(super) fn is_aio(&self) -> bool {
        matches!(self.backend, AnyBackend::Aio(_))
    }

    /// Submits all of `entries`, or returns the errno of the first one that is refused.
    ///
    /// # Safety
    ///
    /// As [`Submitter::submit`].
    pub(super) unsafe fn submit(&self, entries: &[Sqe]) -> Result<(), i32> {
        let mut submitted = 0;
        while submitted < entries.len() {
            let rest = &entries[submitted..];
            // SAFETY: the caller's promise.
            match unsafe { self.submitter.submit(rest, Notify::Signal) } {
                Ok(taken) => {
                    assert!((1..=rest.len()).contains(&taken), "{taken}");
                    submitted += taken;
                }
                Err(SubmitError::Refused(errno)) => return Err(errno),
                Err(SubmitError::NoRoom) => panic!("no room"),
            }
        }
        Ok(())
    }

    /// Submits `entry`, or returns the errno with which it is refused: by `submit`, or by io_uring with a
    /// completion.
    ///
    /// # Safety
    ///
    /// As [`Submitter::submit`].
    pub(super) unsafe fn refusal(&mut self, entry: &Sqe) -> Result<(), i32> {
        // SAFETY: the caller's promise.
        unsafe { self.submit(std::slice::from_ref(entry)) }?;
        if self.is_uring() {
            let (user_data, result) = self.next_completion();
            assert_eq!(user_data, entry.user_data);
            return Err(refused_with(result).unwrap_or_else(|| panic!("{entry:?}: {result}")));
        }
        Ok(())
    }

    /// A file with `content` that requests of this backend can name. Its descriptor can be read and written.
    pub(super) fn file_with(&self, content: &[u8]) -> ContractFile {
        #[cfg(feature = "simulation")]
        if let Some(simulated) = &self.simulated {
            let file = simulated.file(true, true);
            file.fill(content);
            return ContractFile::Simulated(file);
        }
        ContractFile::Kernel(file_with(content))
    }

    /// A file that can only be read.
    pub(super) fn read_only_file(&self) -> ContractFile {
        #[cfg(feature = "simulation")]
        if let Some(simulated) = &self.simulated {
            return ContractFile::Simulated(simulated.file(true, false));
        }
        ContractFile::Kernel(File::open("/dev/null").unwrap())
    }

    /// A file that can only be written.
    pub(super) fn write_only_file(&self) -> ContractFile {
        #[cfg(feature = "simulation")]
        if let Some(simulated) = &self.simulated {
            return ContractFile::Simulated(simulated.file(false, true));
        }
        ContractFile::Kernel(File::options().write(true).open("/dev/null").unwrap())
    }

    /// Submits a poll.
    pub(super) fn poll(&self, file: &impl AsRawFd, events: i16, user_data: u64) -> Result<(), i32> {
        // SAFETY: a poll has no memory.
        unsafe { self.submit(&[poll(file, events, user_data)]) }
    }

    pub(super) fn cancel(&self, user_data: u64) -> bool {
        self.submitter.cancel(user_data)
    }

    /// Waits for that many completions; returns `user_data` and result of each, in order of
    /// `user_data`. There are no more.
    pub(super) fn completions(&mut self, wanted: usize) -> Vec<(u64, i64)> {
        let mut completions = Completions::new();
        loop {
            self.backend.reap(&mut completions).unwrap();
            if completions.len() >= wanted {
                break;
            }
            self.wait_for_signal();
            if !self.is_simulated() {
                blocking::drain(&self.eventfd);
            }
        }
        assert_eq!(completions.len(), wanted);
        let mut completions: Vec<_> = completions
            .iter()
            .map(|completion| (completion.user_data, completion.result))
            .collect();
        completions.sort_unstable();
        completions
    }

    /// Whether nothing has completed so far.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.completions(0).is_empty()
    }

    /// Waits for one completion.
    pub(super) fn next_completion(&mut self) -> (u64, i64) {
        self.completions(1)[0]
    }

    /// Gives requests time to complete, for those who do not wait for a signal.
    pub(super) fn pause(&self) {
        match self.is_simulated() {
            true => self.wait_for_signal(), // else no time passes
            false => std::thread::yield_now(),
        }
    }

    /// Waits until the eventfd has been signalled, or the driver task of the simulated backend was woken.
    pub(super) fn wait_for_signal(&self) {
        #[cfg(feature = "simulation")]
        if let Some(simulated) = &self.simulated {
            return simulated.wait_for_wakeup();
        }
        let signalled = libc::pollfd {
            fd: self.eventfd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        blocking::poll(&mut [signalled], true).unwrap();
    }

    /// Takes what the eventfd has counted.
    pub(super) fn signals(&self) -> u64 {
        let mut count = [0; 8];
        let mut eventfd = File::from(self.eventfd.try_clone().unwrap());
        match eventfd.read_exact(&mut count) {
            Ok(()) => u64::from_ne_bytes(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => panic!("{error}"),
        }
    }
}

/// A file of the kernel or of a simulated disk.
pub(super) enum ContractFile {
    Kernel(File),
    #[cfg(feature = "simulation")]
    Simulated(FileOfDisk),
}

impl ContractFile {
    pub(super) fn content(&self) -> Vec<u8> {
        match self {
            ContractFile::Kernel(file) => content(file),
            #[cfg(feature = "simulation")]
            ContractFile::Simulated(file) => file.content(),
        }
    }
}

impl AsRawFd for ContractFile {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            ContractFile::Kernel(file) => file.as_raw_fd(),
            #[cfg(feature = "simulation")]
            ContractFile::Simulated(file) => file.as_raw_fd(),
        }
    }
}

/// A request that every file takes.
pub(super) fn sync(file: &impl AsRawFd, user_data: u64) -> Sqe {
    Sqe {
        opcode: OpCode::Fsync,
        priority: 0,
        fd: file.as_raw_fd(),
        rw_flags: 0,
        addr: 0,
        len: 0,
        offset: 0,
        user_data,
    }
}

pub(super) fn poll(file: &impl AsRawFd, events: i16, user_data: u64) -> Sqe {
    Sqe {
        opcode: OpCode::Poll,
        len: (events as u16).into(),
        ..sync(file, user_data)
    }
}

/// A read of all of `memory`.
pub(super) fn read(file: &impl AsRawFd, memory: &mut [u8], user_data: u64) -> Sqe {
    Sqe {
        opcode: OpCode::Read,
        addr: memory.as_mut_ptr() as u64,
        len: memory.len() as u64,
        ..sync(file, user_data)
    }
}

/// A write of all of `memory`.
pub(super) fn write(file: &impl AsRawFd, memory: &[u8], user_data: u64) -> Sqe {
    Sqe {
        opcode: OpCode::Write,
        addr: memory.as_ptr() as u64,
        len: memory.len() as u64,
        ..sync(file, user_data)
    }
}

/// A reader, and the writer that writes to it.
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

/// Runs `test` in a forked child; fails if it returns false there, or does not return.
///
/// The child has this thread only. `test` must neither allocate much nor take locks that other
/// threads may have held.
pub(super) fn in_forked_child(test: impl FnOnce() -> bool) {
    // SAFETY: the child uses its own memory, then ends without running anything else.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: takes a number. Ends a child that waits.
        unsafe { libc::alarm(20) };
        let passed = test();
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(!passed)) };
    }
    let mut status = 0;
    // SAFETY: waits for the child that was just made.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
}
