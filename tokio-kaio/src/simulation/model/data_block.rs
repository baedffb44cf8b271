//! [`DataBlock`]: the versions of a block that a power cut may leave.

use std::ops::Range;
use std::sync::Arc;

use super::cut_choice::CutChoice;
use crate::simulation::seeded_rng::SeededRng;

/// The content of a block. `None`: zeroes.
pub(super) type BlockData = Option<Arc<[u8]>>;

/// A block of a file: its content, its durable content, and the writes since.
#[derive(Clone, Debug, Default)]
pub(super) struct DataBlock {
    current: BlockData,
    durable: BlockData,
    /// Writes that may be lost, in order, and durable ones that came after such writes.
    pending: Vec<Piece>,
    /// The newest write that `current` has, and that can't become durable any more.
    lost_at: Option<u64>,
    /// Whether the block counts as space of the file.
    pub(super) is_allocated: bool,
}

/// A write to a range of a block.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// The number of the change of the disk.
    pub(super) change: u64,
    /// First byte in the block.
    pub(super) start: usize,
    pub(super) len: usize,
    /// `len` bytes. `None`: zeroes.
    pub(super) data: BlockData,
    pub(super) durability: Durability,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// Lost, unless the disk has written it by itself.
    Volatile,
    /// Survives if the truncation does.
    WithTruncation,
    Durable,
}

/// Volatile writes that a block keeps. With more, the oldest one becomes durable: disks write their caches
/// back at any time.
const MAX_PIECES: usize = 16;

impl Piece {
    pub(super) fn range(&self) -> Range<usize> {
        self.start..self.start + self.len
    }

    fn is_whole(&self, block_size: usize) -> bool {
        self.len == block_size
    }
}

/// Puts bytes of `piece` into `content`.
fn apply(content: &mut BlockData, piece: &Piece, range: Range<usize>, block_size: usize) {
    if range.len() == block_size {
        content.clone_from(&piece.data);
        return;
    }
    if content.is_none() && piece.data.is_none() {
        return;
    }
    let content = content.get_or_insert_with(|| zeroes(block_size));
    let bytes = &mut Arc::make_mut(content)[range.clone()];
    match &piece.data {
        Some(data) => bytes.copy_from_slice(&data[range.start - piece.start..][..range.len()]),
        None => bytes.fill(0),
    }
}

fn zeroes(block_size: usize) -> Arc<[u8]> {
    std::iter::repeat_n(0, block_size).collect()
}

impl DataBlock {
    /// A block whose content is durable.
    pub(super) fn durable(content: BlockData) -> DataBlock {
        DataBlock {
            durable: content.clone(),
            current: content,
            is_allocated: true,
            ..DataBlock::default()
        }
    }

    pub(super) fn content(&self) -> Option<&[u8]> {
        self.current.as_deref()
    }

