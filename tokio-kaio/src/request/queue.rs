//! The requests of a table that wait to go to the kernel, in their lists.
//!
//! Appends to one file go one after another. The one that is out has the table's turn on the file
//! ([`OpenFile::begin_append`]) and passes it on when it is done: to the oldest one that is held behind
//! it, which is the next to go, or to whichever comes.
#![allow(unsafe_code)]

use std::sync::Arc;

use super::request::{Due, Request, Standing, State};
use super::table::Table;
use super::ticket::Ticket;
use super::{Flavour, OpenFile};

type RequestOf<F> = Request<<F as Flavour>::Lock, <F as Flavour>::Link>;

impl<F: Flavour> Table<F> {
    /// Whether it still waits to go to the kernel.
    pub(crate) fn is_queued(&mut self, ticket: &Ticket<F>) -> bool {
        matches!(self.state(ticket), State::Queued { .. })
    }

    /// An append goes out whose turn it is.
    pub(super) fn begin_append(&mut self, ticket: &Ticket<F>, file: &Arc<OpenFile>) {
        if file.begin_append(self.number) {
            self.life(ticket).due = Some(Due::NextAppend(Arc::clone(file)));
        }
    }

    /// An append to `file` is done with: it is the turn of the oldest one that is held behind it.
    pub(super) fn next_append(&mut self, file: &Arc<OpenFile>) {
        let mut at = self.held.front_mut();
        while let Some(request) = at.get() {
            // SAFETY: it is in a list of the table's, and its state looked at nowhere else while
            // `&mut self` is here.
            let life = unsafe { &*request.life.get() };
            match &life.state {
                State::Queued { file: of, .. } if Arc::ptr_eq(of, file) => break,
                _ => at.move_next(),
            }
        }
        let Some(request) = at.remove() else {
            return file.end_append(self.number);
        };
        self.held_len -= 1;
        let ticket = Ticket::of(request);
        self.stand(&ticket, Standing::Next);
        let request = self.listed(&ticket);
        self.push_front(request);
    }

    fn stand(&mut self, ticket: &Ticket<F>, now: Standing) {
        if let State::Queued { standing, .. } = self.state(ticket) {
            *standing = now;
        }
    }

    /// The oldest request in `queued` that may go. Appends that may not are held.
    #[inline]
    pub(super) fn pop_launchable(&mut self) -> Option<Ticket<F>> {
        loop {
            let request = self.queued.pop_front()?;
            self.queued_len -= 1;
            let ticket = Ticket::of(request);
            let appends = matches!(
                self.state(&ticket),
                State::Queued { order, .. } if order.appends()
            );
            if !appends || self.has_its_turn(&ticket) {
                return Some(ticket);
            }
            let request = self.listed(&ticket);
            self.hold(request);
        }
    }

    /// Whether an append that was queued may go now. If so, it has the turn.
    #[inline(never)]
    fn has_its_turn(&mut self, ticket: &Ticket<F>) -> bool {
        let number = self.number;
        let life = self.life(ticket);
        let State::Queued { file, standing, .. } = &life.state else {
            return true;
        };
        let has_it = *standing == Standing::Next || file.begin_append(number);
        if has_it {
            life.due = Some(Due::NextAppend(Arc::clone(file)));
        }
        has_it
    }

    /// The youngest request that is queued. An append that is next is older than those behind it.
    pub(super) fn pop_back(&mut self) -> Option<Ticket<F>> {
        if self.held_len == 0 || !self.is_next_the_last() {
            if let Some(request) = self.queued.pop_back() {
                self.queued_len -= 1;
                return Some(Ticket::of(request));
            }
        }
        let request = self.held.pop_back()?;
        self.held_len -= 1;
        Some(Ticket::of(request))
    }

    /// Whether the last one in `queued` is an append whose turn it is.
    fn is_next_the_last(&self) -> bool {
        let Some(request) = self.queued.back().get() else {
            return false;
        };
        // SAFETY: as in `next_append`; and nobody changes it while `&self` is here.
        let life = unsafe { &*request.life.get() };
        matches!(
            life.state,
            State::Queued {
                standing: Standing::Next,
                ..
            }
        )
    }

    pub(super) fn push_back(&mut self, request: Box<RequestOf<F>>) {
        self.queued_len += 1;
        self.queued.push_back(request);
    }

    pub(super) fn push_front(&mut self, request: Box<RequestOf<F>>) {
        self.queued_len += 1;
        self.queued.push_front(request);
    }

    /// For an append, behind others.
    pub(super) fn hold(&mut self, request: Box<RequestOf<F>>) {
        let ticket = Ticket::of(request);
        self.stand(&ticket, Standing::Behind);
        self.held_len += 1;
        let request = self.listed(&ticket);
        self.held.push_back(request);
    }

    /// The request of `ticket`, for one of the lists; it must be in none. What comes out of a list is
    /// made a ticket again, or dropped never.
    pub(super) fn listed(&mut self, ticket: &Ticket<F>) -> Box<RequestOf<F>> {
        // SAFETY: made by `Box::into_raw` and kept by the table, which takes what comes out of its
        // lists for tickets, so that none is dropped.
        unsafe { Box::from_raw(ticket.0.as_ptr()) }
    }

    /// Takes a request out of the list that it is in by its standing.
    pub(super) fn unlink(&mut self, ticket: &Ticket<F>, standing: Standing) {
        let (list, len) = match standing {
            Standing::Behind => (&mut self.held, &mut self.held_len),
            Standing::Free | Standing::Next => (&mut self.queued, &mut self.queued_len),
        };
        // SAFETY: `Queued` requests are in the list that their standing says.
        let mut at = unsafe { list.cursor_mut_from_ptr(ticket.0.as_ptr()) };
        if let Some(request) = at.remove() {
            *len -= 1;
            Ticket::<F>::of(request);
        }
    }
}
