//! [`OpFuture`]: the future of one operation.

use std::future::Future;
use std::io;
use std::iter;
use std::mem::{self, ManuallyDrop};
use std::os::fd::RawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use tokio::task::coop;

use super::op_options::OpOptions;
use super::op_timer::OpTimer;
use super::shards::Shards;
use super::transfer_progress::{NextStep, TransferMode, TransferProgress};
use crate::backend::{GIVEN_BACK, refused_with};
use crate::config::ContextTypes;
use crate::driver::{Driver, Entered, ForkedChild};
use crate::error::{Transfer, explain};
use crate::group::Permit;
use crate::op::{BufferReturn, FileRef, IoBuffer, IoRequest, NewRequest, OpenFile, Outcome};
use crate::policy::TaskId;
use crate::slab::{Admission, SlotKey};
use crate::sync::drop_contained;
use crate::trace;
use crate::{AioCommandError, RawCommand};

/// Resolves to the number of bytes moved, or to the events of a poll. Takes part in tokio's cooperative
/// budget.
///
/// One hand-written future, instead of nested ones, because it is created, moved and polled for every
/// operation.
///
/// The state is updated before callers' code runs (waking or dropping wakers, dropping buffers). If that code
/// panics, the future is in a valid state and can be dropped as at any other time.
pub(crate) struct OpFuture<'h, 'a, T: ContextTypes> {
    /// The driver that the request goes to, or that has the request.
    driver: &'h Driver<T>,
    /// Drivers that the request may go to if `driver` is full.
    others: Option<&'h Shards<T>>,
    options: &'h OpOptions,
    file: FileRef<'h>,
    state: OpState<'a>,
    progress: TransferProgress,
    /// `HasBuffer`: memory of the next request. `Complete`: memory for the caller, if the caller is to get
    /// it. Otherwise empty. `ManuallyDrop`, because the drop glue would cost every request.
    buffer: ManuallyDrop<IoBuffer>,
    /// `HasBuffer`, `Submitted`: where to return the memory.
    buffer_return: ManuallyDrop<BufferReturn<'a>>,
    /// Timer of an operation with a time limit, created once the operation has to wait.
    timer: ManuallyDrop<Option<OpTimer>>,
}

#[derive(Debug)]
enum OpState<'a> {
    /// Not polled yet.
    New(RawCommand<'a>),
    /// The future has the buffer, for the first request or (`resubmit`) for a later one.
    HasBuffer {
        resubmit: bool,
    },
    /// The driver has the request.
    Submitted(SlotKey),
    /// The request needs a permit.
    InGroup(InGroup),
    Complete,
}

/// A request of a group, from the time at which it asks for its permit.
#[derive(Debug)]
struct InGroup {
    /// `ManuallyDrop`, because the drop glue would cost every operation. [`OpFuture::take_permit`] takes it.
    permit: ManuallyDrop<Arc<Permit>>,
    /// Set once the driver has the request. Until then the future has the buffer.
    key: Option<SlotKey>,
}

type OpPoll = Poll<Result<u64, AioCommandError>>;

