//! [`PromptSignals`]: ends the program by a signal that comes while it waits for a line.

use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;

/// Ends the program by SIGTERM or SIGHUP while it waits for a line, which blocks the thread that would see
/// [`Interrupts`](crate::interrupts::Interrupts).
#[derive(Debug)]
pub(crate) struct PromptSignals {
    at_prompt: Arc<AtomicBool>,
}

impl PromptSignals {
    /// Starts to wait for signals.
    ///
    /// # Errors
    ///
    /// The handlers can't be installed.
    pub(crate) fn start(runtime: &Runtime) -> io::Result<PromptSignals> {
        let at_prompt = Arc::new(AtomicBool::new(false));
        // Attributes of the terminal, which the line editor changes.
        let attributes = tcgetattr(io::stdin()).ok();
        let _context = runtime.enter();
        for kind in [SignalKind::terminate(), SignalKind::hangup()] {
            let mut signals = signal(kind)?;
            let (at_prompt, attributes) = (at_prompt.clone(), attributes.clone());
            runtime.spawn(async move {
                while signals.recv().await.is_some() {
                    if at_prompt.load(Ordering::SeqCst) {
                        if let Some(attributes) = &attributes {
                            // It may have been closed.
                            let _ = tcsetattr(io::stdin(), OptionalActions::Now, attributes);
                        }
                        process::exit(Failure::exit_code_of(kind.as_raw_value()).into());
                    }
                }
            });
        }
        Ok(PromptSignals { at_prompt })
    }

    /// Runs `wait`, which waits for a line.
    pub(crate) fn during<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.at_prompt.store(true, Ordering::SeqCst);
        let result = wait();
        self.at_prompt.store(false, Ordering::SeqCst);
        result
    }
}
