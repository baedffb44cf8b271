//! The request table: every request of a context, and every change of its state.
//!
//! All of it is behind the context's one lock.
#![allow(unsafe_code)]

use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;
use std::time::Instant;

use intrusive_collections::linked_list::LinkedList;

use super::Way;
use super::drain::Drains;
use super::open_file::KnownAs;
use super::request::{Again, Due, Flight, Life, Outcome, Released, Standing, State};
use super::ticket::{Made, Ticket};
use super::{Batch, Flavour, IntrusiveAdapter, Memory, OpenFile, Order, Parcel, Payload};
use crate::LatencyHistogram;
use crate::sys::FixedIocb;
use crate::sys::abi::{IOCB_CMD_PWRITE, Iocb};

/// The requests of one context.
pub(crate) struct Table<F: Flavour> {
    /// Every request, whatever its state. Grows to the most operations that ever waited at once,
    /// and stays: no allocation an operation.
    pub(super) made: Made<F>,
    /// Those that are `Ready`.
    pub(super) ready: Vec<Ticket<F>>,
    /// Those that are `Queued`, oldest first, but for:
    pub(super) queued: LinkedList<F::Adapter>,
    pub(super) queued_len: usize,
    /// Those of them that are `Behind` another append, oldest first. Older than any append to the same
    /// file in `queued`, except for the one that is `Next`.
    pub(super) held: LinkedList<F::Adapter>,
    pub(super) held_len: usize,
    /// By which files know the table.
    pub(super) number: usize,
    pub(super) in_flight: usize,
    /// Of those in flight, the ones that only another look will find done.
    pub(super) overlooked: usize,
    /// Of those in flight, the ones that no future waits for.
    pub(super) abandoned: usize,
    /// Launches so far. Wraps.
    launches: u32,
    pub(super) drains: Drains,
    /// How long requests took, if that is asked for.
    pub(super) latency: Option<LatencyHistogram>,
}

/// What a request goes to the kernel with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum With {
    /// By itself.
    Nothing,
    /// Those that were launched with this number before it, of the same call.
    Launch(u32),
}

/// The number of the latest table.
static LATEST: AtomicUsize = AtomicUsize::new(0);

/// Most requests that a table starts with.
const MADE_AHEAD: usize = 256;

impl<F: Flavour> Table<F> {
    /// For `slots` requests in flight. What is beyond [`MADE_AHEAD`] is made when it is needed.
    pub(crate) fn new(slots: usize, measure_latency: bool) -> Table<F> {
        let mut made = Made::new();
        let ready = (0..slots.min(MADE_AHEAD)).map(|_| made.one_more());
        Table {
            ready: ready.collect(),
            made,
            queued: LinkedList::new(F::Adapter::new()),
            queued_len: 0,
            held: LinkedList::new(F::Adapter::new()),
            held_len: 0,
            number: LATEST.fetch_add(1, Ordering::Relaxed) + 1,
            in_flight: 0,
            overlooked: 0,
            abandoned: 0,
            launches: 0,
            drains: Drains::default(),
            latency: measure_latency.then(LatencyHistogram::new),
        }
    }

    /// Requests that wait to go to the kernel.
    pub(crate) fn queued(&self) -> usize {
        self.queued_len + self.held_len
    }

    /// Of these, the ones that could go if there are slots.
    pub(crate) fn launchable(&self) -> usize {
        self.queued_len
    }

    /// Whether a new request would get ahead of others if it went now, as it must not: an append, of
    /// those to its file that are queued or out.
    #[inline]
    pub(crate) fn is_to_stay_behind(&self, order: &Order, file: Option<&Arc<OpenFile>>) -> bool {
        order.appends()
            && (self.queued() > 0 || file.is_some_and(|file| file.is_appended_by(self.number)))
    }

    /// Requests that the kernel has, abandoned ones included.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Requests in flight that no future waits for.
    pub(crate) fn abandoned(&self) -> usize {
        self.abandoned
    }

    /// Requests that a future still has to look at.
    #[cfg(test)]
    pub(crate) fn claimed(&mut self) -> usize {
        let claimed = |state: &State| !matches!(state, State::Ready | State::Abandoned { .. });
        let tickets: Vec<_> = self.made.tickets().collect();
        let claims = tickets.iter().filter(|ticket| claimed(self.state(ticket)));
        claims.count()
    }

