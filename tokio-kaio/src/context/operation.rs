//! [`Operation`]: the future of one request.

use std::future::Future;
use std::io;
use std::iter;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::task::coop;

use super::admission::{Admitted, Arrival};
use super::descriptor::Descriptor;
use super::route::Route;
use super::shards::Shards;
use super::shared::Shared;
use crate::error::{Transfer, explain};
use crate::request::{Flavour, Lease, Memory, Outcome, Ticket};
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
        let mut arrival = Arrival::new(payload, cx.waker().clone());
        let looked = match self.admit(&mut arrival) {
            Admitted::Launched(ticket, route) => self.send(ticket, &route, &mut arrival),
            Admitted::Queued(ticket) => Err(ticket),
            admitted => match self.wait(admitted, &mut arrival) {
                Ok(looked) => looked,
                Err(error) => {
                    lease.settle(arrival.payload.into_memory());
                    return Poll::Ready(Err(error));
                }
            },
        };
        self.take(looked, lease, transfer)
    }

    #[inline(always)]
    fn send(&self, ticket: Ticket<F>, route: &Route, arrival: &mut Arrival) -> Looked<F> {
        self.shard.send(ticket, route, arrival, &self.descriptor)
    }

    #[inline(always)]
    fn admit(&mut self, arrival: &mut Arrival) -> Admitted<F> {
        match self.others {
            None => self.shard.admit(arrival, &self.descriptor, true),
            Some(others) => self.admit_somewhere(arrival, others),
        }
    }

    /// The request was not taken in, at first.
    #[cold]
    fn wait(
        &mut self,
        admitted: Admitted<F>,
        arrival: &mut Arrival,
    ) -> Result<Looked<F>, AioCommandError> {
        match admitted {
            Admitted::Queued(ticket) => Ok(Err(ticket)),
            Admitted::Refused(error) => Err(error),
            // On a descriptor that may be closed meanwhile.
            Admitted::WantsFile => {
                let file = self.descriptor.hold().map_err(AioCommandError::IoSubmit)?;
                self.descriptor = Descriptor::Held(file);
                let admitted = self.shard.admit(arrival, &self.descriptor, true);
                self.wait(admitted, arrival)
            }
            // A slot is free again.
            Admitted::Launched(ticket, route) => Ok(self.send(ticket, &route, arrival)),
            Admitted::Full => unreachable!("it was told to wait"),
        }
    }

    /// Where its shard is full, it goes to one that is not, and else waits at its own.
    #[inline(never)]
    fn admit_somewhere(&mut self, arrival: &mut Arrival, others: &'a Shards<F>) -> Admitted<F> {
        let own = self.shard;
        for shard in iter::once(own).chain(others.all().iter().map(Arc::as_ref)) {
            match shard.admit(arrival, &self.descriptor, false) {
                Admitted::Full => {}
                admitted => {
                    self.shard = shard;
                    return admitted;
                }
            }
        }
        own.admit(arrival, &self.descriptor, true)
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

    /// The future is dropped before the request is done.
    #[inline(never)]
    fn withdraw(&mut self) {
        if let Stage::Sent { ticket, lease, .. } = mem::replace(&mut self.stage, Stage::Ended) {
            lease.settle(self.shard.withdraw(ticket));
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
        if let Stage::Sent { .. } = self.stage {
            self.withdraw();
        }
    }
}
