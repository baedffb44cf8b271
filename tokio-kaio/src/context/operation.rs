//! [`Operation`]: the future of one request.

use std::future::Future;
use std::io;
use std::iter;
use std::mem;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use tokio::task::coop;
use tokio::time::{Instant, Sleep};

use super::admission::{Admitted, Arrival};
use super::course::{After, Course, Extent};
use super::descriptor::Descriptor;
use super::options::Options;
use super::route::Route;
use super::shards::Shards;
use super::shared::Shared;
use super::together::Fate;
use crate::error::{Transfer, explain};
use crate::request::{Flavour, Lease, Memory, Outcome, Payload, Ticket};
use crate::{AioCommandError, RawCommand};

/// Resolves to the bytes that were moved. Takes part in tokio's cooperative budget.
///
/// One future for the whole way, not futures in one another: an operation is made, moved and
/// polled for every block that is read.
pub(crate) struct Operation<'h, 'a, F: Flavour> {
    /// Where the request goes, or is.
    shard: &'h Shared<F>,
    /// Where it may go instead if that is full.
    others: Option<&'h Shards<F>>,
    options: &'h Options,
    descriptor: Descriptor<'h>,
    /// Of the request that is under way.
    course: Course,
    stage: Stage<'a, F>,
}

enum Stage<'a, F: Flavour> {
    /// The context has not seen it yet.
    New(RawCommand<'a>),
    /// The context's table has the request.
    Sent {
        ticket: Ticket<F>,
        lease: Lease<'a>,
        /// Of an operation that has a limit, once it has to wait.
        timer: Timer,
    },
    /// One of several requests is done, and the next one waits for the task's next turn.
    Between {
        memory: Memory,
        lease: Lease<'a>,
        timer: Timer,
    },
    /// Memory is here: of one whose next request the context has not seen yet, or that has ended and
    /// whose caller is to have it ([`Lease::Owned`]).
    Holding {
        memory: Memory,
        lease: Lease<'a>,
        ended: bool,
    },
    Ended,
}

type Timer = Option<Pin<Box<Sleep>>>;

impl<'h, 'a, F: Flavour> Operation<'h, 'a, F> {
    /// For `shard`, or for one of `others` if that is full.
    #[inline(always)]
    pub(super) fn new(
        shard: &'h Shared<F>,
        others: Option<&'h Shards<F>>,
        options: &'h Options,
        descriptor: Descriptor<'h>,
        command: RawCommand<'a>,
    ) -> Operation<'h, 'a, F> {
        Operation {
            shard,
            others,
            options,
            descriptor,
            course: Course::NEW,
            stage: Stage::New(command),
        }
    }

    /// The same, for what is no command.
    pub(super) fn prepared(
        shard: &'h Shared<F>,
        others: Option<&'h Shards<F>>,
        options: &'h Options,
        descriptor: Descriptor<'h>,
        (payload, lease, extent): (Payload, Lease<'a>, Extent),
    ) -> Operation<'h, 'a, F> {
        Operation {
            shard,
            others,
            options,
            descriptor,
            course: Course::of(payload.order(), extent),
            stage: Stage::Holding {
                memory: payload.into_memory(),
                lease,
                ended: false,
            },
        }
    }

    /// The memory that the caller was to have, once the operation has ended. `None`: the kernel has
    /// kept it.
    pub(crate) fn take_returned(&mut self) -> Option<Memory> {
        match mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Holding { memory, .. } => Some(memory),
            _ => None,
        }
    }