    /// The descriptors by which callers know the files of requests in flight.
    pub(crate) fn files_in_flight(&mut self) -> Vec<RawFd> {
        let tickets: Vec<_> = self.made.tickets().collect();
        let file = |ticket: &Ticket<F>| match self.state(ticket) {
            State::InFlight { flight, .. } | State::Abandoned { flight, .. } => {
                Some(flight.file.fd)
            }
            _ => None,
        };
        tickets.iter().filter_map(file).collect()
    }

    /// Requests in flight that [`Table::overlook`] has found.
    pub(crate) fn overlooked(&self) -> usize {
        self.overlooked
    }

    pub(crate) fn latency(&self) -> Option<&LatencyHistogram> {
        self.latency.as_ref()
    }

    /// Has so many requests at hand that are `Ready`, so that the next ones taken in are not made then:
    /// that runs code of the user's, a link's `default`, which may panic.
    pub(crate) fn make_ready(&mut self, count: usize) {
        while self.ready.len() < count {
            let ticket = self.made.one_more();
            self.ready.push(ticket);
        }
    }

    /// *Ready → in flight*, for a request that goes to the kernel before anything else happens to
    /// the future. `iocb`, a blank one, becomes what is the caller's to submit, on descriptor `fd`. It wakes nobody
    /// until [`Table::rewake`].
    ///
    /// `file` is the one behind `fd`, if that is known; by `way` the kernel may refuse it for now:
    /// see [`Table::complete`].
    #[inline(always)]
    pub(crate) fn launch(
        &mut self,
        payload: &mut Payload,
        fd: RawFd,
        file: Option<&Arc<OpenFile>>,
        way: Way,
        with: With,
        iocb: &mut Iocb,
    ) -> Ticket<F> {
        let ticket = self.ready_one(); // may panic: before the memory is in hand
        let (order, memory) = payload.take();
        order.fill(iocb, fd, &memory, ticket.tag());
        let known_as = file.map_or(KnownAs::borrowed(fd), |file| file.known_as());
        let flight = match with {
            With::Nothing => self.next_flight(known_as),
            With::Launch(launch) => Flight::of(launch, known_as),
        };
        self.in_flight += 1;
        self.arrived(&ticket).fill(State::InFlight {
            memory,
            flight,
            waker: None,
        });
        if let (Way::NoWait | Way::Probe, Some(file)) = (way, file) {
            self.life(&ticket).due = Again::of(&order, file, way, iocb).map(Due::Again);
        }
        if let (true, Some(file)) = (order.appends(), file) {
            self.begin_append(&ticket, file);
        }
        ticket
    }

    /// *Ready → in flight*, for a request that goes to the kernel from the pool.
    pub(crate) fn launch_pooled(
        &mut self,
        payload: &mut Payload,
        file: Arc<OpenFile>,
        waker: Option<Waker>,
    ) -> (Ticket<F>, Parcel) {
        let ticket = self.ready_one(); // may panic: before the memory is in hand
        let (order, memory) = payload.take();
        let iocb = order.iocb(file.as_raw_fd(), &memory, ticket.tag());
        let flight = self.pooled_flight(file.known_as());
        self.in_flight += 1;
        self.arrived(&ticket).fill(State::InFlight {
            memory,
            flight,
            waker,
        });
        if order.appends() {
            self.begin_append(&ticket, &file);
        }
        (ticket, Parcel::new(iocb, file))
    }

    /// *Ready → queued*, to go out on `file`.
    pub(crate) fn enqueue(
        &mut self,
        payload: &mut Payload,
        file: Arc<OpenFile>,
        waker: Option<Waker>,
    ) -> Ticket<F> {
        let ticket = self.ready_one(); // may panic: before the memory is in hand
        let (order, memory) = payload.take();
        // Behind those that are held already, if there are any.
        let behind = order.appends() && self.queued_len == 0 && file.is_appended_by(self.number);
        self.arrived(&ticket).fill(State::Queued {
            order,
            memory,
            file,
            standing: Standing::Free,
            waker,
        });
        let request = self.listed(&ticket);
        match behind {
            true => self.hold(request),
            false => self.push_back(request),
        }
        ticket
    }

