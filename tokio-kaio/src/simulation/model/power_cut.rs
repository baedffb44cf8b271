//! The power cut: what it leaves.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cut_choice::CutChoice;
use super::disk_config::DiskConfig;
use super::disk_image::{DiskImage, ImageContent, ImageNode};
use super::disk_request::{Inode, Now};
use super::disk_state::DiskState;
use super::disk_trace::TraceKind;
use super::file_content::FileContent;
use crate::simulation::seeded_rng::{RandomUse, SeededRng};

impl DiskState {
    /// Cuts the power. All later calls and requests fail with `EIO`, also those in flight.
    ///
    /// If the power is off already, returns what that cut has left.
    pub(crate) fn power_cut(&mut self, now: Now) -> DiskImage {
        if !self.is_off {
            self.cut_power(now.0);
        }
        self.image.clone().expect("a power cut leaves an image")
    }

    /// Cuts the power after this event; at once, if there are that many already.
    pub(crate) fn cut_power_after(&mut self, now: Now, event: u64) {
        self.cut_after = Some(event);
        if event <= self.events() && !self.is_off {
            self.cut_power(now.0);
        }
    }

    /// What the power cut has left. `None`: the power is on.
    pub(crate) fn power_cut_image(&self) -> Option<&DiskImage> {
        self.image.as_ref()
    }

    pub(super) fn cut_power(&mut self, at: Duration) {
        let seed = self.cuts.next();
        self.image = Some(self.image(seed));
        self.is_off = true;
        self.flights.clear();
        let most = self.config.trace_events;
        self.trace.push(at, TraceKind::PowerCut, most);
    }

    /// What a power cut now could leave, by `seed`. The disk goes on.
    pub(crate) fn image(&self, seed: u64) -> DiskImage {
        let rng = &mut SeededRng::new(seed, RandomUse::PowerCut);
        let interrupted = self.interrupt_requests(rng);
        let content = |inode| {
            let content = interrupted.get(&inode);
            content.map_or_else(|| self.tree.content(inode).ok(), Some)
        };
        let names = self.tree.survive(rng);
        let ordered = (!self.config.reorder).then(|| self.last_survivor(&interrupted, rng));
        let unit = self.config.atomic_unit as usize;
        let mut nodes = BTreeMap::new();
        for entries in names.values() {
            for &inode in entries.values() {
                let Some(content) = content(inode).filter(|_| !nodes.contains_key(&inode)) else {
                    continue;
                };
                let choice = match ordered {
                    Some(last) => CutChoice::ordered(unit, last, rng),
                    None => CutChoice::unordered(unit, rng),
                };
                let survived = content.survive(&choice, self.config.sector.into(), rng);
                nodes.insert(inode, ImageNode::File(survived));
            }
        }
        let directories = names.into_iter();
        nodes.extend(directories.map(|(inode, entries)| (inode, ImageNode::Directory(entries))));
        let next_seed = SeededRng::new(seed, RandomUse::NextDisk).next();
        DiskImage::new(ImageContent {
            config: DiskConfig {
                seed: next_seed,
                ..self.config.clone()
            },
            block_size: self.tree.block_size(),
            nodes,
            next_inode: self.tree.next_inode(),
        })
    }

    /// The files that requests in flight change, with these changes, in any order. None is durable.
    fn interrupt_requests(&self, rng: &mut SeededRng) -> BTreeMap<Inode, FileContent> {
        let flights = self.flights.values();
        let mut flights: Vec<_> = flights.filter(|flight| flight.changes_file()).collect();
        if self.config.reorder {
            rng.shuffle(&mut flights);
        }
        let mut interrupted = BTreeMap::new();
        for (change, flight) in (self.last_change + 1..).zip(flights) {
            let Ok(content) = self.tree.content(flight.inode) else {
                continue;
            };
            let content = interrupted
                .entry(flight.inode)
                .or_insert_with(|| content.clone());
            let block_size = self.tree.block_size();
            flight.clone().interrupt(content, change, block_size);
        }
        interrupted
    }

    /// The change up to which changes survive, if they survive in order.
    fn last_survivor(
        &self,
        interrupted: &BTreeMap<Inode, FileContent>,
        rng: &mut SeededRng,
    ) -> u64 {
        let mut volatile = Vec::new();
        for (inode, content) in self.tree.files() {
            let content = interrupted.get(&inode).unwrap_or(content);
            content.volatile_changes(&mut volatile);
        }
        volatile.sort_unstable();
        volatile.dedup();
        let survivors = rng.below(volatile.len() as u64 + 1) as usize;
        volatile.get(survivors).copied().unwrap_or(u64::MAX)
    }
}
