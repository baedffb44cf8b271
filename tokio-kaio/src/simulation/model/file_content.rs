//! [`FileContent`]: the data and the length of a file, with what a power cut may leave of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::block_set::BlockSet;
use super::cut_choice::CutChoice;
use super::data_block::{DataBlock, Durability, Piece};
use super::disk_request::AllocateKind;
use super::size_history::SizeHistory;
use crate::simulation::seeded_rng::SeededRng;

/// The content of a file, in blocks. Its memory is in proportion to what was written.
#[derive(Clone, Debug)]
pub(super) struct FileContent {
    /// Bytes. A power of two.
    block_size: usize,
    /// Bytes. A power of two, at most a block.
    sector: usize,
    blocks: BTreeMap<u64, DataBlock>,
    /// Blocks with writes that are not durable. May have others.
    dirty: BTreeSet<u64>,
    /// Blocks that are allocated, and not written.
    unwritten: BlockSet,
    /// Blocks in `blocks` that are allocated.
    written: u64,
    len: u64,
    sizes: SizeHistory,
    /// The last change that a block has written back by itself.
    written_back: Option<u64>,
}

/// The data of a write that lies in one block.
#[derive(Clone, Debug)]
pub(super) struct BlockPart {
    pub(super) block: u64,
    /// First byte in the block.
    pub(super) start: usize,
    pub(super) data: Arc<[u8]>,
}

/// What survives a power cut of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct SurvivingContent {
    pub(super) len: u64,
    pub(super) blocks: BTreeMap<u64, Arc<[u8]>>,
}

const ZEROES: [u8; 4096] = [0; 4096];

impl FileContent {
    pub(super) fn new(block_size: usize, sector: usize) -> FileContent {
        FileContent::durable(block_size, sector, &SurvivingContent::default())
    }

