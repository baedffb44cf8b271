//! The request table: every request of a context, in one list a kind of state.
//!
//! All of it is behind the context's one lock, and every change of a request's state is a method
//! here.
#![allow(unsafe_code)]

use std::fs::File;
use std::mem;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::task::Waker;

use intrusive_collections::DefaultLinkOps;
use intrusive_collections::linked_list::{LinkedList, LinkedListOps};
use lock_api::RawMutex;

use super::request::{Outcome, Released, Request, State};
use super::{Batch, Flavour, IntrusiveAdapter, Memory, Payload};
use crate::sys::abi::Iocb;

type RequestOf<F> = Request<<F as Flavour>::Lock, <F as Flavour>::Link>;

/// The requests of one context.
pub(crate) struct Table<F: Flavour> {
    /// `Ready`. Grows to the most operations that ever waited at once, and stays: no allocation an
    /// operation.
    #[allow(clippy::vec_box)] // requests stay where they are: tickets point to them
    ready: Vec<Box<RequestOf<F>>>,
    /// `Queued`, oldest first.
    queued: LinkedList<F::Adapter>,
    /// `InFlight`, `Abandoned` and `Done`.
    sent: LinkedList<F::Adapter>,
    queued_len: usize,
    in_flight: usize,
    /// Of those in flight, the ones whose events come without a signal.
    quiet: usize,
}

/// Most requests that a table starts with.
const MADE_AHEAD: usize = 256;

/// A future's claim on its request: in `queued` or `sent` of the table that gave it, and not
/// `Abandoned`, until [`Table::collect`] or [`Table::withdraw`] takes the ticket back.
pub(crate) struct Ticket<F: Flavour>(NonNull<RequestOf<F>>);

// SAFETY: a ticket is only the name of a request. What it names is reached through `&mut Table`,
// which is behind the context's lock.
unsafe impl<F: Flavour> Send for Ticket<F> {}
// SAFETY: as above.
unsafe impl<F: Flavour> Sync for Ticket<F> {}

impl<F: Flavour> Table<F> {
    /// For `slots` requests in flight. What is beyond [`MADE_AHEAD`] is made when it is needed.
    pub(crate) fn new(slots: usize) -> Table<F> {
        let made_ahead = slots.min(MADE_AHEAD);
        Table {
            ready: (0..made_ahead).map(|_| Box::new(Request::new())).collect(),
            queued: LinkedList::new(F::Adapter::new()),
            sent: LinkedList::new(F::Adapter::new()),
            queued_len: 0,
            in_flight: 0,
            quiet: 0,
        }
    }

    /// Requests that wait to go to the kernel.
    pub(crate) fn queued(&self) -> usize {
        self.queued_len
    }

    /// Requests that the kernel has, abandoned ones included.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Requests that a future still has to look at.
    #[cfg(test)]
    pub(crate) fn claimed(&self) -> usize {
        let requests = self.queued.iter().chain(self.sent.iter());
        // SAFETY: `&self` is had through the lock alone, so that nobody changes a state meanwhile.
        let states = requests.map(|request| unsafe { &*request.state.get() });
        let claimed = |state: &&State| !matches!(state, State::Ready | State::Abandoned { .. });
        states.filter(claimed).count()
    }

    /// Requests in flight whose events come without a signal.
    pub(crate) fn quiet(&self) -> usize {
        self.quiet
    }

    /// *Ready → in flight*, for a request that goes to the kernel before anything else happens to
    /// the future. The iocb is the caller's to submit; `quiet`: without a signal. It wakes nobody
    /// until [`Table::rewake`].
    pub(crate) fn launch(&mut self, payload: Payload, quiet: bool) -> (Ticket<F>, Iocb) {
        let (mut iocb, memory) = payload.into_parts();
        let request = self.ready_one();
        self.sent.push_back(request);
        self.in_flight += 1;
        let ticket = Ticket(newest(&self.sent));
        iocb.data = ticket.tag();
        self.quiet += usize::from(quiet);
        self.state(&ticket).fill(State::InFlight {
            memory,
            quiet,
            waker: None,
        });
        (ticket, iocb)
    }

    /// *Ready → queued*. `file` keeps the descriptor in the payload open.
    pub(crate) fn enqueue(&mut self, payload: Payload, file: Arc<File>, waker: Waker) -> Ticket<F> {
        let (mut iocb, memory) = payload.into_parts();
        let request = self.ready_one();
        self.queued.push_back(request);
        self.queued_len += 1;
        let ticket = Ticket(newest(&self.queued));
        iocb.data = ticket.tag();
        self.state(&ticket).fill(State::Queued {
            iocb,
            memory,
            file,
            waker: Some(waker),
        });
        ticket
    }

