//! Drains: who waits for the requests of a file that were made before.

use std::collections::HashSet;
use std::task::Waker;

use super::Flavour;
use super::open_file::KnownAs;
use super::request::{Released, State};
use super::table::Table;
use super::ticket::Ticket;

/// The drains of a table that are under way: those that are done are not in it, also if nobody has
/// looked.
#[derive(Debug, Default)]
pub(super) struct Drains {
    all: Vec<Drain>,
    latest: u64,
}

#[derive(Debug)]
struct Drain {
    name: u64,
    /// What it waits for, by their tags.
    left: HashSet<u64>,
    waker: Option<Waker>,
}

impl<F: Flavour> Table<F> {
    /// Begins to wait for the requests on `drained`, those that are queued, and those that the kernel
    /// has, with a future or without. `None`: there are none.
    pub(crate) fn begin_drain(&mut self, drained: KnownAs) -> Option<u64> {
        let tickets: Vec<_> = self.made.tickets().collect();
        let is_out = |ticket: &Ticket<F>| match self.state(ticket) {
            State::Queued { file, .. } => file.known_as().may_be_of(drained),
            State::InFlight { flight, .. } | State::Abandoned { flight, .. } => {
                flight.file.may_be_of(drained)
            }
            State::Ready | State::Done { .. } => false,
        };
        let left: HashSet<_> = tickets
            .into_iter()
            .filter(is_out)
            .map(|t| t.tag())
            .collect();
        if left.is_empty() {
            return None;
        }
        let drains = &mut self.drains;
        drains.latest += 1;
        drains.all.push(Drain {
            name: drains.latest,
            left,
            waker: None,
        });
        Some(drains.latest)
    }

    /// Whether what `name` waits for is done. If not, `waker` is woken when it is; gives back the one
    /// that is not needed.
    pub(crate) fn is_drained(&mut self, name: u64, waker: Waker) -> (bool, Option<Waker>) {
        match self.drains.all.iter_mut().find(|drain| drain.name == name) {
            Some(drain) => (false, drain.waker.replace(waker)),
            None => (true, Some(waker)),
        }
    }

    /// Nobody waits for `name` any more.
    pub(crate) fn end_drain(&mut self, name: u64) -> Option<Waker> {
        let drains = &mut self.drains.all;
        let position = drains.iter().position(|drain| drain.name == name)?;
        drains.swap_remove(position).waker
    }

    /// A request is neither queued nor in flight any more.
    #[inline(always)]
    pub(super) fn is_over(&mut self, ticket: &Ticket<F>, released: &mut Released) {
        if !self.drains.all.is_empty() {
            self.drains.is_over(ticket.tag(), released);
        }
    }

    /// The same of all requests.
    pub(super) fn all_are_over(&mut self, released: &mut Released) {
        for drain in self.drains.all.drain(..) {
            released.wake(drain.waker);
        }
    }
}

impl Drains {
    #[cold]
    fn is_over(&mut self, tag: u64, released: &mut Released) {
        self.all.retain_mut(|drain| {
            let is_done = drain.left.remove(&tag) && drain.left.is_empty();
            if is_done {
                released.wake(drain.waker.take());
            }
            !is_done
        });
    }
}
