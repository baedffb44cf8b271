//! [`OpFuture`]: the future of one operation.

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

use super::op_options::OpOptions;
use super::shards::Shards;
use super::transfer_progress::{NextStep, TransferMode, TransferProgress};
use crate::driver::{
    Admission, ContextTypes, Driver, Entered, ForkedChild, NewRequest, SlotKey, SubmitPermit,
};
use crate::error::{Transfer, explain};
use crate::op::{BufferReturn, FileRef, IoBuffer, IoRequest, Outcome};
use crate::{AioCommandError, RawCommand};

/// Resolves to the number of bytes moved. Takes part in tokio's cooperative budget.
///
/// One future for the whole operation, not futures in futures: it is made, moved and polled for every
/// block that is read.
///
/// `state` is changed before code of callers runs (wakers, the drop of buffers): a panic there finds the
/// operation in one of its states, and dropping it then is like dropping it at any other time.
pub(crate) struct OpFuture<'h, 'a, T: ContextTypes> {
    /// Where the request goes, or is.
    driver: &'h Driver<T>,
    /// Where it may go instead, if that is full.
    others: Option<&'h Shards<T>>,
    options: &'h OpOptions,
    file: FileRef<'h>,
    progress: TransferProgress,
    state: OpState<'a>,
}

enum OpState<'a> {
    /// Not polled yet.
    New(RawCommand<'a>),
    /// The future has the buffer, for the next request.
    HasBuffer {
        buffer: IoBuffer,
        buffer_return: BufferReturn<'a>,
        timer: Timer,
        /// Earlier requests were made in this operation.
        resubmit: bool,
    },
    /// The driver has the request.
    Submitted {
        key: SlotKey,
        buffer_return: BufferReturn<'a>,
        /// Of an operation with a time limit, once it has to wait.
        timer: Timer,
    },
    /// Done. The buffer, if the caller is to have it.
    Complete(Option<IoBuffer>),
}

type Timer = Option<Pin<Box<Sleep>>>;
type Completed = (Outcome, IoBuffer);
type OpPoll = Poll<Result<u64, AioCommandError>>;

impl<'h, 'a, T: ContextTypes> OpFuture<'h, 'a, T> {
    /// For `driver`, or for one of `others` if that is full.
    #[inline(always)]
    pub(super) fn new(
        driver: &'h Driver<T>,
        others: Option<&'h Shards<T>>,
        options: &'h OpOptions,
        file: FileRef<'h>,
        command: RawCommand<'a>,
    ) -> OpFuture<'h, 'a, T> {
        OpFuture {
            driver,
            others,
            options,
            file,
            progress: TransferProgress::NEW,
            state: OpState::New(command),
        }
    }

    /// The same, for what is no command.
    pub(super) fn with_request(
        driver: &'h Driver<T>,
        others: Option<&'h Shards<T>>,
        options: &'h OpOptions,
        file: FileRef<'h>,
        (request, buffer_return, mode): (IoRequest, BufferReturn<'a>, TransferMode),
    ) -> OpFuture<'h, 'a, T> {
        OpFuture {
            driver,
            others,
            options,
            file,
            progress: TransferProgress::new(request.op, mode),
            state: OpState::HasBuffer {
                buffer: request.buffer,
                buffer_return,
                timer: None,
                resubmit: false,
            },
        }
    }

    /// The buffer that the caller was to have, once the operation is done. `None`: the kernel keeps it.
    pub(crate) fn take_buffer(&mut self) -> Option<IoBuffer> {
        match &mut self.state {
            OpState::Complete(buffer) => buffer.take(),
            _ => None,
        }
    }

    pub(super) fn driver(&self) -> &'h Driver<T> {
        self.driver
    }

    /// The file that it appends to, if it does.
    pub(super) fn appends_to(&self) -> Option<RawFd> {
        self.progress.op.appends().then(|| self.file.fd())
    }

    /// The request that the driver has.
    pub(super) fn key(&self) -> Option<SlotKey> {
        match self.state {
            OpState::Submitted { key, .. } => Some(key),
            _ => None,
        }
    }

    /// Gives it up, because its time is over.
    pub(super) fn time_out(&mut self) -> AioCommandError {
        self.abandon();
        AioCommandError::TimedOut
    }

