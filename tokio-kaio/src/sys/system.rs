//! [`System`]: what contexts run on, chosen when they are made.
#![allow(unsafe_code)]

use std::io;

use super::abi::Iocb;
use super::{Aio, Events, FixedIocb, Kernel, Threads};

/// One kernel or the other.
#[derive(Debug)]
pub(crate) enum System {
    Aio(Aio),
    Threads(Threads),
}

/// Submits to a [`System`].
#[derive(Clone, Debug)]
pub(crate) enum SystemPort {
    Aio(<Aio as Kernel>::Port),
    Threads(<Threads as Kernel>::Port),
}

impl Kernel for System {
    type Port = SystemPort;

    #[inline]
    fn port(&self) -> SystemPort {
        match self {
            System::Aio(aio) => SystemPort::Aio(aio.port()),
            System::Threads(threads) => SystemPort::Threads(threads.port()),
        }
    }

    #[inline]
    unsafe fn submit(port: &SystemPort, batch: &mut [Iocb]) -> io::Result<usize> {
        match port {
            // SAFETY: the caller's promise, passed on.
            SystemPort::Aio(port) => unsafe { Aio::submit(port, batch) },
            // SAFETY: the caller's promise, passed on.
            SystemPort::Threads(port) => unsafe { Threads::submit(port, batch) },
        }
    }

    #[inline]
    fn reap(&mut self, events: &mut Events) -> io::Result<()> {
        match self {
            System::Aio(aio) => aio.reap(events),
            System::Threads(threads) => threads.reap(events),
        }
    }

    fn cancel(port: &SystemPort, poll: &FixedIocb) -> bool {
        match port {
            SystemPort::Aio(port) => Aio::cancel(port, poll),
            SystemPort::Threads(port) => Threads::cancel(port, poll),
        }
    }

    fn has_ring(&self) -> bool {
        match self {
            System::Aio(aio) => aio.has_ring(),
            System::Threads(threads) => threads.has_ring(),
        }
    }
}