impl<'h, 'a, T: ContextTypes> OpFuture<'h, 'a, T> {
    /// Creates an operation for `driver`, or for one of `others` if `driver` is full.
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
            state: OpState::New(command),
            progress: TransferProgress::NEW,
            buffer: ManuallyDrop::new(IoBuffer::None),
            buffer_return: ManuallyDrop::new(BufferReturn::None),
            timer: ManuallyDrop::new(None),
        }
    }

    /// Like [`OpFuture::new`], for a request that is not made from a command.
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
            state: OpState::HasBuffer { resubmit: false },
            progress: TransferProgress::new(request.op, mode),
            buffer: ManuallyDrop::new(request.buffer),
            buffer_return: ManuallyDrop::new(buffer_return),
            timer: ManuallyDrop::new(None),
        }
    }

    /// Takes the memory that the operation returns to the caller: without the caller's buffer if the kernel
    /// still uses it. Returns `None` if the operation is not complete.
    pub(crate) fn take_buffer(&mut self) -> Option<IoBuffer> {
        matches!(self.state, OpState::Complete).then(|| self.buffer.take())
    }

    pub(super) fn driver(&self) -> &'h Driver<T> {
        self.driver
    }

    /// Returns the descriptor that the operation appends to, if it is an append.
    pub(super) fn appends_to(&self) -> Option<RawFd> {
        self.progress.op.appends().then(|| self.file.fd())
    }

    /// Returns the key of the request, if the driver has it.
    pub(super) fn key(&self) -> Option<SlotKey> {
        match self.state {
            OpState::Submitted(key) => Some(key),
            OpState::InGroup(InGroup { key, .. }) => key,
            _ => None,
        }
    }

    #[cfg(test)]
    #[cfg_attr(kaio_loom, allow(dead_code))]
    pub(super) fn is_complete(&self) -> bool {
        matches!(self.state, OpState::Complete)
    }

    /// Abandons the operation, because its time limit has passed.
    pub(super) fn time_out(&mut self) -> AioCommandError {
        self.abandon();
        AioCommandError::TimedOut
    }

    /// Polls the operation, without checking the task's budget.
    #[inline(always)]
    pub(super) fn poll_op(&mut self, cx: &mut Context<'_>) -> OpPoll {
        let Ok(driver) = self.driver.enter() else {
            return self.fail_in_child();
        };
        let mut unneeded = None; // a waker that is dropped last, when the state is final
        let polled = match self.state {
            OpState::Submitted(key) => {
                let completed = match driver.take_completed(key, &mut self.buffer) {
                    Some(outcome) => Poll::Ready(outcome),
                    None => driver.poll(key, cx.waker(), &mut self.buffer),
                };
                match completed {
                    Poll::Ready(outcome) => self.on_completed(outcome, cx),
                    Poll::Pending => Poll::Pending,
                }
            }
            OpState::New(_) | OpState::HasBuffer { resubmit: false } => {
                if self.options.may_not_start() {
                    if let Some(polled) = self.poll_with_options(&driver, cx) {
                        return polled;
                    }
                }
                let waker = cx.waker().clone();
                match self.take_request() {
                    Ok(()) => self.submit_first(&driver, waker, &mut unneeded, cx),
                    Err(error) => Poll::Ready(Err(error)),
                }
            }
            _ => self.poll_rare(&driver, cx),
        };
        if polled.is_pending() && self.options.has_time_limit() && self.is_overdue(cx) {
            return Poll::Ready(Err(self.time_out()));
        }
        polled
    }

    /// Polls an operation that is neither new nor submitted without a group.
    #[inline(never)]
    fn poll_rare(&mut self, driver: &Entered<'h, T>, cx: &mut Context<'_>) -> OpPoll {
        match self.state {
            OpState::InGroup(_) => self.poll_in_group(driver, cx),
            OpState::Complete => panic!("an operation was polled after it had completed"),
            _ => self.resubmit(driver, cx),
        }
    }

    /// The first polls of an operation with a deadline or a group. Returns `None` if the operation starts as
    /// any other.
    #[cold]
    fn poll_with_options(
        &mut self,
        driver: &Entered<'h, T>,
        cx: &mut Context<'_>,
    ) -> Option<OpPoll> {
        if self
            .options
            .time_limit()
            .has_passed(driver.driver_waker.own_thread())
        {
            return Some(Poll::Ready(Err(self.time_out())));
        }
        if !self.is_in_group() {
            return None;
        }
        if let Err(error) = self.take_request() {
            return Some(Poll::Ready(Err(error)));
        }
        let polled = self.poll_in_group(driver, cx);
        if polled.is_pending() && self.options.has_time_limit() && self.is_overdue(cx) {
            return Some(Poll::Ready(Err(self.time_out())));
        }
        Some(polled)
    }

    /// *New → HasBuffer*. Takes the memory from the caller's buffer, and prepares the first request.
    #[inline(always)]
    pub(super) fn take_request(&mut self) -> Result<(), AioCommandError> {
        if let OpState::New(command) = &self.state {
            command.check();
            let state = OpState::HasBuffer { resubmit: false };
            if let OpState::New(command) = mem::replace(&mut self.state, state) {
                let (request, buffer_return) = command.into_request().inspect_err(|_| {
                    self.state = OpState::Complete;
                })?;
                self.progress.op = request.op;
                self.buffer = ManuallyDrop::new(request.buffer); // it was empty
                self.buffer_return = ManuallyDrop::new(buffer_return);
            }
        }
        self.progress.start(self.options.priority, &self.buffer);
        Ok(())
    }

    /// Returns the request to admit. The buffer stays here until a slot takes it.
    #[inline(always)]
    pub(super) fn new_request(&mut self, waker: Waker) -> NewRequest<'_> {
        NewRequest::new(&self.progress.op, &mut self.buffer, self.file, waker)
    }

    /// Like [`OpFuture::new_request`], for a request that has its permit. `task` is the task of the operation.
    pub(super) fn new_request_in_group(&mut self, task: TaskId) -> Option<NewRequest<'_>> {
        let waker = Waker::from(Arc::clone(self.permit()?));
        let (op, buffer) = (&self.progress.op, &mut *self.buffer);
        Some(NewRequest::of_task(op, buffer, self.file, waker, task))
    }

    /// *HasBuffer → Submitted*.
    #[inline(always)]
    pub(super) fn on_admitted(&mut self, key: SlotKey) {
        self.state = OpState::Submitted(key);
    }

    /// *InGroup*, when the driver has the request.
    pub(super) fn on_admitted_in_group(&mut self, key: SlotKey) {
        if let OpState::InGroup(group) = &mut self.state {
            group.key = Some(key);
            group.permit.on_admitted();
        }
    }

    /// *HasBuffer → Submitted*, for the first request, or *→ Complete*.
    #[inline(always)]
    fn submit_first(
        &mut self,
        driver: &Entered<'h, T>,
        waker: Waker,
        unneeded: &mut Option<Waker>,
        cx: &mut Context<'_>,
    ) -> OpPoll {
        let task = TaskId::of(&waker);
        match self.submit(driver, waker, task, unneeded) {
            Ok(Some(outcome)) => self.on_completed(outcome, cx),
            Ok(None) => Poll::Pending,
            Err(error) => {
                self.finish();
                Poll::Ready(Err(error))
            }
        }
    }

    /// *HasBuffer → Submitted*. Admits a request, and submits it unless it has to wait. Returns the outcome
    /// if the request has completed. `unneeded` gets a waker that the caller must drop.
    #[inline(always)]
    fn submit(
        &mut self,
        driver: &Entered<'h, T>,
        waker: Waker,
        task: TaskId,
        unneeded: &mut Option<Waker>,
    ) -> Result<Option<Outcome>, AioCommandError> {
        let mut driver = *driver;
        let duplicate; // lives longer than the request
        let (op, buffer) = (&self.progress.op, &mut *self.buffer);
        let mut new = NewRequest::of_task(op, buffer, self.file, waker, task);
        let mut admission = match self.others {
            None => driver.admit(&mut new, true),
            Some(others) => {
                let admission = admit_to_any(&mut driver, others, &mut new);
                self.driver = driver.get();
                admission
            }
        };
        if let Admission::NeedsFile = admission {
            let held = OpenFile::duplicate_borrowed(new.file.fd());
            duplicate = held.map_err(AioCommandError::IoSubmit)?;
            new.file = FileRef::Open(&duplicate);
            admission = driver.admit(&mut new, true);
        }
        match admission {
            Admission::Launched(key) => {
                self.state = OpState::Submitted(key);
                let completed = driver.submit_one(key, &mut new);
                mem::forget(mem::replace(unneeded, new.waker)); // it was none
                Ok(completed)
            }
            Admission::Queued(key) => {
                self.state = OpState::Submitted(key);
                Ok(None)
            }
            Admission::Stopped => Err(AioCommandError::AioStopped),
            _ => Err(AioCommandError::CapacityExceeded),
        }
    }

    /// Whether the request that ended with `outcome` was the only one of the operation.
    fn is_last(&self, outcome: Outcome) -> bool {
        let is_given_back = matches!(outcome, Outcome::Completed(GIVEN_BACK));
        self.progress.mode == TransferMode::Single && !is_given_back
    }

    /// Handles the completion of a request.
    #[inline(always)]
    fn on_completed(&mut self, outcome: Outcome, cx: &mut Context<'_>) -> OpPoll {
        if self.progress.mode != TransferMode::Single {
            return self.on_part_completed(outcome, cx);
        }
        let Outcome::Completed(moved @ 0..) = outcome else {
            return self.on_part_completed(outcome, cx);
        };
        self.finish();
        self.on_moved(moved as u64);
        Poll::Ready(Ok(moved as u64))
    }

    /// Handles the completion of a request of an operation that may take several, or of a poll, or a failure.
    #[inline(never)]
    fn on_part_completed(&mut self, outcome: Outcome, cx: &mut Context<'_>) -> OpPoll {
        match self.take_next_step(outcome) {
            Some(result) => Poll::Ready(result),
            None => match self.driver.enter() {
                Ok(driver) => self.resubmit(&driver, cx),
                Err(ForkedChild) => self.fail_in_child(),
            },
        }
    }

    /// *Submitted → HasBuffer*, returning `None`, if a request for the rest follows. Otherwise *→ Complete*.
    fn take_next_step(&mut self, outcome: Outcome) -> Option<Result<u64, AioCommandError>> {
        self.return_permit();
        let mut outcome = outcome;
        if let Outcome::Completed(GIVEN_BACK) = outcome {
            if self.progress.on_given_back() {
                self.state = OpState::HasBuffer { resubmit: true };
                return None;
            }
            outcome = Outcome::Refused(libc::EAGAIN); // the kernel can start no thread for it
        }
        let result = match (self.progress.mode, outcome) {
            (TransferMode::Poll, Outcome::Completed(0)) => Err(self.end_of_poll()),
            _ => self.result(outcome),
        };
        match self.progress.next_step(result, self.buffer.take()) {
            NextStep::End(result, buffer) => {
                self.buffer = ManuallyDrop::new(buffer);
                self.finish();
                Some(result)
            }
            NextStep::Resubmit(rest) => {
                self.buffer = ManuallyDrop::new(rest.buffer);
                self.state = OpState::HasBuffer { resubmit: true };
                if self.timer.is_none() {
                    *self.timer = self.new_timer();
                }
                None
            }
        }
    }

    /// Submits the request for the rest, and further requests while they complete at once. There may be
    /// thousands, so each uses one unit of the task's budget, and none is made after the deadline.
    fn resubmit(&mut self, driver: &Entered<'h, T>, cx: &mut Context<'_>) -> OpPoll {
        if self.is_in_group() {
            return self.poll_in_group(driver, cx);
        }
        loop {
            if let Some(result) = ready!(self.poll_before_next(cx)) {
                return Poll::Ready(result);
            }
            let waker = cx.waker().clone();
            let task = TaskId::of(&waker);
            let mut unneeded = None;
            let submitted = self.submit(driver, waker, task, &mut unneeded);
            drop_contained(unneeded);
            match submitted {
                Ok(None) => return Poll::Pending,
                Ok(Some(outcome)) => {
                    if let Some(result) = self.take_next_step(outcome) {
                        return Poll::Ready(result);
                    }
                }
                Err(error) => {
                    self.finish();
                    return Poll::Ready(self.progress.failed(error));
                }
            }
        }
    }

    /// Checks the deadline before a request for the rest, and uses one unit of the task's budget. Returns a
    /// result if the operation has ended.
    fn poll_before_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<u64, AioCommandError>>> {
        if self.timer.as_ref().is_some_and(OpTimer::is_due) {
            self.finish();
            return Poll::Ready(Some(self.progress.failed(AioCommandError::TimedOut)));
        }
        ready!(coop::poll_proceed(cx)).made_progress();
        Poll::Ready(None)
    }

    /// Whether the operation belongs to a handle with a group.
    pub(super) fn has_group(&self) -> bool {
        self.options.group().is_some()
    }

    /// Whether the operation waits for its turn behind other requests of its group.
    pub(super) fn is_behind_others(&self) -> bool {
        self.permit()
            .is_some_and(|permit| permit.is_behind_others())
    }

    /// Whether the requests of the operation need permits.
    pub(super) fn is_in_group(&self) -> bool {
        let is_poll = match &self.state {
            OpState::New(command) => matches!(command, RawCommand::Poll { .. }),
            _ => self.progress.op.is_poll(),
        };
        self.has_group() && !is_poll
    }

    fn permit(&self) -> Option<&Arc<Permit>> {
        match &self.state {
            OpState::InGroup(group) => Some(&group.permit),
            _ => None,
        }
    }

    /// *InGroup → HasBuffer*.
    fn take_permit(&mut self) -> Option<Arc<Permit>> {
        let OpState::InGroup(_) = &self.state else {
            return None;
        };
        let before = mem::replace(&mut self.state, OpState::HasBuffer { resubmit: true });
        match before {
            OpState::InGroup(group) => Some(ManuallyDrop::into_inner(group.permit)),
            _ => None,
        }
    }

    /// Returns the permit of a request that is done, or that is not to be made. The future has its memory, if
    /// the kernel does not use it.
    pub(super) fn return_permit(&mut self) {
        if let Some(permit) = self.take_permit() {
            let (memory, held) = self.buffer.take().without_permit();
            self.buffer = ManuallyDrop::new(memory);
            permit.cancel(); // if it is not held
            drop(held);
        }
    }

    /// Polls an operation of a group, each of whose requests needs a permit.
    #[cold]
    fn poll_in_group(&mut self, driver: &Entered<'h, T>, cx: &mut Context<'_>) -> OpPoll {
        loop {
            let outcome = match &self.state {
                OpState::InGroup(InGroup {
                    key: Some(key),
                    permit,
                }) => {
                    permit.register(cx.waker());
                    match driver.take_completed(*key, &mut self.buffer) {
                        Some(outcome) => Ok(outcome),
                        None => {
                            let waker = Waker::from(Arc::clone(permit));
                            Ok(ready!(driver.poll(*key, &waker, &mut self.buffer)))
                        }
                    }
                }
                OpState::HasBuffer { resubmit: true } => {
                    if let Some(result) = ready!(self.poll_before_next(cx)) {
                        return Poll::Ready(result);
                    }
                    ready!(self.poll_next_request(driver, cx))
                }
                _ => ready!(self.poll_next_request(driver, cx)),
            };
            match outcome {
                Err(error) => {
                    self.return_permit();
                    self.finish();
                    return Poll::Ready(self.progress.failed(error));
                }
                Ok(outcome) if self.is_last(outcome) => {
                    self.return_permit();
                    return self.on_completed(outcome, cx);
                }
                Ok(outcome) => {
                    if let Some(result) = self.take_next_step(outcome) {
                        return Poll::Ready(result);
                    }
                }
            }
        }
    }

    /// *HasBuffer → InGroup*. Submits the next request of an operation of a group, once it has its permit.
    fn poll_next_request(
        &mut self,
        driver: &Entered<'h, T>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Outcome, AioCommandError>> {
        if let Err(error) = ready!(self.poll_permit(driver, cx)) {
            return Poll::Ready(Err(error));
        }
        let Some(permit) = self.take_permit() else {
            return Poll::Ready(Err(AioCommandError::AioStopped)); // unreachable
        };
        let waker = Waker::from(Arc::clone(&permit));
        let mut unneeded = None;
        let submitted = self.submit(driver, waker, TaskId::of(cx.waker()), &mut unneeded);
        let key = match self.state {
            OpState::Submitted(key) => Some(key),
            _ => None,
        };
        let permit = ManuallyDrop::new(permit);
        self.state = OpState::InGroup(InGroup { permit, key: None });
        if let Some(key) = key {
            self.on_admitted_in_group(key);
        }
        drop_contained(unneeded);
        match submitted {
            Ok(Some(outcome)) => Poll::Ready(Ok(outcome)),
            Ok(None) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// *HasBuffer → InGroup*, with the permit of the next request beside its memory.
    #[inline(never)]
    pub(super) fn poll_permit(
        &mut self,
        driver: &Entered<'h, T>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), AioCommandError>> {
        if matches!(*self.buffer, IoBuffer::WithPermit(_)) {
            return Poll::Ready(Ok(())); // the batch of the operation has polled it
        }
        let permit = match self.permit() {
            Some(permit) => Arc::clone(permit),
            None => {
                let Some(group) = self.options.group() else {
                    return Poll::Ready(Err(AioCommandError::AioStopped)); // unreachable
                };
                let op = &self.progress.op;
                let bytes = match op.is_transfer() {
                    true => IoRequest::max_transfer(&self.buffer, op.nbytes),
                    false => 0,
                };
                let permit = group.acquire(bytes, op.appends());
                self.state = OpState::InGroup(InGroup {
                    permit: ManuallyDrop::new(Arc::clone(&permit)),
                    key: None,
                });
                permit
            }
        };
        let Some(held) = permit.poll(cx.waker()) else {
            // If the context ended without notice, with its runtime, nothing returns a permit any more.
            return match driver.is_open() {
                true => Poll::Pending,
                false => Poll::Ready(Err(AioCommandError::AioStopped)),
            };
        };
        self.buffer = ManuallyDrop::new(self.buffer.take().with_permit(held));
        if let Some(group) = self.options.group() {
            trace::long_wait(group.group().name(), permit.waited());
        }
        Poll::Ready(Ok(()))
    }

    /// *→ Complete*. Returns the memory of the last request, which is here, to its buffer.
    #[inline(always)]
    pub(super) fn finish(&mut self) {
        self.state = OpState::Complete;
        let buffer_return = mem::replace(&mut *self.buffer_return, BufferReturn::None);
        if let Some(buffer) = buffer_return.give_back(self.buffer.take()) {
            self.buffer = ManuallyDrop::new(buffer); // it was empty
        }
    }

    /// Returns whether the time limit has passed. If not, `cx` is woken when it has.
    #[cold]
    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        if self.timer.is_none() {
            *self.timer = self.new_timer();
        }
        let timer = self.timer.as_mut();
        timer.is_some_and(|timer| Pin::new(timer).poll(cx).is_ready())
    }

    /// Returns the timer of the time limit, if there is one.
    #[cold]
    fn new_timer(&self) -> Option<OpTimer> {
        let own_thread = self.driver.driver_waker.own_thread();
        self.options.time_limit().timer(own_thread)
    }

    /// *→ Complete*. Abandons the request, if the driver has it.
    #[inline(never)]
    fn abandon(&mut self) {
        match self.state {
            OpState::Submitted(key) => {
                if let Ok(driver) = self.driver.enter() {
                    self.buffer = ManuallyDrop::new(driver.abandon(key));
                }
                self.finish();
            }
            OpState::InGroup(InGroup { key, .. }) => {
                if let (Some(key), Ok(driver)) = (key, self.driver.enter()) {
                    self.buffer = ManuallyDrop::new(driver.abandon(key));
                }
                self.return_permit();
                self.finish();
            }
            OpState::HasBuffer { .. } => self.finish(),
            OpState::New(_) => self.state = OpState::Complete,
            OpState::Complete => {}
        }
    }

    /// Fails an operation in a forked child. The memory of a submitted request stays in its slot.
    #[cold]
    fn fail_in_child(&mut self) -> OpPoll {
        self.abandon();
        Poll::Ready(Err(AioCommandError::forked_child()))
    }

    /// Returns the error of a poll that was not abandoned, and ended without an event.
    #[cold]
    fn end_of_poll(&self) -> AioCommandError {
        match self.driver.enter().is_ok_and(|driver| driver.is_open()) {
            true => AioCommandError::BadResult(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the poll ended without an event: the file can no longer be polled",
            )),
            false => AioCommandError::AioStopped,
        }
    }

    #[inline(never)]
    fn result(&self, outcome: Outcome) -> Result<u64, AioCommandError> {
        match outcome {
            Outcome::Completed(moved @ 0..) => {
                self.on_moved(moved as u64);
                Ok(moved as u64)
            }
            Outcome::Completed(result) => {
                if let Some(errno) = refused_with(result) {
                    return self.result(Outcome::Refused(errno));
                }
                let errno = i32::try_from(result.unsigned_abs()).unwrap_or(libc::EIO);
                let error = io::Error::from_raw_os_error(errno);
                Err(AioCommandError::BadResult(
                    match Transfer::of(&self.progress.op) {
                        Some(transfer) => {
                            let address_bits = self.buffer.address_bits();
                            explain(error, self.file.fd(), transfer, address_bits)
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
            Outcome::Lost(errno) => {
                let error = io::Error::from_raw_os_error(errno);
                Err(AioCommandError::BadResult(error))
            }
        }
    }

    /// Records that the file has data where the request moved `bytes`: a later write there is an overwrite.
    #[inline(always)]
    fn on_moved(&self, bytes: u64) {
        if let (FileRef::Open(file), Some(end)) = (&self.file, self.progress.end(bytes)) {
            file.history().has_data_to(end);
        }
    }
}

/// Admits a request to `driver`, or to one of `others` if `driver` is full. If all are full, the request
/// waits in `driver`, or fails. Sets `driver` to the one that admitted the request.
#[inline(never)]
fn admit_to_any<'h, T: ContextTypes>(
    driver: &mut Entered<'h, T>,
    others: &'h Shards<T>,
    new: &mut NewRequest<'_>,
) -> Admission {
    let own = *driver;
    let others = others.all().iter().flat_map(|shard| shard.enter());
    for shard in iter::once(own).chain(others) {
        match shard.admit(new, false) {
            Admission::Full => {}
            admitted => {
                *driver = shard;
                return admitted;
            }
        }
    }
    own.admit(new, true)
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
        if !matches!(self.state, OpState::Complete) {
            self.abandon();
        }
        if !matches!(*self.buffer, IoBuffer::None) {
            drop(self.buffer.take()); // the caller did not take it
        }
        if self.timer.is_some() {
            drop(self.timer.take());
        }
    }
}
