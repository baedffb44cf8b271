//! [`Interrupts`]: signals that cancel statements.

use std::io;

use futures_util::FutureExt;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// SIGINT, SIGTERM and SIGHUP, caught as long as the program runs, so that a statement that they cancel
/// leaves no unfinished files.
#[derive(Debug)]
pub(crate) struct Interrupts {
    signals: [(i32, Signal); 3],
}

impl Interrupts {
    /// Catches the signals. Must be called in the context of a runtime.
    ///
    /// # Errors
    ///
    /// The handlers can't be installed.
    pub(crate) fn new() -> io::Result<Interrupts> {
        let caught = |kind: SignalKind| Ok::<_, io::Error>((kind.as_raw_value(), signal(kind)?));
        let interrupt = caught(SignalKind::interrupt())?;
        let terminate = caught(SignalKind::terminate())?;
        let hangup = caught(SignalKind::hangup())?;
        Ok(Interrupts {
            signals: [interrupt, terminate, hangup],
        })
    }

    /// Waits for a signal, and returns its number.
    ///
    /// # Cancel safety
    ///
    /// No signal is lost.
    async fn next(&mut self) -> i32 {
        let [(a, first), (b, second), (c, third)] = &mut self.signals;
        tokio::select! {
            _ = first.recv() => *a,
            _ = second.recv() => *b,
            _ = third.recv() => *c,
        }
    }

    /// Forgets the signals that have come before now.
    pub(crate) fn forget(&mut self) {
        while self.next().now_or_never().is_some() {}
    }

    /// Runs `work` until it is done or a signal comes.
    ///
    /// # Errors
    ///
    /// Those of the work, and [`Failure::Signal`]: the work was dropped.
    pub(crate) async fn or<T>(
        &mut self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            signal = self.next() => Err(Failure::Signal(signal)),
            result = work => result,
        }
    }
}