    /// Polls without regard to the task's budget.
    #[inline(always)]
    pub(super) fn poll_op(&mut self, cx: &mut Context<'_>) -> OpPoll {
        let Ok(driver) = self.driver.enter() else {
            return self.fail_in_child();
        };
        let polled = match &self.state {
            OpState::Submitted { key, .. } => {
                let key = *key;
                let completed = match driver.take_completed(key) {
                    Some(completed) => Some(completed),
                    None => match driver.poll(key, cx.waker()) {
                        Poll::Ready(completed) => Some(completed),
                        Poll::Pending => None,
                    },
                };
                match completed {
                    Some(completed) => self.on_completed(completed, cx),
                    None => Poll::Pending,
                }
            }
            OpState::New(_)
            | OpState::HasBuffer {
                resubmit: false, ..
            } if self.options.time_limit.has_passed() => Poll::Pending,
            OpState::New(_)
            | OpState::HasBuffer {
                resubmit: false, ..
            } => {
                let waker = cx.waker().clone();
                match self.take_request() {
                    Ok(()) => self.submit_first(&driver, waker, cx),
                    Err(error) => Poll::Ready(Err(error)),
                }
            }
            OpState::HasBuffer { resubmit: true, .. } => self.resubmit(cx),
            OpState::Complete(_) => panic!("an operation was polled after it had completed"),
        };
        if polled.is_pending() && self.options.has_time_limit() && self.is_overdue(cx) {
            return Poll::Ready(Err(self.time_out()));
        }
        polled
    }

    /// *New → HasBuffer*: the buffer's memory moves here.
    #[inline(always)]
    pub(super) fn take_request(&mut self) -> Result<(), AioCommandError> {
        if let OpState::New(command) = &self.state {
            command.check();
            let OpState::New(command) = mem::replace(&mut self.state, OpState::Complete(None))
            else {
                return Ok(());
            };
            let (request, buffer_return) = command.into_request()?;
            self.progress.op = request.op;
            self.enter(OpState::HasBuffer {
                buffer: request.buffer,
                buffer_return,
                timer: None,
                resubmit: false,
            });
        }
        if let OpState::HasBuffer { buffer, .. } = &self.state {
            let op = crate::op::IoOp {
                priority: self.options.priority,
                ..self.progress.op
            };
            self.progress.start(op, buffer);
        }
        Ok(())
    }