    /// Whether a power cut may leave another content.
    pub(super) fn is_dirty(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether the block is the same as none.
    pub(super) fn is_empty(&self) -> bool {
        !self.is_allocated
            && self.pending.is_empty()
            && self.current.is_none()
            && self.durable.is_none()
    }

    /// Widens `piece` to whole sectors of `sector` bytes, with the bytes that the block has there now. The page
    /// cache writes whole sectors: they have the bytes of earlier writes, too.
    pub(super) fn widen(&self, piece: Piece, sector: usize, block_size: usize) -> Piece {
        let Range { start, end } = piece.range();
        let (first, last) = (start / sector * sector, end.next_multiple_of(sector));
        let is_whole = first == start && last == end;
        // A truncation has its own way to survive.
        if is_whole || piece.durability == Durability::WithTruncation {
            return piece;
        }
        let mut content = self.current.clone();
        apply(&mut content, &piece, start..end, block_size);
        Piece {
            start: first,
            len: last - first,
            data: content.map(|content| Arc::from(&content[first..last])),
            ..piece
        }
    }

    /// Writes `piece`. Truncations up to the change `truncated` are durable. Returns the change that became
    /// durable, because the block has too many.
    pub(super) fn write(&mut self, piece: Piece, truncated: u64, block_size: usize) -> Option<u64> {
        apply(&mut self.current, &piece, piece.range(), block_size);
        let is_durable = piece.durability == Durability::Durable;
        self.pending.push(piece);
        if self.pending.len() > MAX_PIECES {
            let written_back = self.write_back_oldest(truncated);
            self.settle(block_size);
            return written_back;
        }
        if is_durable {
            self.settle(block_size);
        }
        None
    }

    /// Makes the data of writes up to `change` durable, and no truncations.
    pub(super) fn write_back(&mut self, change: u64, block_size: usize) {
        for piece in &mut self.pending {
            if piece.change <= change && piece.durability == Durability::Volatile {
                piece.durability = Durability::Durable;
            }
        }
        self.settle(block_size);
    }

    /// Makes the writes up to `change` durable.
    pub(super) fn sync(&mut self, change: u64, block_size: usize) {
        for piece in &mut self.pending {
            if piece.change <= change {
                piece.durability = Durability::Durable;
            }
        }
        self.settle(block_size);
    }

    /// Loses the volatile writes up to `change`: `current` keeps them, and no sync makes them durable.
    pub(super) fn lose(&mut self, change: u64, block_size: usize) {
        self.pending.retain(|piece| {
            let is_lost = piece.change <= change && piece.durability == Durability::Volatile;
            if is_lost {
                self.lost_at = self.lost_at.max(Some(piece.change));
            }
            !is_lost
        });
        self.settle(block_size);
    }

    /// The content that a power cut leaves. Truncations up to the change `truncated` have happened.
    pub(super) fn survive(
        &self,
        choice: &CutChoice,
        truncated: u64,
        block_size: usize,
        rng: &mut SeededRng,
    ) -> BlockData {
        let mut content = self.durable.clone();
        for piece in &self.pending {
            match piece.durability {
                Durability::Durable => apply(&mut content, piece, piece.range(), block_size),
                Durability::WithTruncation if piece.change <= truncated => {
                    apply(&mut content, piece, piece.range(), block_size);
                }
                Durability::WithTruncation => {}
                Durability::Volatile => {
                    for unit in units(piece.range(), choice.atomic_unit) {
                        if choice.keeps(piece.change, rng) {
                            apply(&mut content, piece, unit, block_size);
                        }
                    }
                }
            }
        }
        content
    }

    /// Adds the numbers of the writes that a power cut may lose.
    pub(super) fn volatile_changes(&self, changes: &mut Vec<u64>) {
        let pending = self.pending.iter();
        let volatile = pending.filter(|piece| piece.durability == Durability::Volatile);
        changes.extend(volatile.map(|piece| piece.change));
    }

    /// Moves what is durable out of `pending`.
    fn settle(&mut self, block_size: usize) {
        let is_durable = |piece: &Piece| piece.durability == Durability::Durable;
        if self.lost_at.is_none() && self.pending.iter().all(is_durable) {
            self.pending.clear();
            self.durable.clone_from(&self.current);
            return;
        }
        // What a durable write has replaced in full can't come back.
        let replaced = self
            .pending
            .iter()
            .rposition(|piece| is_durable(piece) && piece.is_whole(block_size));
        self.pending.drain(..replaced.unwrap_or(0));
        let durable = self
            .pending
            .iter()
            .position(|piece| !is_durable(piece))
            .unwrap_or(self.pending.len());
        for piece in self.pending.drain(..durable) {
            apply(&mut self.durable, &piece, piece.range(), block_size);
            if piece.is_whole(block_size) && self.lost_at < Some(piece.change) {
                self.lost_at = None;
            }
        }
    }

    /// Returns the change that became durable.
    fn write_back_oldest(&mut self, truncated: u64) -> Option<u64> {
        let mut pending = self.pending.iter_mut();
        let oldest = pending.find(|piece| piece.durability == Durability::Volatile);
        let written_back = oldest.map(|piece| {
            piece.durability = Durability::Durable;
            piece.change
        });
        for piece in &mut self.pending {
            if piece.durability == Durability::WithTruncation && piece.change <= truncated {
                piece.durability = Durability::Durable;
            }
        }
        written_back
    }
}

/// The parts of `range` in each atomic unit.
pub(super) fn units(range: Range<usize>, unit: usize) -> impl Iterator<Item = Range<usize>> {
    let mut next = range.start;
    std::iter::from_fn(move || {
        if next >= range.end {
            return None;
        }
        let start = next;
        next = range.end.min((start / unit + 1) * unit);
        Some(start..next)
    })
}
