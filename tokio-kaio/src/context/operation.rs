//! [`Operation`]: the future of one request.

use std::future::Future;
use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::task::coop;

use super::descriptor::Descriptor;
use super::shared::{Admitted, Shared};
use crate::AioCommandError;
use crate::request::{Flavour, Lease, Memory, Outcome, Payload, Ticket};

/// Resolves to the bytes that were moved. Takes part in tokio's cooperative budget.
pub(crate) struct Operation<'a, F: Flavour> {
    shared: &'a Shared<F>,
    stage: Stage<'a, F>,
}

enum Stage<'a, F: Flavour> {
    /// The context has not seen it yet.
    New {
        descriptor: Descriptor<'a>,
        payload: Payload,
        lease: Lease<'a>,
    },
    /// The context's table has the request.
    Sent {
        ticket: Ticket<F>,
        lease: Lease<'a>,
    },
    Ended,
}

impl<'a, F: Flavour> Operation<'a, F> {
    pub(crate) fn new(
        shared: &'a Shared<F>,
        descriptor: Descriptor<'a>,
        payload: Payload,
        lease: Lease<'a>,
    ) -> Operation<'a, F> {
        Operation {
            shared,
            stage: Stage::New {
                descriptor,
                payload,
                lease,
            },
        }
    }
}

/// What a look at a request brought: how it ended, or the ticket for the next look.
type Looked<F> = Result<(Result<u64, AioCommandError>, Memory), Ticket<F>>;

impl<F: Flavour> Future for Operation<'_, F> {
    type Output = Result<u64, AioCommandError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let budget = ready!(coop::poll_proceed(cx));
        let this = self.get_mut();
        let (looked, lease) = match mem::replace(&mut this.stage, Stage::Ended) {
            Stage::New {
                descriptor,
                payload,
                lease,
            } => (start(this.shared, descriptor, payload, cx), lease),
            Stage::Sent { ticket, lease } => {
                (this.shared.poll(ticket, cx.waker()).map(translate), lease)
            }
            Stage::Ended => panic!("an operation was polled after it had completed"),
        };
        match looked {
            Ok((result, memory)) => {
                lease.settle(memory);
                budget.made_progress();
                Poll::Ready(result)
            }
            Err(ticket) => {
                this.stage = Stage::Sent { ticket, lease };
                Poll::Pending
            }
        }
    }
}

impl<F: Flavour> Drop for Operation<'_, F> {
    fn drop(&mut self) {
        match mem::replace(&mut self.stage, Stage::Ended) {
            Stage::New { payload, lease, .. } => lease.settle(payload.into_memory()),
            Stage::Sent { ticket, lease } => lease.settle(self.shared.withdraw(ticket)),
            Stage::Ended => {}
        }
    }
}

/// The first look: the request goes to the context, and to the kernel if it does not wait.
fn start<F: Flavour>(
    shared: &Shared<F>,
    mut descriptor: Descriptor<'_>,
    mut payload: Payload,
    cx: &mut Context<'_>,
) -> Looked<F> {
    let mut waker = cx.waker().clone();
    loop {
        match shared.admit(payload, &descriptor, waker) {
            Admitted::Launched(launched) => {
                return shared.send(launched, &descriptor).map(translate);
            }
            Admitted::Queued(ticket) => return Err(ticket),
            Admitted::Refused(error, memory, _waker) => return Ok((Err(error), memory)),
            Admitted::WantsFile(back, unused) => match descriptor.hold() {
                Ok(file) => {
                    descriptor = Descriptor::Held(file);
                    (payload, waker) = (back.on(descriptor.fd()), unused);
                }
                Err(error) => {
                    return Ok((Err(AioCommandError::IoSubmit(error)), back.into_memory()));
                }
            },
        }
    }
}

fn translate((outcome, memory): (Outcome, Memory)) -> (Result<u64, AioCommandError>, Memory) {
    let result = match outcome {
        Outcome::Completed(res) => u64::try_from(res).map_err(|_| {
            let errno = i32::try_from(res.unsigned_abs()).unwrap_or(libc::EIO);
            AioCommandError::BadResult(io::Error::from_raw_os_error(errno))
        }),
        Outcome::Refused(errno) => Err(AioCommandError::IoSubmit(io::Error::from_raw_os_error(
            errno,
        ))),
        Outcome::Stopped => Err(AioCommandError::AioStopped),
    };
    (result, memory)
}