    /// *Queued → in flight* for the oldest ones, up to `slots` in flight in all and as many as the
    /// batch may have. `quiet`: without a signal.
    pub(crate) fn launch_queued(&mut self, batch: &mut Batch, slots: usize, quiet: bool) {
        while self.in_flight < slots && !batch.is_full() {
            let Some(request) = self.queued.pop_front() else {
                break;
            };
            self.sent.push_back(request);
            self.queued_len -= 1;
            self.in_flight += 1;
            self.quiet += usize::from(quiet);
            let ticket = Ticket(newest(&self.sent));
            let state = self.state(&ticket);
            match state.take() {
                State::Queued {
                    iocb,
                    memory,
                    file,
                    waker,
                } => {
                    state.fill(State::InFlight {
                        memory,
                        quiet,
                        waker,
                    });
                    batch.push(iocb, file);
                }
                other => unreachable!("{other:?} in the queue"),
            }
        }
    }

    /// *In flight → queued*, at the front: the kernel has no room for it now. One that was
    /// abandoned meanwhile is done with instead.
    pub(crate) fn requeue(&mut self, mut iocb: Iocb, file: Arc<File>) -> Released {
        let Some(ticket) = Ticket::from_tag(iocb.data) else {
            return Released::default();
        };
        let state = self.state(&ticket);
        match state.take() {
            State::InFlight {
                memory,
                quiet,
                waker,
            } => {
                // `file` may be a duplicate: the caller's own number is not held open by it.
                iocb.fildes = file.as_raw_fd() as u32;
                state.fill(State::Queued {
                    iocb,
                    memory,
                    file,
                    waker,
                });
                self.landed(quiet);
                let request = self.unlink_sent(&ticket);
                self.queued.push_front(request);
                self.queued_len += 1;
                Released::default()
            }
            State::Abandoned { memory, quiet } => {
                self.landed(quiet);
                let request = self.unlink_sent(&ticket);
                self.ready.push(request);
                Released {
                    memory: Some(memory),
                    file: Some(file),
                    ..Released::default()
                }
            }
            other => unreachable!("{other:?} was just being submitted"),
        }
    }

