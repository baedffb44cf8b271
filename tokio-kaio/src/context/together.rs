//! Requests that come together, and go to the kernel in one call.

use std::mem;

use super::admission::{Admitted, Arrival, Company};
use super::aftermath::Aftermath;
use super::counts::Look;
use super::descriptor::Descriptor;
use super::lanes::{Line, Progress};
use super::route::Route;
use super::shared::{Shared, tell_if_slow};
use super::state::{Phase, State};
use crate::AioCommandError;
use crate::request::{Flavour, Memory, Order, Outcome, Parcel, Ticket};
use crate::sys::abi::Iocb;

/// One of several requests.
pub(super) struct Member<'a, F: Flavour> {
    /// Which of the operations it is of.
    pub(super) index: usize,
    pub(super) arrival: Arrival,
    pub(super) descriptor: Descriptor<'a>,
    pub(super) fate: Fate<F>,
}

impl<F: Flavour> Member<'_, F> {
    fn is_launched(&self) -> bool {
        matches!(self.fate, Fate::Launched(_))
    }
}

/// What became of one of several requests.
pub(super) enum Fate<F: Flavour> {
    /// It has to be tried by itself, with all that it had.
    Alone,
    /// It did not come in.
    Refused(AioCommandError),
    /// It waits, or goes by another way.
    Queued(Ticket<F>),
    /// It is in flight.
    Launched(Ticket<F>),
    Done(Outcome, Memory),
}

impl<F: Flavour> Shared<F> {
    /// Takes in new requests, and hands to the kernel, in one call, those that need not wait.
    pub(super) fn send_together(&self, members: &mut [Member<'_, F>]) {
        let mut iocbs = Vec::with_capacity(members.len());
        let route = self.with(|state, aftermath| {
            state.table.make_ready(members.len()); // nothing panics between launch and submission
            state.admit_together(members, &mut iocbs, aftermath)
        });
        let Some(route) = route else {
            return;
        };
        let mut refused = Vec::new();
        let (sent, effort) =
            self.submit(&route, &mut iocbs, |tag, errno| refused.push((tag, errno)));
        let launched = || members.iter().filter(|m| m.is_launched()).zip(&iocbs);
        if let Some(stay) = route.is_news(effort.as_ref()) {
            for (member, iocb) in launched() {
                member.descriptor.submitted(&Order::of(iocb), stay);
            }
        }
        let unsent = launched().skip(sent);
        let mut unsent: Vec<_> = unsent
            .map(|(member, iocb)| (*iocb, member.descriptor.hold()))
            .collect();
        unsent.reverse(); // last first
        let taken = sent - refused.len();
        self.with(|state, aftermath| {
            state.submitting -= 1;
            state.counts.submissions.made(taken, effort.as_ref());
            for (tag, errno) in refused {
                state.refuse(tag, errno, aftermath);
            }
            let reaped = state.reaped_since(&route, aftermath);
            let mut parcels = Vec::with_capacity(unsent.len());
            for (iocb, file) in unsent {
                match file {
                    Ok(file) => parcels.push(Parcel::new(iocb, file)),
                    Err(_) => state.refuse(iocb.data, libc::EAGAIN, aftermath),
                }
            }
            state.put_back(parcels, reaped, aftermath);
            state.sent(&iocbs[..sent], &route, aftermath);
            state.cancel_strays(&iocbs);
            for Member { fate, arrival, .. } in members.iter_mut() {
                *fate = match mem::replace(fate, Fate::Alone) {
                    Fate::Launched(ticket) => match state.table.collect(ticket) {
                        Ok((outcome, memory)) => Fate::Done(outcome, memory),
                        Err(ticket) => {
                            let waker = arrival.waker.take();
                            arrival.waker = waker.and_then(|w| state.table.rewake(&ticket, w));
                            Fate::Launched(ticket)
                        }
                    },
                    other => other,
                };
            }
        });
        tell_if_slow(taken, effort.as_ref());
    }

    /// Moves those of `line` that are done to `done`; see [`Line::look`].
    pub(super) fn look_together<'t>(
        &self,
        line: &mut Line,
        ticket: impl Fn(usize) -> Option<&'t Ticket<F>>,
        done: &mut Vec<usize>,
    ) where
        F: 't,
    {
        self.with(|state, aftermath| {
            state.reap_all(Look::Poll, aftermath);
            let all = !matches!(state.phase, Phase::Open(_)); // the youngest are turned away first
            let progress = |index| match ticket(index) {
                Some(ticket) if state.table.is_queued(ticket) => Progress::Queued,
                Some(ticket) if !state.table.is_done(ticket) => Progress::Out,
                _ => Progress::Done,
            };
            line.look(all, progress, done);
        });
    }
}

impl<F: Flavour> State<F> {
    /// Those that go to the kernel now are put to `iocbs`, for one call. `None`: there are none.
    fn admit_together(
        &mut self,
        members: &mut [Member<'_, F>],
        iocbs: &mut Vec<Iocb>,
        aftermath: &mut Aftermath<F::Kernel>,
    ) -> Option<Route> {
        let mut all: Option<Route> = None;
        let may_wait = self.limits.waits; // else another context may have a slot
        for member in members {
            let company = match &all {
                None => Company::First,
                Some(route) => Company::Further(route.launch),
            };
            let (arrival, descriptor) = (&mut member.arrival, &member.descriptor);
            member.fate = match self.admit(arrival, descriptor, may_wait, company, aftermath) {
                Admitted::Launched(ticket, route) => {
                    iocbs.push(arrival.iocb);
                    match &mut all {
                        None => all = Some(route),
                        Some(all) => {
                            self.submitting -= 1; // it is one submission
                            all.quiet &= route.quiet;
                            all.closely |= route.closely;
                        }
                    }
                    Fate::Launched(ticket)
                }
                Admitted::Queued(ticket) => Fate::Queued(ticket),
                Admitted::Refused(error) => Fate::Refused(error),
                Admitted::WantsFile | Admitted::Full => Fate::Alone,
            };
        }
        all
    }
}