    /// *Queued → in flight* for the oldest ones, up to `slots` in flight in all and `limit`, at
    /// most [`MAX_BATCH`](crate::sys::MAX_BATCH), in the batch. `way` tells of each how it goes;
    /// those that go from the pool are given to `pooled`.
    pub(crate) fn launch_queued(
        &mut self,
        batch: &mut Batch,
        limit: usize,
        slots: usize,
        mut way: impl FnMut(&OpenFile, &Order) -> Way,
        pooled: &mut Vec<Parcel>,
    ) {
        let flight = self.next_flight(KnownAs::borrowed(-1));
        while self.in_flight < slots && batch.len() < limit {
            let Some(ticket) = self.pop_launchable() else {
                break;
            };
            self.in_flight += 1;
            let tag = ticket.tag();
            let life = self.life(&ticket);
            let State::Queued {
                order,
                memory,
                file,
                waker,
                ..
            } = life.state.take()
            else {
                unreachable!("not queued, in the queue");
            };
            let mut iocb = order.iocb(file.as_raw_fd(), &memory, tag);
            let way = way(&file, &order);
            if let Way::NoWait | Way::Probe = way {
                life.due = Again::of(&order, &file, way, &mut iocb).map(Due::Again);
            }
            let flight = Flight {
                pooled: matches!(way, Way::Pool),
                file: file.known_as(),
                ..flight
            };
            life.state.fill(State::InFlight {
                memory,
                flight,
                waker,
            });
            match way {
                Way::Pool => pooled.push(Parcel::new(iocb, file)),
                _ => batch.push(iocb, file),
            }
        }
    }

    /// The latest launch.
    pub(crate) fn latest_launch(&self) -> u32 {
        self.launches
    }

    /// Whether any of `iocbs`, which went out with `launch`, is still in flight.
    pub(crate) fn is_any_left(&mut self, iocbs: &[Iocb], launch: u32) -> bool {
        self.in_flight > 0 && iocbs.iter().any(|iocb| self.flight(iocb, launch).is_some())
    }

    /// As [`Table::is_any_left`], for requests that went out without a signal: those that are left
    /// are to be found by another look.
    pub(crate) fn overlook(&mut self, iocbs: &[Iocb], launch: u32) -> bool {
        if self.in_flight == 0 {
            return false;
        }
        let mut left = 0;
        for iocb in iocbs {
            if let Some(flight) = self.flight(iocb, launch) {
                left += usize::from(!mem::replace(&mut flight.overlooked, true));
            }
        }
        self.overlooked += left;
        left > 0
    }

    /// The tag of a request that may still be in the pool.
    pub(crate) fn pooled(&mut self, ticket: &Ticket<F>) -> Option<u64> {
        let state = self.state(ticket);
        let pooled = matches!(state, State::InFlight { flight, .. } if flight.pooled);
        pooled.then(|| ticket.tag())
    }

    /// The poll that `ticket` names, if it is one in flight.
    pub(crate) fn poll_in_flight(&mut self, ticket: &Ticket<F>) -> Option<&FixedIocb> {
        match self.state(ticket) {
            State::InFlight {
                memory: Memory::Polling(fixed),
                ..
            } => Some(fixed),
            _ => None,
        }
    }

    /// The same by the tag of a request that has just been submitted, if `unwanted` or if nobody waits
    /// for it.
    pub(crate) fn stray_poll(&mut self, tag: u64, unwanted: bool) -> Option<&FixedIocb> {
        let ticket = Ticket::from_tag(tag)?;
        match self.state(&ticket) {
            State::InFlight {
                memory: Memory::Polling(fixed),
                ..
            } if unwanted => Some(fixed),
            State::Abandoned {
                memory: Memory::Polling(fixed),
                ..
            } => Some(fixed),
            _ => None,
        }
    }