    /// *In flight → done*, or *abandoned → ready*. `tag` is the `data` of an event or of an iocb
    /// that was refused.
    pub(crate) fn complete(&mut self, tag: u64, outcome: Outcome) -> Released {
        let Some(ticket) = Ticket::from_tag(tag) else {
            return Released::default(); // not an event of ours
        };
        let state = self.state(&ticket);
        match state.take() {
            State::InFlight {
                memory,
                quiet,
                waker,
            } => {
                state.fill(State::Done { outcome, memory });
                self.landed(quiet);
                Released {
                    wake: waker,
                    ..Released::default()
                }
            }
            State::Abandoned { memory, quiet } => {
                self.landed(quiet);
                let request = self.unlink_sent(&ticket);
                self.ready.push(request);
                Released {
                    memory: Some(memory),
                    ..Released::default()
                }
            }
            // A second event for one request, which no kernel is known to send.
            other => {
                state.fill(other);
                Released::default()
            }
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

    /// *Done → ready*. `Err` gives the ticket back: not done.
    pub(crate) fn collect(&mut self, ticket: Ticket<F>) -> Result<(Outcome, Memory), Ticket<F>> {
        let state = self.state(&ticket);
        match state.take() {
            State::Done { outcome, memory } => {
                let request = self.unlink_sent(&ticket);
                self.ready.push(request);
                Ok((outcome, memory))
            }
            other => {
                state.fill(other);
                Err(ticket)
            }
        }
    }

    /// The future is dropped: *queued → ready*, *done → ready* or *in flight → abandoned*. Gives
    /// the memory that its buffer gets back.
    pub(crate) fn withdraw(&mut self, ticket: Ticket<F>) -> (Memory, Released) {
        let state = self.state(&ticket);
        match state.take() {
            State::Queued {
                memory,
                file,
                waker,
                ..
            } => {
                let request = self.unlink_queued(&ticket);
                self.ready.push(request);
                let released = Released {
                    unused: waker,
                    file: Some(file),
                    ..Released::default()
                };
                (memory, released)
            }
            State::InFlight {
                mut memory,
                quiet,
                waker,
            } => {
                let stands_in = memory.keep();
                // Nothing of the kernel's is lost: the request stays in `sent`.
                state.fill(State::Abandoned {
                    memory: mem::replace(&mut memory, stands_in),
                    quiet,
                });
                let released = Released {
                    unused: waker,
                    ..Released::default()
                };
                (memory, released)
            }
            State::Done { memory, .. } => {
                let request = self.unlink_sent(&ticket);
                self.ready.push(request);
                (memory, Released::default())
            }
            other => unreachable!("{other:?} has no ticket"),
        }
    }

    /// *Queued → done*, stopped, for those that would go past `slots` in flight.
    pub(crate) fn turn_away(&mut self, slots: usize) -> Vec<Released> {
        let mut released = Vec::new();
        while self.queued_len + self.in_flight > slots {
            let Some(request) = self.queued.pop_back() else {
                break;
            };
            released.push(self.stop_queued(request));
        }
        released
    }

    /// The context ends under its requests. *Queued → done*, stopped; *in flight → done*, with
    /// `outcome`; *abandoned → ready*. Gives what the kernel may still touch: to be kept until it
    /// can't.
    pub(crate) fn orphan(&mut self, outcome: Outcome) -> (Vec<Memory>, Vec<Released>) {
        let mut kept = Vec::new();
        let mut released = Vec::new();
        while let Some(request) = self.queued.pop_front() {
            released.push(self.stop_queued(request));
        }
        let mut sent = Vec::new();
        while let Some(request) = self.sent.pop_front() {
            sent.push(request);
        }
        for request in sent {
            // SAFETY: `request` is a box of ours, and `&mut self` means that the lock is held.
            let state = unsafe { &mut *request.state.get() };
            match state.take() {
                State::InFlight {
                    mut memory, waker, ..
                } => {
                    let stands_in = memory.keep();
                    kept.push(mem::replace(&mut memory, stands_in));
                    state.fill(State::Done { outcome, memory });
                    released.push(Released {
                        wake: waker,
                        ..Released::default()
                    });
                    self.sent.push_back(request);
                }
                State::Abandoned { memory, .. } => {
                    kept.push(memory);
                    self.ready.push(request);
                }
                done => {
                    state.fill(done);
                    self.sent.push_back(request);
                }
            }
        }
        self.in_flight = 0;
        self.quiet = 0;
        (kept, released)
    }

    /// The kernel no longer has a request that it had.
    fn landed(&mut self, quiet: bool) {
        self.in_flight -= 1;
        self.quiet -= usize::from(quiet);
    }

    fn ready_one(&mut self) -> Box<RequestOf<F>> {
        let request = self.ready.pop();
        request.unwrap_or_else(|| Box::new(Request::new()))
    }

    /// `request` was just taken off the queue.
    fn stop_queued(&mut self, request: Box<RequestOf<F>>) -> Released {
        self.sent.push_back(request);
        self.queued_len -= 1;
        let ticket = Ticket(newest(&self.sent));
        let state = self.state(&ticket);
        match state.take() {
            State::Queued {
                memory,
                file,
                waker,
                ..
            } => {
                state.fill(State::Done {
                    outcome: Outcome::Stopped,
                    memory,
                });
                Released {
                    wake: waker,
                    file: Some(file),
                    ..Released::default()
                }
            }
            other => unreachable!("{other:?} in the queue"),
        }
    }

    fn state(&mut self, ticket: &Ticket<F>) -> &mut State {
        // SAFETY: a ticket names a request that one of this table's lists owns, see there; no
        // `Box` of it is in anybody's hands meanwhile: those that leave a list go to another one,
        // or to `ready`, before the next look at a state.
        let request = unsafe { ticket.0.as_ref() };
        // SAFETY: all access to states is through `&mut` of the table, so this is the only one.
        unsafe { &mut *request.state.get() }
    }

    /// The request of `ticket` must be in `sent`.
    fn unlink_sent(&mut self, ticket: &Ticket<F>) -> Box<RequestOf<F>> {
        // SAFETY: the caller's word, kept by the states: all but `Ready` and `Queued` are there.
        let mut at = unsafe { self.sent.cursor_mut_from_ptr(ticket.0.as_ptr()) };
        at.remove()
            .unwrap_or_else(|| unreachable!("the cursor is on the request"))
    }

    /// The request of `ticket` must be in `queued`.
    fn unlink_queued(&mut self, ticket: &Ticket<F>) -> Box<RequestOf<F>> {
        self.queued_len -= 1;
        // SAFETY: the caller's word, kept by the states: `Queued` ones are there.
        let mut at = unsafe { self.queued.cursor_mut_from_ptr(ticket.0.as_ptr()) };
        at.remove()
            .unwrap_or_else(|| unreachable!("the cursor is on the request"))
    }
}

/// The request that was last pushed to the back of `list`.
fn newest<A, M, L>(list: &LinkedList<A>) -> NonNull<Request<M, L>>
where
    M: RawMutex,
    L: DefaultLinkOps<Ops = A::LinkOps> + Default,
    A: IntrusiveAdapter<M, L>,
    A::LinkOps: LinkedListOps + Default,
{
    match list.back().get() {
        Some(request) => NonNull::from(request),
        None => unreachable!("something was just pushed"),
    }
}

impl<F: Flavour> Ticket<F> {
    /// What the kernel hands back in the event.
    fn tag(&self) -> u64 {
        self.0.as_ptr().expose_provenance() as u64
    }

    /// For a tag of [`Ticket::tag`] whose request the kernel has; 0 is none.
    fn from_tag(tag: u64) -> Option<Ticket<F>> {
        NonNull::new(ptr::with_exposed_provenance_mut(tag as usize)).map(Ticket)
    }
}
