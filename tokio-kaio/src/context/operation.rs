//! [`Operation`]: the future of one request.

use std::future::Future;
use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::task::coop;

use super::descriptor::Descriptor;
use super::shards::Shards;
use super::shared::Shared;
use super::state::Admitted;
use crate::error::{Transfer, explain};
use crate::request::{Flavour, Lease, Memory, Outcome, Payload, Ticket};
use crate::{AioCommandError, RawCommand};

/// Resolves to the bytes that were moved. Takes part in tokio's cooperative budget.
///
/// One future for the whole way, not futures in one another: an operation is made, moved and
/// polled for every block that is read.
pub(crate) struct Operation<'a, F: Flavour> {
    /// Where the request goes, or is.
    shard: &'a Shared<F>,
    /// Where it may go instead if that is full.
    others: Option<&'a Shards<F>>,
    descriptor: Descriptor<'a>,
    stage: Stage<'a, F>,
}

enum Stage<'a, F: Flavour> {
    /// The context has not seen it yet.
    New(RawCommand<'a>),
    /// The context's table has the request.
    Sent {
        ticket: Ticket<F>,
        lease: Lease<'a>,
        transfer: Option<Transfer>,
    },
    Ended,
}

impl<'a, F: Flavour> Operation<'a, F> {
    /// For `shard`, or for one of `others` if that is full.
    pub(super) fn new(
        shard: &'a Shared<F>,
        others: Option<&'a Shards<F>>,
        descriptor: Descriptor<'a>,
        command: RawCommand<'a>,
    ) -> Operation<'a, F> {
        Operation {
            shard,
            others,
            descriptor,
            stage: Stage::New(command),
        }
    }

    /// The first look: the request goes to the context, and to the kernel if it does not wait.
    fn start(
        &mut self,
        command: RawCommand<'a>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<u64, AioCommandError>> {
        command.check();
        let transfer = command.transfer();
        let (payload, lease) = match command.payload() {
            Ok(parts) => parts,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let waker = cx.waker().clone();
        let looked = match self.admit(payload, waker) {
            Admitted::Launched(launched) => self.shard.send(launched, &self.descriptor),
            Admitted::Queued(ticket) => Err(ticket),
            Admitted::Full(..) => unreachable!("it was told to wait"),
            Admitted::Refused(error, memory, _waker) => {
                lease.settle(memory);
                return Poll::Ready(Err(error));
            }
            Admitted::WantsFile(payload, waker) => match self.hold(payload, waker) {
                Ok(looked) => looked,
                Err((error, memory)) => {
                    lease.settle(memory);
                    return Poll::Ready(Err(error));
                }
            },
        };
        self.take(looked, lease, transfer)
    }

    #[inline(always)] // what it gives is large to move
    fn admit(&mut self, payload: Payload, waker: Waker) -> Admitted<F> {
        match self.others {
            None => self.shard.admit(payload, &self.descriptor, waker, true),
            Some(others) => self.admit_somewhere(payload, waker, others),
        }
    }

    /// Where its shard is full, it goes to one that is not, and else waits at its own.
    #[inline(never)]
    fn admit_somewhere(
        &mut self,
        payload: Payload,
        waker: Waker,
        others: &'a Shards<F>,
    ) -> Admitted<F> {
        let mut parts = match self.shard.admit(payload, &self.descriptor, waker, false) {
            Admitted::Full(payload, waker) => (payload, waker),
            admitted => return admitted,
        };
        for shard in others.all() {
            match shard.admit(parts.0, &self.descriptor, parts.1, false) {
                Admitted::Full(payload, waker) => parts = (payload, waker),
                admitted => {
                    self.shard = shard;
                    return admitted;
                }
            }
        }
        self.shard.admit(parts.0, &self.descriptor, parts.1, true)
    }

    /// The request has to wait for a slot, on a descriptor that may be closed meanwhile.
    #[cold]
    fn hold(&mut self, payload: Payload, waker: Waker) -> Result<Looked<F>, Failed> {
        let file = match self.descriptor.hold() {
            Ok(file) => file,
            Err(error) => return Err((AioCommandError::IoSubmit(error), payload.into_memory())),
        };
        self.descriptor = Descriptor::Held(file);
        match self.shard.admit(payload, &self.descriptor, waker, true) {
            Admitted::Launched(launched) => Ok(self.shard.send(launched, &self.descriptor)),
            Admitted::Queued(ticket) => Ok(Err(ticket)),
            Admitted::Refused(error, memory, _waker) => Err((error, memory)),
            Admitted::WantsFile(..) => unreachable!("it has one"),
            Admitted::Full(..) => unreachable!("it was told to wait"),
        }
    }

    /// Takes in what a look brought.
    #[inline(always)]
    fn take(
        &mut self,
        looked: Looked<F>,
        lease: Lease<'a>,
        transfer: Option<Transfer>,
    ) -> Poll<Result<u64, AioCommandError>> {
        match looked {
            Ok((outcome, memory)) => {
                lease.settle(memory);
                Poll::Ready(self.result(outcome, transfer))
            }
            Err(ticket) => {
                self.stage = Stage::Sent {
                    ticket,
                    lease,
                    transfer,
                };
                Poll::Pending
            }
        }
    }

    #[inline]
    fn result(&self, outcome: Outcome, transfer: Option<Transfer>) -> Result<u64, AioCommandError> {
        match outcome {
            Outcome::Completed(res @ 0..) => {
                self.has_moved(res as u64, transfer);
                Ok(res as u64)
            }
            Outcome::Completed(res) => {
                let errno = i32::try_from(res.unsigned_abs()).unwrap_or(libc::EIO);
                let error = io::Error::from_raw_os_error(errno);
                Err(AioCommandError::BadResult(match transfer {
                    Some(transfer) => explain(error, self.descriptor.fd(), transfer),
                    None => error,
                }))
            }
            Outcome::Refused(errno) => {
                let error = io::Error::from_raw_os_error(errno);
                Err(AioCommandError::IoSubmit(error))
            }
            Outcome::Stopped => Err(AioCommandError::AioStopped),
            Outcome::Unknown(errno) => {
                let error = io::Error::from_raw_os_error(errno);
                Err(AioCommandError::BadResult(error))
            }
        }
    }
}