    /// The content of a file after a power cut.
    pub(super) fn durable(
        block_size: usize,
        sector: usize,
        survived: &SurvivingContent,
    ) -> FileContent {
        let blocks = survived.blocks.iter();
        let blocks: BTreeMap<u64, DataBlock> = blocks
            .map(|(&number, data)| (number, DataBlock::durable(Some(data.clone()))))
            .collect();
        FileContent {
            block_size,
            sector,
            dirty: BTreeSet::new(),
            unwritten: BlockSet::default(),
            written: blocks.len() as u64,
            blocks,
            len: survived.len,
            sizes: SizeHistory::new(survived.len),
            written_back: None,
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The shortest length that a power cut may leave.
    pub(super) fn shortest_len(&self) -> u64 {
        self.sizes.shortest()
    }

    /// Blocks that count as space of the file.
    pub(super) fn allocated(&self) -> u64 {
        self.written + self.unwritten.len()
    }

    pub(super) fn is_allocated(&self, block: u64) -> bool {
        let is_written = |block: &DataBlock| block.is_allocated;
        self.blocks.get(&block).is_some_and(is_written) || self.unwritten.contains(block)
    }

    /// The blocks that have data, ascending.
    pub(super) fn written_blocks(&self) -> impl Iterator<Item = u64> {
        let blocks = self.blocks.iter();
        let written = blocks.filter(|(_, block)| block.is_allocated);
        written.map(|(&number, _)| number)
    }

    /// The blocks of `range` that a write would have to allocate.
    pub(super) fn missing(&self, range: Range<u64>) -> u64 {
        let blocks = self.blocks_of(&range);
        let written = self.blocks.range(blocks.clone());
        let written = written.filter(|(_, block)| block.is_allocated).count() as u64;
        blocks.end - blocks.start - written - self.unwritten.count(blocks)
    }

    /// Divides the data of a write at `offset` into blocks. Copies it.
    pub(super) fn divide(block_size: usize, offset: u64, data: &[&[u8]]) -> Vec<BlockPart> {
        let len: usize = data.iter().map(|piece| piece.len()).sum();
        let first = offset / block_size as u64;
        let mut start = (offset % block_size as u64) as usize;
        let mut parts = Vec::with_capacity((start + len).div_ceil(block_size));
        let mut pieces = data.iter();
        let mut rest: &[u8] = &[];
        let mut left = len;
        while left > 0 {
            let part = left.min(block_size - start);
            while rest.is_empty() {
                rest = pieces
                    .next()
                    .expect("`left` counts the bytes of the pieces");
            }
            let data = if part <= rest.len() {
                let (head, tail) = rest.split_at(part);
                rest = tail;
                Arc::from(head)
            } else {
                let mut gathered = Vec::with_capacity(part);
                while gathered.len() < part {
                    if rest.is_empty() {
                        rest = pieces
                            .next()
                            .expect("`left` counts the bytes of the pieces");
                    }
                    let (head, tail) = rest.split_at(rest.len().min(part - gathered.len()));
                    gathered.extend_from_slice(head);
                    rest = tail;
                }
                Arc::from(gathered)
            };
            let block = first + parts.len() as u64;
            parts.push(BlockPart { block, start, data });
            start = 0;
            left -= part;
        }
        parts
    }

    /// Passes the bytes from `offset` to the end of the file, at most `len`, to `read_into`, each with its
    /// distance from `offset`. Returns their number.
    pub(super) fn read(
        &self,
        offset: u64,
        len: u64,
        read_into: &mut dyn FnMut(usize, &[u8]),
    ) -> usize {
        let len = len.min(self.len.saturating_sub(offset));
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let block = at / self.block_size as u64;
            let start = (at % self.block_size as u64) as usize;
            let part = (end - at).min((self.block_size - start) as u64) as usize;
            let done = (at - offset) as usize;
            match self.blocks.get(&block).and_then(DataBlock::content) {
                Some(data) => read_into(done, &data[start..start + part]),
                None => {
                    for from in (0..part).step_by(ZEROES.len()) {
                        let zeroes = &ZEROES[..ZEROES.len().min(part - from)];
                        read_into(done + from, zeroes);
                    }
                }
            }
            at += part as u64;
        }
        len as usize
    }

    /// Writes `parts`, as the change `change` of the disk. Leaves the length as it is.
    pub(super) fn write(&mut self, change: u64, parts: Vec<BlockPart>, durability: Durability) {
        for BlockPart { block, start, data } in parts {
            let len = data.len();
            let data = Some(data);
            self.write_piece(
                block,
                Piece {
                    change,
                    start,
                    len,
                    data,
                    durability,
                },
            );
        }
    }

    /// Extends the file to `len` bytes, if it is shorter.
    pub(super) fn extend(&mut self, change: u64, len: u64) {
        if self.len < len {
            self.sizes.push(change, self.len, len);
            self.len = len;
        }
    }

    pub(super) fn set_len(&mut self, change: u64, len: u64) {
        if len < self.len {
            self.sizes.push(change, self.len, len);
            self.zero(change, len..u64::MAX, Durability::WithTruncation, false);
            self.len = len;
        } else {
            self.extend(change, len);
        }
    }

    pub(super) fn allocate(&mut self, change: u64, kind: AllocateKind, range: Range<u64>) {
        let blocks = self.blocks_of(&range);
        match kind {
            AllocateKind::Extend | AllocateKind::KeepSize => {}
            AllocateKind::PunchHole => {
                self.zero(change, range, Durability::Volatile, false);
                return;
            }
            AllocateKind::ZeroRange | AllocateKind::ZeroRangeKeepSize => {
                self.zero(change, range.clone(), Durability::Volatile, true);
            }
        }
        let allocated: Vec<u64> = self
            .blocks
            .range(blocks.clone())
            .filter(|(_, block)| block.is_allocated)
            .map(|(&number, _)| number)
            .collect();
        self.unwritten.insert(blocks);
        for block in allocated {
            self.unwritten.remove(block..block + 1);
        }
        if matches!(kind, AllocateKind::Extend | AllocateKind::ZeroRange) {
            self.extend(change, range.end);
        }
    }

    /// Makes the changes up to `change` durable. The length was `len` then.
    pub(super) fn sync(&mut self, change: u64, len: u64) {
        self.sizes.sync(change, len);
        self.settle(|block, block_size| block.sync(change, block_size));
    }

    /// Makes the length durable, and with it truncations.
    pub(super) fn sync_len(&mut self, change: u64) {
        self.sizes.sync(change, self.len);
    }

    /// Returns the last change that a block has written back by itself, since the last call.
    pub(super) fn take_written_back(&mut self) -> Option<u64> {
        self.written_back.take()
    }

    /// Makes the data of changes up to `change` durable, as the write-back of a cache does.
    pub(super) fn write_back(&mut self, change: u64) {
        self.settle(|block, block_size| block.write_back(change, block_size));
    }

    /// Loses the volatile writes up to `change`: reads still see them, and no sync makes them durable.
    pub(super) fn lose(&mut self, change: u64) {
        self.settle(|block, block_size| block.lose(change, block_size));
    }

    /// What a power cut leaves.
    pub(super) fn survive(
        &self,
        choice: &CutChoice,
        sector: u64,
        rng: &mut SeededRng,
    ) -> SurvivingContent {
        let size = self.sizes.survive(rng, sector);
        let mut blocks = BTreeMap::new();
        for (&number, block) in &self.blocks {
            let survived = block.survive(choice, size.change, self.block_size, rng);
            let start = number.saturating_mul(self.block_size as u64);
            let Some(mut data) = survived.filter(|_| start < size.len) else {
                continue;
            };
            let end = (size.len - start).min(self.block_size as u64) as usize;
            if data[end..].iter().any(|&byte| byte != 0) {
                Arc::make_mut(&mut data)[end..].fill(0);
            }
            blocks.insert(number, data);
        }
        SurvivingContent {
            len: size.len,
            blocks,
        }
    }

    /// Adds the numbers of the changes that a power cut may lose.
    pub(super) fn volatile_changes(&self, changes: &mut Vec<u64>) {
        for number in &self.dirty {
            if let Some(block) = self.blocks.get(number) {
                block.volatile_changes(changes);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn memory(&self) -> (usize, usize) {
        (self.blocks.len(), self.unwritten.ranges())
    }

    fn blocks_of(&self, range: &Range<u64>) -> Range<u64> {
        let size = self.block_size as u64;
        range.start / size..range.end.div_ceil(size).max(range.start / size)
    }

    fn write_piece(&mut self, number: u64, piece: Piece) {
        let truncated = self.sizes.durable_change();
        let block = self.blocks.entry(number).or_default();
        let was_dirty = block.is_dirty();
        let piece = block.widen(piece, self.sector, self.block_size);
        let written_back = block.write(piece, truncated, self.block_size);
        self.written_back = self.written_back.max(written_back);
        if block.is_dirty() && !was_dirty {
            self.dirty.insert(number);
        }
        if !block.is_allocated {
            block.is_allocated = true;
            self.written += 1;
            self.unwritten.remove(number..number + 1);
        }
    }

    /// Zeroes `range`. Whole blocks of it are no longer allocated as written; `keep` makes them unwritten.
    fn zero(&mut self, change: u64, range: Range<u64>, durability: Durability, keep: bool) {
        let size = self.block_size as u64;
        let whole = range.start.div_ceil(size)..range.end / size;
        if !whole.is_empty() {
            self.unwritten.remove(whole.clone());
        }
        let blocks = self.blocks_of(&range);
        let numbers: Vec<u64> = self
            .blocks
            .range(blocks)
            .map(|(&number, _)| number)
            .collect();
        for number in numbers {
            let start = number * size;
            let from = range.start.saturating_sub(start).min(size) as usize;
            let to = (range.end - start).min(size) as usize;
            let piece = Piece {
                change,
                start: from,
                len: to - from,
                data: None,
                durability,
            };
            let truncated = self.sizes.durable_change();
            let block = self
                .blocks
                .get_mut(&number)
                .expect("its number is from the map");
            let piece = block.widen(piece, self.sector, self.block_size);
            let written_back = block.write(piece, truncated, self.block_size);
            self.written_back = self.written_back.max(written_back);
            if block.is_dirty() {
                self.dirty.insert(number);
            }
            if block.is_allocated && to - from == self.block_size {
                block.is_allocated = false;
                self.written -= 1;
            }
            if block.is_empty() {
                self.blocks.remove(&number);
            }
        }
        if keep {
            self.unwritten.insert(whole);
        }
    }

    /// Changes the dirty blocks, and removes those that are clean from the list.
    fn settle(&mut self, change: impl Fn(&mut DataBlock, usize)) {
        let (blocks, block_size) = (&mut self.blocks, self.block_size);
        self.dirty.retain(|number| {
            let Some(block) = blocks.get_mut(number) else {
                return false;
            };
            change(block, block_size);
            if block.is_empty() {
                blocks.remove(number);
                return false;
            }
            block.is_dirty()
        });
    }
}