    /// The request, for the driver. The buffer stays here until a slot takes it.
    #[inline(always)]
    pub(super) fn new_request(&mut self, waker: Waker) -> Option<NewRequest<'_>> {
        let OpState::HasBuffer { buffer, .. } = &mut self.state else {
            return None;
        };
        Some(NewRequest {
            op: &self.progress.op,
            buffer,
            file: self.file.clone(),
            waker: Some(waker),
            sqe: None,
        })
    }

    /// *HasBuffer → Submitted*.
    #[inline(always)]
    pub(super) fn on_admitted(&mut self, key: SlotKey) {
        match mem::replace(&mut self.state, OpState::Complete(None)) {
            OpState::HasBuffer {
                buffer,
                buffer_return,
                timer,
                ..
            } => {
                debug_assert!(matches!(buffer, IoBuffer::None));
                mem::forget(buffer); // the slot has taken it
                self.enter(OpState::Submitted {
                    key,
                    buffer_return,
                    timer,
                });
            }
            other => self.enter(other),
        }
    }

    /// The first request: to the driver, and to the kernel if it need not wait.
    #[inline(always)]
    fn submit_first(
        &mut self,
        driver: &Entered<'h, T>,
        waker: Waker,
        cx: &mut Context<'_>,
    ) -> OpPoll {
        match self.submit(driver, waker) {
            Ok(Some(completed)) => self.on_completed(completed, cx),
            Ok(None) => Poll::Pending,
            Err(error) => {
                self.give_buffer_back();
                Poll::Ready(Err(error))
            }
        }
    }

    /// *HasBuffer → Submitted*. Returns the result if the request has completed.
    #[inline(always)]
    fn submit(
        &mut self,
        driver: &Entered<'h, T>,
        waker: Waker,
    ) -> Result<Option<Completed>, AioCommandError> {
        let OpState::HasBuffer { buffer, .. } = &mut self.state else {
            return Ok(None);
        };
        let mut new = NewRequest {
            op: &self.progress.op,
            buffer,
            file: self.file.clone(),
            waker: Some(waker),
            sqe: None,
        };
        let (admission, permit) = match self.others {
            None => driver.admit(&mut new, true),
            Some(others) => {
                let (admission, permit, taken_by) = admit_to_any(driver, others, &mut new);
                self.driver = taken_by;
                (admission, permit)
            }
        };
        let (admission, permit) = match admission {
            Admission::NeedsFile => {
                let file = new.file.hold().map_err(AioCommandError::IoSubmit)?;
                new.file = FileRef::Duplicate(file);
                driver.admit(&mut new, true)
            }
            admission => (admission, permit),
        };
        let NewRequest { mut waker, sqe, .. } = new;
        match admission {
            Admission::Launched(key) => {
                self.on_admitted(key);
                let completed = match (permit, sqe, self.driver.enter()) {
                    (Some(permit), Some(sqe), Ok(driver)) => {
                        driver.submit_one(key, &permit, &sqe, &mut waker)
                    }
                    _ => None,
                };
                driver.drop_contained(waker);
                Ok(completed)
            }
            Admission::Queued(key) => {
                self.on_admitted(key);
                Ok(None)
            }
            Admission::Refused(error) => Err(error),
            Admission::NeedsFile | Admission::Full => Err(AioCommandError::CapacityExceeded),
        }
    }

    /// A request has completed.
    #[inline(always)]
    fn on_completed(&mut self, (outcome, buffer): Completed, cx: &mut Context<'_>) -> OpPoll {
        if self.progress.mode != TransferMode::Single {
            return self.on_part_completed(outcome, buffer, cx);
        }
        if !matches!(outcome, Outcome::Completed(0..)) {
            let result = self.result(outcome, buffer.address_bits());
            self.finish(buffer);
            return Poll::Ready(result);
        }
        self.finish(buffer);
        Poll::Ready(self.result(outcome, 0))
    }

    /// A request has completed, of an operation that may take several.
    #[inline(never)]
    fn on_part_completed(
        &mut self,
        outcome: Outcome,
        buffer: IoBuffer,
        cx: &mut Context<'_>,
    ) -> OpPoll {
        match self.take_next_step(outcome, buffer) {
            None => self.resubmit(cx),
            Some(result) => Poll::Ready(result),
        }
    }

    /// *Submitted → HasBuffer*, for the rest (`None`), or *→ Complete*.
    fn take_next_step(
        &mut self,
        outcome: Outcome,
        buffer: IoBuffer,
    ) -> Option<Result<u64, AioCommandError>> {
        let address_bits = match outcome {
            Outcome::Completed(0..) => 0, // for errors only
            _ => buffer.address_bits(),
        };
        let result = self.result(outcome, address_bits);
        match self.progress.next_step(result, buffer) {
            NextStep::End(result, buffer) => {
                self.finish(buffer);
                Some(result)
            }
            NextStep::Resubmit(rest) => {
                if let OpState::Submitted {
                    buffer_return,
                    timer,
                    ..
                } = mem::replace(&mut self.state, OpState::Complete(None))
                {
                    let timer = timer.or_else(|| self.options.time_limit.timer());
                    self.enter(OpState::HasBuffer {
                        buffer: rest.buffer,
                        buffer_return,
                        timer,
                        resubmit: true,
                    });
                }
                None
            }
        }
    }

    /// Makes the request for the rest, and the next one if that completes at once. Each takes a step of
    /// the task's budget, and is made in time only: there may be thousands.
    fn resubmit(&mut self, cx: &mut Context<'_>) -> OpPoll {
        loop {
            if let OpState::HasBuffer {
                timer: Some(timer), ..
            } = &self.state
            {
                if timer.deadline() <= Instant::now() {
                    self.give_buffer_back();
                    return Poll::Ready(self.progress.failed(AioCommandError::TimedOut));
                }
            }
            ready!(coop::poll_proceed(cx)).made_progress();
            let waker = cx.waker().clone();
            let Ok(driver) = self.driver.enter() else {
                return self.fail_in_child();
            };
            match self.submit(&driver, waker) {
                Ok(None) => return Poll::Pending,
                Ok(Some((outcome, buffer))) => {
                    if let Some(result) = self.take_next_step(outcome, buffer) {
                        return Poll::Ready(result);
                    }
                }
                Err(error) => {
                    self.give_buffer_back();
                    return Poll::Ready(self.progress.failed(error));
                }
            }
        }
    }

    /// *→ Complete*, with the memory of the last request.
    #[inline(always)]
    fn finish(&mut self, buffer: IoBuffer) {
        match mem::replace(&mut self.state, OpState::Complete(None)) {
            OpState::Submitted { buffer_return, .. } | OpState::HasBuffer { buffer_return, .. } => {
                if let Some(buffer) = buffer_return.give_back(buffer) {
                    self.state = OpState::Complete(Some(buffer));
                }
            }
            other => self.enter(other),
        }
    }

    /// *HasBuffer → Complete*.
    #[cold]
    pub(super) fn give_buffer_back(&mut self) {
        if let OpState::HasBuffer { buffer, .. } = &mut self.state {
            let buffer = buffer.take();
            self.finish(buffer);
        }
    }

    /// Replaces `Complete(None)`, which owns nothing to be dropped.
    #[inline(always)]
    fn enter(&mut self, state: OpState<'a>) {
        mem::forget(mem::replace(&mut self.state, state));
    }

    /// Whether its time is over. If not, `cx` is woken when it is.
    #[cold]
    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        let timer = match &mut self.state {
            OpState::Submitted { timer, .. } => timer,
            OpState::HasBuffer {
                timer,
                resubmit: true,
                ..
            } => timer,
            _ => return true, // it was not submitted because of that
        };
        if timer.is_none() {
            *timer = self.options.time_limit.timer();
        }
        let timer = timer.as_mut();
        timer.is_some_and(|timer| timer.as_mut().poll(cx).is_ready())
    }

    /// Nobody waits for the operation any longer.
    #[inline(never)]
    fn abandon(&mut self) {
        match self.state {
            OpState::Submitted { key, .. } => {
                let buffer = match self.driver.enter() {
                    Ok(driver) => driver.abandon(key),
                    Err(ForkedChild) => IoBuffer::None,
                };
                self.finish(buffer);
            }
            OpState::HasBuffer { .. } => self.give_buffer_back(),
            OpState::New(_) => self.state = OpState::Complete(None),
            OpState::Complete(_) => {}
        }
    }

    /// The buffer of a request that is the parent's stays there.
    #[cold]
    fn fail_in_child(&mut self) -> OpPoll {
        self.abandon();
        Poll::Ready(Err(AioCommandError::forked_child()))
    }

    /// `address_bits`: of the memory that the request had.
    #[inline]
    fn result(&self, outcome: Outcome, address_bits: u64) -> Result<u64, AioCommandError> {
        match outcome {
            Outcome::Completed(result @ 0..) => {
                self.on_moved(result as u64);
                Ok(result as u64)
            }
            Outcome::Completed(result) => {
                let errno = i32::try_from(result.unsigned_abs()).unwrap_or(libc::EIO);
                let error = io::Error::from_raw_os_error(errno);
                Err(AioCommandError::BadResult(
                    match Transfer::of(&self.progress.op) {
                        Some(transfer) => explain(error, self.file.fd(), transfer, address_bits),
                        None => error,
                    },
                ))
            }
            Outcome::Refused(errno) => {
                let error = io::Error::from_raw_os_error(errno);
                Err(AioCommandError::IoSubmit(error))
            }
            Outcome::Stopped => Err(AioCommandError::AioStopped),
            Outcome::Lost(errno) => {
                let error = io::Error::from_raw_os_error(errno);
                Err(AioCommandError::BadResult(error))
            }
        }
    }

    /// The file has data there: a later write to them is an overwrite.
    #[inline]
    fn on_moved(&self, bytes: u64) {
        if let (FileRef::Open(file), Some(end)) = (&self.file, self.progress.end(bytes)) {
            file.history().has_data_to(end);
        }
    }
}