    /// No poll is to go on: *queued → done*, stopped, and `cancel` for those in flight.
    pub(crate) fn stop_polls(
        &mut self,
        mut cancel: impl FnMut(&FixedIocb),
        released: &mut Released,
    ) {
        let tickets: Vec<_> = self.made.tickets().collect();
        for ticket in tickets {
            match self.state(&ticket) {
                State::Queued {
                    memory: Memory::Polling(_),
                    standing,
                    ..
                } => {
                    let standing = *standing;
                    self.unlink(&ticket, standing);
                    self.stop_queued(&ticket, released);
                }
                State::InFlight {
                    memory: Memory::Polling(fixed),
                    ..
                }
                | State::Abandoned {
                    memory: Memory::Polling(fixed),
                    ..
                } => cancel(fixed),
                _ => {}
            }
        }
    }

    /// *In flight → ready*, for a request that was taken back from the pool. Gives its memory.
    pub(crate) fn recalled(&mut self, ticket: Ticket<F>, released: &mut Released) -> Memory {
        match self.state(&ticket).take() {
            State::InFlight {
                memory,
                flight,
                waker,
            } => {
                self.landed(flight);
                self.is_over(&ticket, released);
                self.ready.push(ticket);
                released.drop(waker, Memory::None, None);
                memory
            }
            other => unreachable!("{other:?} was in the pool"),
        }
    }

    /// Has the request of `ticket` wake nobody, until [`Table::rewake`]. Gives the waker that was
    /// set.
    pub(crate) fn mute(&mut self, ticket: &Ticket<F>) -> Option<Waker> {
        match self.state(ticket) {
            State::Queued { waker: set, .. } | State::InFlight { waker: set, .. } => set.take(),
            _ => None,
        }
    }

    /// Sets the waker of a request that is not done; gives back the one that is not needed.
    pub(crate) fn rewake(&mut self, ticket: &Ticket<F>, waker: Waker) -> Option<Waker> {
        match self.state(ticket) {
            State::Queued { waker: set, .. } | State::InFlight { waker: set, .. } => {
                set.replace(waker)
            }
            _ => Some(waker),
        }
    }

    /// Whether [`Table::collect`] would have it.
    pub(crate) fn is_done(&mut self, ticket: &Ticket<F>) -> bool {
        matches!(self.state(ticket), State::Done { .. })
    }

    /// *Done → ready*. `Err` gives the ticket back: not done.
    #[inline(always)]
    pub(crate) fn collect(&mut self, ticket: Ticket<F>) -> Result<(Outcome, Memory), Ticket<F>> {
        let state = self.state(&ticket);
        if !matches!(state, State::Done { .. }) {
            return Err(ticket);
        }
        match state.take() {
            State::Done { outcome, memory } => {
                self.ready.push(ticket);
                Ok((outcome, memory))
            }
            _ => unreachable!("just seen to be done"),
        }
    }

    /// The future is dropped: *queued → ready*, *done → ready* or *in flight → abandoned*. Gives
    /// the memory that its buffer gets back.
    pub(crate) fn withdraw(&mut self, ticket: Ticket<F>, released: &mut Released) -> Memory {
        let state = self.state(&ticket);
        match state.take() {
            State::Queued {
                memory,
                file,
                standing,
                waker,
                ..
            } => {
                self.unlink(&ticket, standing);
                self.is_over(&ticket, released);
                self.ready.push(ticket);
                if standing == Standing::Next {
                    self.next_append(&file);
                }
                released.drop(waker, Memory::None, Some(file));
                memory
            }
            State::InFlight {
                mut memory,
                flight,
                waker,
            } => {
                let stands_in = memory.keep();
                state.fill(State::Abandoned {
                    memory: mem::replace(&mut memory, stands_in),
                    flight,
                });
                self.abandoned += 1;
                // A write that was submitted is to land, also if this attempt is refused.
                let due = &mut self.life(&ticket).due;
                let is_unwanted = |due: &mut Due| matches!(due, Due::Again(again) if again.order.opcode != IOCB_CMD_PWRITE);
                let unwanted = due.take_if(is_unwanted).map(Due::into_file);
                released.drop(waker, Memory::None, unwanted);
                memory
            }
            State::Done { memory, .. } => {
                self.ready.push(ticket);
                memory
            }
            other => unreachable!("{other:?} has no ticket"),
        }
    }

    /// *Queued → done*, stopped, for those that would go past `slots` in flight.
    pub(crate) fn turn_away(&mut self, slots: usize, released: &mut Released) {
        while self.queued() + self.in_flight > slots {
            let Some(ticket) = self.pop_back() else {
                break;
            };
            self.stop_queued(&ticket, released);
        }
    }

