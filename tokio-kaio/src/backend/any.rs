//! [`AnyBackend`]: one of the backends, chosen at run time.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;

use super::aio::{AioBackend, AioSubmitter};
use super::blocking::{BlockingBackend, BlockingSubmitter};
#[cfg(feature = "simulation")]
use super::simulated::{SimulatedBackend, SimulatedSubmitter};
#[cfg(feature = "io-uring")]
use super::uring::{UringBackend, UringSubmitter};
use super::{AfterReap, Capabilities, Completions, IoBackend, Notify, Sqe, SubmitError, Submitter};

/// Any of the backends of the library.
#[derive(Debug)]
pub(crate) enum AnyBackend {
    Aio(AioBackend),
    Blocking(BlockingBackend),
    #[cfg(feature = "io-uring")]
    Uring(UringBackend),
    #[cfg(feature = "simulation")]
    Simulated(SimulatedBackend),
}

/// Submits to an [`AnyBackend`].
#[derive(Clone, Debug)]
pub(crate) enum AnySubmitter {
    Aio(AioSubmitter),
    Blocking(BlockingSubmitter),
    #[cfg(feature = "io-uring")]
    Uring(UringSubmitter),
    #[cfg(feature = "simulation")]
    Simulated(SimulatedSubmitter),
}

impl IoBackend for AnyBackend {
    type Submitter = AnySubmitter;

    fn submitter(&self, eventfd: Option<RawFd>) -> AnySubmitter {
        match self {
            AnyBackend::Aio(aio) => AnySubmitter::Aio(aio.submitter(eventfd)),
            AnyBackend::Blocking(blocking) => AnySubmitter::Blocking(blocking.submitter(eventfd)),
            #[cfg(feature = "io-uring")]
            AnyBackend::Uring(uring) => AnySubmitter::Uring(uring.submitter(eventfd)),
            #[cfg(feature = "simulation")]
            AnyBackend::Simulated(disk) => AnySubmitter::Simulated(disk.submitter(eventfd)),
        }
    }

    #[cfg(feature = "simulation")]
    fn drop_waits(&self) -> bool {
        !matches!(self, AnyBackend::Simulated(_))
    }

    #[inline(always)]
    fn reap(&mut self, completions: &mut Completions) -> io::Result<()> {
        match self {
            AnyBackend::Aio(aio) => aio.reap(completions),
            AnyBackend::Blocking(blocking) => blocking.reap(completions),
            #[cfg(feature = "io-uring")]
            AnyBackend::Uring(uring) => uring.reap(completions),
            #[cfg(feature = "simulation")]
            AnyBackend::Simulated(disk) => disk.reap(completions),
        }
    }

    #[inline(always)]
    fn after_reap(&mut self) -> AfterReap {
        match self {
            #[cfg(feature = "io-uring")]
            AnyBackend::Uring(uring) => uring.after_reap(),
            _ => AfterReap::default(),
        }
    }

    fn capabilities(&self) -> Capabilities {
        match self {
            AnyBackend::Aio(aio) => aio.capabilities(),
            AnyBackend::Blocking(blocking) => blocking.capabilities(),
            #[cfg(feature = "io-uring")]
            AnyBackend::Uring(uring) => uring.capabilities(),
            #[cfg(feature = "simulation")]
            AnyBackend::Simulated(disk) => disk.capabilities(),
        }
    }
}

impl Submitter for AnySubmitter {
    #[inline(always)]
    unsafe fn submit(&self, entries: &[Sqe], notify: Notify) -> Result<usize, SubmitError> {
        match self {
            // SAFETY: the caller's promise, passed on.
            AnySubmitter::Aio(aio) => unsafe { aio.submit(entries, notify) },
            // SAFETY: the caller's promise, passed on.
            AnySubmitter::Blocking(blocking) => unsafe { blocking.submit(entries, notify) },
            #[cfg(feature = "io-uring")]
            // SAFETY: the caller's promise, passed on.
            AnySubmitter::Uring(uring) => unsafe { uring.submit(entries, notify) },
            #[cfg(feature = "simulation")]
            // SAFETY: the caller's promise, passed on.
            AnySubmitter::Simulated(disk) => unsafe { disk.submit(entries, notify) },
        }
    }

    fn cancel(&self, user_data: u64) -> bool {
        match self {
            AnySubmitter::Aio(aio) => aio.cancel(user_data),
            AnySubmitter::Blocking(blocking) => blocking.cancel(user_data),
            #[cfg(feature = "io-uring")]
            AnySubmitter::Uring(uring) => uring.cancel(user_data),
            #[cfg(feature = "simulation")]
            AnySubmitter::Simulated(disk) => disk.cancel(user_data),
        }
    }
}
