//! What becomes of requests in flight: done, refused, or back in the queue.

use std::mem;
use std::os::fd::AsRawFd;

use super::request::{Again, Due, Flight, Outcome, Refusal, Released, Standing, State};
use super::table::Table;
use super::ticket::Ticket;
use super::{Flavour, Memory, Order, Parcel};

/// What an event, or a refusal, was to a request.
pub(crate) enum Landing {
    /// It is done.
    Done,
    /// The kernel would have had to wait, or has served a part: it is to go from the pool, all of it.
    Again(Parcel, Refusal),
    /// It was none of this table's.
    Nothing,
}

impl<F: Flavour> Table<F> {
    /// *In flight → queued*, at the front: the kernel has no room for it now. One that was
    /// abandoned meanwhile is done with instead.
    pub(crate) fn requeue(&mut self, parcel: Parcel, released: &mut Released) {
        let Parcel { iocb, file, .. } = parcel;
        let Some(ticket) = Ticket::from_tag(iocb.data) else {
            return released.drop(None, Memory::None, Some(file));
        };
        let life = self.life(&ticket);
        let due = life.due.take();
        match life.state.take() {
            State::InFlight {
                memory,
                flight,
                waker,
            } => {
                let (order, standing) = match due {
                    Some(Due::Again(again)) => (again.order, Standing::Free),
                    Some(Due::NextAppend(_)) => (Order::of_both(&iocb, &memory), Standing::Next),
                    None => (Order::of_both(&iocb, &memory), Standing::Free),
                };
                life.state.fill(State::Queued {
                    order,
                    memory,
                    file,
                    standing,
                    waker,
                });
                self.landed(flight);
                let request = self.listed(&ticket);
                self.push_front(request);
            }
            State::Abandoned { memory, flight } => {
                self.abandoned -= 1;
                self.landed(flight);
                self.is_over(&ticket, released);
                self.ready.push(ticket);
                if let Some(Due::NextAppend(file)) = due {
                    self.next_append(&file);
                }
                released.drop(None, memory, Some(file));
            }
            other => unreachable!("{other:?} was just being submitted"),
        }
    }

    /// *In flight → done*, or *abandoned → ready*. `tag` is the `data` of an event or of an iocb
    /// that was refused.
    ///
    /// An attempt that the kernel refused stays in flight; it is given back to go from the pool.
    #[inline(always)]
    pub(crate) fn complete(
        &mut self,
        tag: u64,
        outcome: Outcome,
        released: &mut Released,
    ) -> Landing {
        let Some(ticket) = Ticket::from_tag(tag) else {
            return Landing::Nothing;
        };
        match self.life(&ticket).due.take() {
            None => self.land(ticket, outcome, released),
            Some(due) => self.land_with(due, ticket, outcome, released),
        }
    }

    #[inline(never)]
    fn land_with(
        &mut self,
        due: Due,
        ticket: Ticket<F>,
        outcome: Outcome,
        released: &mut Released,
    ) -> Landing {
        match due {
            Due::Again(again) => self.land_attempt(ticket, again, outcome, released),
            Due::NextAppend(file) => {
                self.next_append(&file);
                released.drop_file(file);
                self.land(ticket, outcome, released)
            }
        }
    }

    #[inline(always)]
    fn land(&mut self, ticket: Ticket<F>, outcome: Outcome, released: &mut Released) -> Landing {
        let state = self.state(&ticket);
        match state.take() {
            State::InFlight {
                memory,
                flight,
                waker,
            } => {
                state.fill(State::Done { outcome, memory });
                self.landed(flight);
                self.took(&ticket);
                self.is_over(&ticket, released);
                released.wake(waker);
                Landing::Done
            }
            State::Abandoned { memory, flight } => {
                self.abandoned -= 1;
                self.landed(flight);
                self.took(&ticket);
                self.is_over(&ticket, released);
                self.ready.push(ticket);
                released.drop(None, memory, None);
                Landing::Done
            }
            // A second event for one request, which no kernel is known to send.
            other => {
                state.fill(other);
                Landing::Nothing
            }
        }
    }

    fn land_attempt(
        &mut self,
        ticket: Ticket<F>,
        again: Again,
        outcome: Outcome,
        released: &mut Released,
    ) -> Landing {
        let refusal = again.refusal(outcome);
        let Again {
            order,
            file,
            class,
            probe,
        } = again;
        let habit = file.habit(class);
        let Some(refusal) = refusal else {
            if matches!(outcome, Outcome::Completed(_)) {
                habit.taken(probe);
            }
            released.drop_file(file);
            return self.land(ticket, outcome, released);
        };
        match refusal {
            Refusal::WouldWait => habit.refused(false),
            Refusal::FlagUnknown => habit.refused(true),
            // They tell nothing of the next attempt.
            Refusal::SomeFlagUnknown | Refusal::Short => {}
        }
        let next = self.pooled_flight(file.known_as());
        let (State::InFlight { memory, flight, .. } | State::Abandoned { memory, flight }) =
            self.state(&ticket)
        else {
            return Landing::Nothing; // an attempt is one of these
        };
        let iocb = order.iocb(file.as_raw_fd(), memory, ticket.tag());
        let refused = mem::replace(flight, next);
        self.overlooked -= usize::from(refused.overlooked);
        let parcel = Parcel {
            counted: matches!(outcome, Outcome::Completed(_)),
            ..Parcel::new(iocb, file)
        };
        Landing::Again(parcel, refusal)
    }

    /// The kernel is done with a request.
    fn took(&mut self, ticket: &Ticket<F>) {
        if self.latency.is_none() {
            return;
        }
        let since = self.life(ticket).since.take();
        if let (Some(latency), Some(since)) = (&mut self.latency, since) {
            latency.record(since.elapsed());
        }
    }

    /// The kernel no longer has a request that it had.
    pub(super) fn landed(&mut self, flight: Flight) {
        self.in_flight -= 1;
        self.overlooked -= usize::from(flight.overlooked);
    }
}