impl<F: Flavour> Operation<'_, F> {
    /// The file has data there: what is written to them later is an overwrite.
    #[inline]
    fn has_moved(&self, bytes: u64, transfer: Option<Transfer>) {
        let end = transfer.and_then(|transfer| transfer.offset?.checked_add(bytes));
        if let (Some(end), Descriptor::File(file)) = (end, &self.descriptor) {
            file.has_data_to(end);
        }
    }
}

/// What a look at a request brought: how it ended, or the ticket for the next look.
type Looked<F> = Result<(Outcome, Memory), Ticket<F>>;

/// A request that did not get into the table.
type Failed = (AioCommandError, Memory);

impl<F: Flavour> Future for Operation<'_, F> {
    type Output = Result<u64, AioCommandError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let budget = ready!(coop::poll_proceed(cx));
        let this = self.get_mut();
        let polled = match mem::replace(&mut this.stage, Stage::Ended) {
            Stage::New(command) => this.start(command, cx),
            Stage::Sent {
                ticket,
                lease,
                transfer,
            } => {
                let looked = this.shard.poll(ticket, cx.waker());
                this.take(looked, lease, transfer)
            }
            Stage::Ended => panic!("an operation was polled after it had completed"),
        };
        if polled.is_ready() {
            budget.made_progress();
        }
        polled
    }
}

impl<F: Flavour> Drop for Operation<'_, F> {
    #[inline]
    fn drop(&mut self) {
        if let Stage::Sent { ticket, lease, .. } = mem::replace(&mut self.stage, Stage::Ended) {
            lease.settle(self.shard.withdraw(ticket));
        }
    }
}
