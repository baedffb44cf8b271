//! [`Lanes`]: those of a batch that are not done, and which of them are worth a look.

use std::collections::VecDeque;
use std::mem;
use std::os::fd::RawFd;
use std::ptr;

use super::operation::Operation;
use super::shared::Shared;
use crate::request::{Flavour, Ticket};

/// Operations that wait, by their index, each in the lane of those that its context has go in order.
///
/// A look at each of them, whenever one is done, would take a large batch over few slots a time that
/// grows with the square of its size.
pub(super) struct Lanes<'a, F: Flavour> {
    all: Vec<Lane<'a, F>>,
    /// The one that had the last one put to it.
    latest: usize,
}

/// Those of one context that are no appends; or the appends to one of its files, which wait for one
/// another besides.
struct Lane<'a, F: Flavour> {
    shard: &'a Shared<F>,
    appends_to: Option<RawFd>,
    line: Line,
}

/// Operations whose requests leave the queue in the order in which they came.
///
/// One that the kernel had no room for goes back to the front of the queue, beside others that were
/// submitted after it. These are found when it is done, at the latest.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Those that nobody has looked at.
    new: Vec<usize>,
    /// Those that are in flight, or were.
    out: Vec<usize>,
    /// Those that were queued when they were looked at last.
    queued: VecDeque<usize>,
}

/// How far the request of an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Queued,
    Out,
    Done,
}

impl<'a, F: Flavour> Lanes<'a, F> {
    pub(super) fn new() -> Lanes<'a, F> {
        Lanes {
            all: Vec::new(),
            latest: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.iter().all(|lane| lane.line.is_empty())
    }

    /// `operation` has to wait, behind those that are here.
    pub(super) fn push(&mut self, index: usize, operation: &Operation<'a, 'a, F>) {
        let (shard, appends_to) = (operation.shard(), operation.appends_to());
        let is_its =
            |lane: &Lane<'a, F>| ptr::eq(lane.shard, shard) && lane.appends_to == appends_to;
        if !self.all.get(self.latest).is_some_and(is_its) {
            let found = self.all.iter().position(is_its);
            self.latest = found.unwrap_or(self.all.len());
        }
        if self.latest == self.all.len() {
            self.all.push(Lane {
                shard,
                appends_to,
                line: Line::default(),
            });
        }
        self.all[self.latest].line.new.push(index);
    }

    /// Takes out those that are done, and those without a `ticket`, which are to be asked themselves.
    pub(super) fn take_done<'t>(
        &mut self,
        ticket: impl Fn(usize) -> Option<&'t Ticket<F>>,
    ) -> Vec<usize>
    where
        F: 't,
    {
        let mut done = Vec::new();
        for Lane { shard, line, .. } in &mut self.all {
            if !line.is_empty() {
                shard.look_together(line, &ticket, &mut done);
            }
        }
        done
    }

    /// Takes out all, those that came first at the front of each lane.
    pub(super) fn take_all(&mut self) -> Vec<usize> {
        let lines = self.all.iter_mut().map(|lane| mem::take(&mut lane.line));
        lines
            .flat_map(|Line { new, out, queued }| out.into_iter().chain(queued).chain(new))
            .collect()
    }
}

impl Line {
    fn is_empty(&self) -> bool {
        self.new.is_empty() && self.out.is_empty() && self.queued.is_empty()
    }

    /// Moves those that are done to `done`. Of those that were queued it asks the ones that have left
    /// the queue since, and the first that has not; or `all`.
    pub(super) fn look(
        &mut self,
        all: bool,
        mut progress: impl FnMut(usize) -> Progress,
        done: &mut Vec<usize>,
    ) {
        let Line { new, out, queued } = self;
        out.retain(|&index| {
            let is_done = progress(index) == Progress::Done;
            if is_done {
                done.push(index);
            }
            !is_done
        });
        if all {
            new.splice(..0, queued.drain(..));
        }
        while let Some(&index) = queued.front() {
            match progress(index) {
                Progress::Queued => break,
                Progress::Out => out.push(index),
                Progress::Done => done.push(index),
            }
            queued.pop_front();
        }
        for index in new.drain(..) {
            match progress(index) {
                Progress::Queued => queued.push_back(index),
                Progress::Out => out.push(index),
                Progress::Done => done.push(index),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SLOTS: usize = 8;

    /// Has `count` operations done over [`SLOTS`], the youngest of those in flight first, with a look
    /// whenever one is; returns how often one was looked at.
    fn looks(count: usize) -> usize {
        let mut line = Line::default();
        line.new.extend(0..count);
        let mut in_flight: BTreeSet<_> = (0..SLOTS).collect();
        let (mut launched, mut looks) = (SLOTS, 0);
        let mut done = Vec::new();
        while let Some(landed) = in_flight.pop_last() {
            let before = done.len();
            let progress = |index| {
                looks += 1;
                match index {
                    _ if index >= launched => Progress::Queued,
                    _ if in_flight.contains(&index) => Progress::Out,
                    _ => Progress::Done,
                }
            };
            line.look(false, progress, &mut done);
            assert_eq!(done[before..], [landed]);
            in_flight.extend((launched < count).then_some(launched));
            launched += 1;
        }
        assert!(line.is_empty());
        assert_eq!(BTreeSet::from_iter(done), (0..count).collect());
        looks
    }

    #[test]
    fn one_of_a_larger_batch_is_not_looked_at_more_often() {
        for count in [1000, 8000] {
            let each = looks(count) / count;
            assert!(each <= SLOTS + 2, "{each} looks at each of {count}");
        }
    }

    #[test]
    fn all_are_looked_at_where_they_may_be_done_in_any_order() {
        let mut line = Line::default();
        line.new.extend(0..5);
        let mut done = Vec::new();
        line.look(false, |_| Progress::Queued, &mut done);
        let stopped = |index| match index {
            4 | 2 => Progress::Done,
            0 => Progress::Out,
            _ => Progress::Queued,
        };
        line.look(true, stopped, &mut done);
        assert_eq!(done, [2, 4]);
        assert_eq!((line.out, line.queued), (vec![0], VecDeque::from([1, 3])));
    }
}