    /// The context ends under its requests. *Queued → done*, stopped; *in flight → done*, with
    /// `outcome`; *abandoned → ready*. Gives what the kernel may still touch: to be kept until it
    /// can't.
    pub(crate) fn orphan(&mut self, outcome: Outcome, released: &mut Released) -> Vec<Memory> {
        while let Some(ticket) = self.pop_back() {
            self.stop_queued(&ticket, released);
        }
        let mut kept = Vec::new();
        let tickets: Vec<_> = self.made.tickets().collect();
        for ticket in tickets {
            let number = self.number;
            let life = self.life(&ticket);
            if let Some(due) = life.due.take() {
                if let Due::NextAppend(file) = &due {
                    file.end_append(number);
                }
                released.drop(None, Memory::None, Some(due.into_file()));
            }
            match life.state.take() {
                State::InFlight {
                    mut memory, waker, ..
                } => {
                    let stands_in = memory.keep();
                    kept.push(mem::replace(&mut memory, stands_in));
                    life.state.fill(State::Done { outcome, memory });
                    released.wake(waker);
                }
                State::Abandoned { memory, .. } => {
                    kept.push(memory);
                    self.ready.push(ticket);
                }
                other => life.state.fill(other),
            }
        }
        self.all_are_over(released);
        self.in_flight = 0;
        self.overlooked = 0;
        self.abandoned = 0;
        kept
    }

    #[inline(always)]
    fn next_flight(&mut self, file: KnownAs) -> Flight {
        self.launches = self.launches.wrapping_add(1);
        Flight::of(self.launches, file)
    }

    pub(super) fn pooled_flight(&mut self, file: KnownAs) -> Flight {
        Flight {
            pooled: true,
            ..self.next_flight(file)
        }
    }

    /// The flight of `iocb`, if it is still the one of `launch`: the request may be done, and
    /// another operation's by now.
    fn flight(&mut self, iocb: &Iocb, launch: u32) -> Option<&mut Flight> {
        let ticket = Ticket::from_tag(iocb.data)?;
        match self.state(&ticket) {
            State::InFlight { flight, .. } | State::Abandoned { flight, .. } => {
                (flight.launch == launch).then_some(flight)
            }
            _ => None,
        }
    }

    fn ready_one(&mut self) -> Ticket<F> {
        let ticket = self.ready.pop();
        ticket.unwrap_or_else(|| self.made.one_more())
    }

    /// `ticket` was just taken off the queue.
    fn stop_queued(&mut self, ticket: &Ticket<F>, released: &mut Released) {
        let state = self.state(ticket);
        match state.take() {
            State::Queued {
                memory,
                file,
                standing,
                waker,
                ..
            } => {
                state.fill(State::Done {
                    outcome: Outcome::Stopped,
                    memory,
                });
                if standing == Standing::Next {
                    self.next_append(&file);
                }
                self.is_over(ticket, released);
                released.wake(waker);
                released.drop(None, Memory::None, Some(file));
            }
            other => unreachable!("{other:?} in the queue"),
        }
    }

    /// The state of a request that comes in now.
    fn arrived(&mut self, ticket: &Ticket<F>) -> &mut State {
        let now = self.latency.is_some().then(Instant::now);
        let life = self.life(ticket);
        if now.is_some() {
            life.since = now;
        }
        &mut life.state
    }

    pub(super) fn state(&mut self, ticket: &Ticket<F>) -> &mut State {
        &mut self.life(ticket).state
    }

    pub(super) fn life(&mut self, ticket: &Ticket<F>) -> &mut Life {
        // SAFETY: a ticket names a request that this table has made, and keeps until it is
        // dropped. A queued one is a `Box` to the queue, as a pointer; no such `Box` is in
        // anybody's hands while a state is looked at.
        let request = unsafe { ticket.0.as_ref() };
        // SAFETY: all access to states is through `&mut` of the table, so this is the only one.
        unsafe { &mut *request.life.get() }
    }
}

impl<F: Flavour> Drop for Table<F> {
    fn drop(&mut self) {
        // The table's are the requests; the lists would drop theirs.
        while self.pop_back().is_some() {}
    }
}
