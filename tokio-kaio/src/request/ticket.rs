//! [`Ticket`], the name of a request, and [`Made`], which owns what tickets name.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use super::Flavour;
use super::request::Request;

type RequestOf<F> = Request<<F as Flavour>::Lock, <F as Flavour>::Link>;

/// A claim on a request of the table that gave it. A future's: it is not `Ready` and not
/// `Abandoned`, until [`Table::collect`](super::Table::collect) or
/// [`Table::withdraw`](super::Table::withdraw) takes the ticket back.
pub(crate) struct Ticket<F: Flavour>(pub(super) NonNull<RequestOf<F>>);

// SAFETY: a ticket is only the name of a request. What it names is reached through `&mut Table`,
// which is behind the context's lock.
unsafe impl<F: Flavour> Send for Ticket<F> {}
// SAFETY: as above.
unsafe impl<F: Flavour> Sync for Ticket<F> {}

impl<F: Flavour> Ticket<F> {
    pub(super) fn of(request: Box<RequestOf<F>>) -> Ticket<F> {
        Ticket(NonNull::from(Box::leak(request)))
    }

    /// What the kernel hands back in the event.
    pub(super) fn tag(&self) -> u64 {
        self.0.as_ptr().expose_provenance() as u64
    }

    /// For a tag of [`Ticket::tag`] whose request the kernel has; 0 is none.
    pub(super) fn from_tag(tag: u64) -> Option<Ticket<F>> {
        NonNull::new(ptr::with_exposed_provenance_mut(tag as usize)).map(Ticket)
    }
}

/// Owns requests until it is dropped.
pub(super) struct Made<F: Flavour> {
    requests: Vec<Ticket<F>>,
    /// A ticket alone is `Send`.
    owns: PhantomData<Box<RequestOf<F>>>,
}

impl<F: Flavour> Made<F> {
    pub(super) fn new() -> Made<F> {
        Made {
            requests: Vec::new(),
            owns: PhantomData,
        }
    }

    pub(super) fn one_more(&mut self) -> Ticket<F> {
        let ticket = Ticket::of(Box::new(Request::new()));
        self.requests.push(Ticket(ticket.0));
        ticket
    }

    pub(super) fn tickets(&self) -> impl Iterator<Item = Ticket<F>> {
        self.requests.iter().map(|ticket| Ticket(ticket.0))
    }
}

impl<F: Flavour> Drop for Made<F> {
    fn drop(&mut self) {
        for ticket in self.requests.drain(..) {
            // SAFETY: leaked by `one_more`, and dropped here only: the table has taken back what
            // was in its queue, and its tickets are worth nothing without it.
            drop(unsafe { Box::from_raw(ticket.0.as_ptr()) });
        }
    }
}