    pub(super) fn shard(&self) -> &'h Shared<F> {
        self.shard
    }

    pub(super) fn descriptor(&self) -> &Descriptor<'h> {
        &self.descriptor
    }

    /// The file to whose end it writes, if it does that.
    pub(super) fn appends_to(&self) -> Option<RawFd> {
        self.course.order.appends().then(|| self.descriptor.fd())
    }

    /// The request that is out, if one is.
    pub(super) fn ticket(&self) -> Option<&Ticket<F>> {
        match &self.stage {
            Stage::Sent { ticket, .. } => Some(ticket),
            _ => None,
        }
    }

    /// Its request, for which the caller does what the first poll would have done, and tells with
    /// [`met`](Operation::met) what came of it.
    pub(super) fn request(&mut self, waker: Waker) -> Result<Arrival, AioCommandError> {
        let Stage::New(command) = mem::replace(&mut self.stage, Stage::Ended) else {
            unreachable!("it has not been polled");
        };
        let (mut payload, lease) = command.payload()?;
        payload.set_priority(self.options.priority);
        self.course.begin(&payload);
        self.hold(Memory::None, lease);
        Ok(Arrival::new(payload, waker))
    }

    /// `None`: it is to be polled.
    pub(super) fn met(
        &mut self,
        arrival: Arrival,
        fate: Fate<F>,
        cx: &mut Context<'_>,
    ) -> Option<Poll<Result<u64, AioCommandError>>> {
        let Stage::Holding { lease, .. } = mem::replace(&mut self.stage, Stage::Ended) else {
            unreachable!("its request was given away");
        };
        Some(match fate {
            Fate::Alone => {
                self.hold(arrival.payload.into_memory(), lease);
                return None;
            }
            Fate::Refused(error) => {
                self.end(lease, arrival.payload.into_memory());
                Poll::Ready(Err(error))
            }
            Fate::Queued(ticket) | Fate::Launched(ticket) => {
                self.take(Err(ticket), lease, None, cx)
            }
            Fate::Done(outcome, memory) => self.take(Ok((outcome, memory)), lease, None, cx),
        })
    }

    fn hold(&mut self, memory: Memory, lease: Lease<'a>) {
        self.enter(Stage::Holding {
            memory,
            lease,
            ended: false,
        });
    }

    /// Gives it up: its time is over.
    pub(super) fn time_out(&mut self) -> AioCommandError {
        self.withdraw();
        AioCommandError::TimedOut
    }

    /// What a poll does, whatever is left of the task's budget.
    #[inline(always)]
    pub(super) fn look(&mut self, cx: &mut Context<'_>) -> Poll<Result<u64, AioCommandError>> {
        let polled = match mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Sent {
                ticket,
                lease,
                timer,
            } => match self.shard.collect(ticket) {
                Ok(done) => self.take(Ok(done), lease, timer, cx),
                Err(ticket) => self.wait_on(ticket, lease, timer, cx),
            },
            new @ (Stage::New(_) | Stage::Holding { ended: false, .. })
                if self.options.limit.has_passed() =>
            {
                self.enter(new);
                Poll::Pending
            }
            Stage::New(command) => self.start(command, cx),
            Stage::Holding {
                memory,
                lease,
                ended: false,
            } => {
                let (waker, memory, lease) = self.waker(memory, lease, cx);
                let payload = Payload::new(self.course.order, memory);
                self.go(payload, lease, waker, cx)
            }
            Stage::Between {
                memory,
                lease,
                timer,
            } => self.go_on(Payload::new(self.course.order, memory), lease, timer, cx),
            Stage::Holding { .. } | Stage::Ended => {
                panic!("an operation was polled after it had completed")
            }
        };
        if polled.is_pending() && self.options.is_limited() && self.is_overdue(cx) {
            return Poll::Ready(Err(self.time_out()));
        }
        polled
    }

    /// The request is not known to be done.
    #[inline(never)]
    fn wait_on(
        &mut self,
        ticket: Ticket<F>,
        lease: Lease<'a>,
        timer: Timer,
        cx: &mut Context<'_>,
    ) -> Poll<Result<u64, AioCommandError>> {
        let (looked, lease) = self.shard.look(ticket, lease, cx.waker());
        self.take(looked, lease, timer, cx)
    }

    /// The first look: the request goes to the context, and to the kernel if it does not wait.
    #[inline]
    fn start(
        &mut self,
        command: RawCommand<'a>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<u64, AioCommandError>> {
        command.check();
        let waker = cx.waker().clone(); // it may panic: before the command has given its memory
        let (payload, lease) = match command.payload() {
            Ok(parts) => parts,
            Err(error) => return Poll::Ready(Err(error)),
        };
        self.go(payload, lease, waker, cx)
    }

    /// A waker for the context. Its own code runs in its clone, and may panic: the memory is where it
    /// is found meanwhile.
    #[inline(always)]
    fn waker(
        &mut self,
        memory: Memory,
        lease: Lease<'a>,
        cx: &Context<'_>,
    ) -> (Waker, Memory, Lease<'a>) {
        self.hold(memory, lease);
        let waker = cx.waker().clone();
        match mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Holding { memory, lease, .. } => (waker, memory, lease),
            _ => unreachable!("it was just put there"),
        }
    }

    #[inline(always)]
    fn go(
        &mut self,
        mut payload: Payload,
        lease: Lease<'a>,
        waker: Waker,
        cx: &mut Context<'_>,
    ) -> Poll<Result<u64, AioCommandError>> {
        payload.set_priority(self.options.priority);
        self.course.begin(&payload);
        let mut arrival = Arrival::new(payload, waker);
        let looked = match self.admit(&mut arrival) {
            Admitted::Launched(ticket, route) => self.send(ticket, &route, &mut arrival),
            Admitted::Queued(ticket) => Err(ticket),
            admitted => match self.wait(admitted, &mut arrival) {
                Ok(looked) => looked,
                Err(error) => {
                    self.end(lease, arrival.payload.into_memory());
                    return Poll::Ready(Err(error));
                }
            },
        };
        arrival.taken();
        self.take(looked, lease, None, cx)
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
    fn admit_somewhere(&mut self, arrival: &mut Arrival, others: &'h Shards<F>) -> Admitted<F> {
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
        timer: Timer,
        cx: &mut Context<'_>,
    ) -> Poll<Result<u64, AioCommandError>> {
        match looked {
            Ok((outcome, memory)) => {
                if self.course.extent != Extent::Once {
                    return self.took_one(outcome, memory, lease, timer, cx);
                }
                if !matches!(outcome, Outcome::Completed(0..)) {
                    return Poll::Ready(self.fail(outcome, lease, memory));
                }
                self.end(lease, memory);
                Poll::Ready(self.result(outcome, 0))
            }
            Err(ticket) => {
                self.enter(Stage::Sent {
                    ticket,
                    lease,
                    timer,
                });
                Poll::Pending
            }
        }
    }

    /// The request has failed, and its memory, which the error may tell of, goes back.
    #[cold]
    #[inline(never)]
    fn fail(
        &mut self,
        outcome: Outcome,
        lease: Lease<'a>,
        memory: Memory,
    ) -> Result<u64, AioCommandError> {
        let result = self.result(outcome, memory.misalignment());
        self.end(lease, memory);
        result
    }

    /// A request is done, of an operation that may take several.
    #[inline(never)]
    fn took_one(
        &mut self,
        outcome: Outcome,
        memory: Memory,
        lease: Lease<'a>,
        timer: Timer,
        cx: &mut Context<'_>,
    ) -> Poll<Result<u64, AioCommandError>> {
        match self.after(outcome, memory) {
            After::Rest(rest) => {
                let timer = timer.or_else(|| self.options.limit.timer());
                self.go_on(rest, lease, timer, cx)
            }
            After::End(result, memory) => {
                self.end(lease, memory);
                Poll::Ready(result)
            }
        }
    }

    fn after(&mut self, outcome: Outcome, memory: Memory) -> After {
        let misalignment = match outcome {
            Outcome::Completed(0..) => 0, // nobody asks
            _ => memory.misalignment(),
        };
        let result = self.result(outcome, misalignment);
        self.course.after(result, memory)
    }

    /// Makes a request for the rest, and the next one if that is done at once. Each is a step of the
    /// task's budget, and made in time only: there may be thousands.
    fn go_on(
        &mut self,
        mut rest: Payload,
        mut lease: Lease<'a>,
        mut timer: Timer,
        cx: &mut Context<'_>,
    ) -> Poll<Result<u64, AioCommandError>> {
        loop {
            let end = timer.as_ref().map(|timer| timer.deadline());
            if end.is_some_and(|end| end <= Instant::now()) {
                self.end(lease, rest.into_memory());
                return Poll::Ready(self.course.failed(AioCommandError::TimedOut));
            }
            // What runs until it has a waker may be code of that, and panic: the memory is found there.
            self.enter(Stage::Between {
                memory: rest.into_memory(),
                lease,
                timer,
            });
            ready!(coop::poll_proceed(cx)).made_progress();
            let waker = cx.waker().clone();
            let memory;
            (memory, lease, timer) = match mem::replace(&mut self.stage, Stage::Ended) {
                Stage::Between {
                    memory,
                    lease,
                    timer,
                } => (memory, lease, timer),
                _ => unreachable!("it was just put there"),
            };
            let mut arrival = Arrival::new(Payload::new(self.course.order, memory), waker);
            let arrived = match self.admit(&mut arrival) {
                Admitted::Launched(ticket, route) => Ok(self.send(ticket, &route, &mut arrival)),
                admitted => self.wait(admitted, &mut arrival),
            };
            let (outcome, memory) = match arrived {
                Ok(Ok(done)) => done,
                Ok(Err(ticket)) => {
                    self.enter(Stage::Sent {
                        ticket,
                        lease,
                        timer,
                    });
                    return Poll::Pending;
                }
                Err(error) => {
                    self.end(lease, arrival.payload.into_memory());
                    return Poll::Ready(self.course.failed(error));
                }
            };
            match self.after(outcome, memory) {
                After::Rest(next) => rest = next,
                After::End(result, memory) => {
                    self.end(lease, memory);
                    return Poll::Ready(result);
                }
            }
        }
    }

    /// Leaves [`Stage::Ended`], which owns nothing to be dropped.
    #[inline(always)]
    fn enter(&mut self, stage: Stage<'a, F>) {
        let ended = mem::replace(&mut self.stage, stage);
        debug_assert!(matches!(ended, Stage::Ended));
        mem::forget(ended);
    }

    /// The memory goes where it belongs.
    #[inline(always)]
    fn end(&mut self, lease: Lease<'a>, memory: Memory) {
        if let Some(memory) = lease.settle(memory) {
            self.enter(Stage::Holding {
                memory,
                lease: Lease::Owned,
                ended: true,
            });
        }
    }

    /// Whether its time is up. If not, `cx` is woken when it is.
    #[cold]
    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        let (Stage::Sent { timer, .. } | Stage::Between { timer, .. }) = &mut self.stage else {
            return true; // it has not been submitted because of that
        };
        if timer.is_none() {
            *timer = self.options.limit.timer();
        }
        let timer = timer.as_mut();
        timer.is_some_and(|timer| timer.as_mut().poll(cx).is_ready())
    }

    /// Nobody waits for the request any longer.
    #[inline(never)]
    fn withdraw(&mut self) {
        match mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Sent { ticket, lease, .. } => {
                let memory = self.shard.withdraw(ticket);
                self.end(lease, memory);
            }
            Stage::New(_) => {}
            Stage::Between { memory, lease, .. }
            | Stage::Holding {
                memory,
                lease,
                ended: false,
            } => self.end(lease, memory),
            ended => self.enter(ended),
        }
    }

    /// `misalignment`: of the memory that it had.
    #[inline]
    fn result(&self, outcome: Outcome, misalignment: u64) -> Result<u64, AioCommandError> {
        match outcome {
            Outcome::Completed(res @ 0..) => {
                self.has_moved(res as u64);
                Ok(res as u64)
            }
            Outcome::Completed(res) => {
                let errno = i32::try_from(res.unsigned_abs()).unwrap_or(libc::EIO);
                let error = io::Error::from_raw_os_error(errno);
                Err(AioCommandError::BadResult(
                    match Transfer::of(&self.course.order) {
                        Some(transfer) => {
                            explain(error, self.descriptor.fd(), transfer, misalignment)
                        }
                        None => error,
                    },
                ))
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

    /// The file has data there: what is written to them later is an overwrite.
    #[inline]
    fn has_moved(&self, bytes: u64) {
        if let (Descriptor::File(file), Some(end)) = (&self.descriptor, self.course.end(bytes)) {
            file.has_data_to(end);
        }
    }
}

impl<'h, 'a, F: Flavour> AsMut<Operation<'h, 'a, F>> for Operation<'h, 'a, F> {
    fn as_mut(&mut self) -> &mut Self {
        self
    }
}

/// What a look at a request brought: how it ended, or the ticket for the next look.
type Looked<F> = Result<(Outcome, Memory), Ticket<F>>;

impl<F: Flavour> Future for Operation<'_, '_, F> {
    type Output = Result<u64, AioCommandError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let budget = ready!(coop::poll_proceed(cx));
        let polled = self.get_mut().look(cx);
        if polled.is_ready() {
            budget.made_progress();
        }
        polled
    }
}

impl<F: Flavour> Drop for Operation<'_, '_, F> {
    #[inline]
    fn drop(&mut self) {
        if !matches!(self.stage, Stage::Ended) {
            self.withdraw();
        }
    }
}