/// To `driver`, or if that is full to one of `others` that is not; else it waits at `driver`.
#[inline(never)]
fn admit_to_any<'h, T: ContextTypes>(
    driver: &Entered<'h, T>,
    others: &'h Shards<T>,
    new: &mut NewRequest<'_>,
) -> (Admission, Option<SubmitPermit>, &'h Driver<T>) {
    let own = driver.get();
    for shard in iter::once(own).chain(others.all().iter().map(Arc::as_ref)) {
        let Ok(entered) = shard.enter() else { continue };
        match entered.admit(new, false) {
            (Admission::Full, _) => {}
            (admission, permit) => return (admission, permit, shard),
        }
    }
    let (admission, permit) = driver.admit(new, true);
    (admission, permit, own)
}

impl<'h, 'a, T: ContextTypes> AsMut<OpFuture<'h, 'a, T>> for OpFuture<'h, 'a, T> {
    fn as_mut(&mut self) -> &mut Self {
        self
    }
}

impl<T: ContextTypes> Future for OpFuture<'_, '_, T> {
    type Output = Result<u64, AioCommandError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> OpPoll {
        let budget = ready!(coop::poll_proceed(cx));
        let polled = self.get_mut().poll_op(cx);
        if polled.is_ready() {
            budget.made_progress();
        }
        polled
    }
}

impl<T: ContextTypes> Drop for OpFuture<'_, '_, T> {
    #[inline]
    fn drop(&mut self) {
        if !matches!(self.state, OpState::Complete(_)) {
            self.abandon();
        }
    }
}
