//! What faults do to the data of a transfer.

use std::ops::Range;
use std::sync::Arc;

use super::data_block::units;
use super::file_content::BlockPart;
use crate::simulation::seeded_rng::SeededRng;

/// The length of a short transfer: some whole sectors of it, if it has more than one.
pub(super) fn shortened(len: u64, sector: u32, rng: &mut SeededRng) -> u64 {
    let sector = u64::from(sector);
    match len.div_ceil(sector) {
        0 | 1 => len,
        sectors => (1 + rng.below(sectors - 1)) * sector,
    }
}

/// Removes what is beyond `end` in the file.
pub(super) fn clip(parts: &mut Vec<BlockPart>, block_size: usize, end: u64) {
    parts.retain_mut(|part| {
        let start = part.block * block_size as u64 + part.start as u64;
        let len = end.saturating_sub(start).min(part.data.len() as u64) as usize;
        if 0 < len && len < part.data.len() {
            part.data = Arc::from(&part.data[..len]);
        }
        len > 0
    });
}

/// Some of the atomic units of `parts`.
pub(super) fn tear(parts: &[BlockPart], unit: usize, rng: &mut SeededRng) -> Vec<BlockPart> {
    let mut torn = Vec::new();
    for part in parts {
        let range = part.start..part.start + part.data.len();
        for Range { start, end } in units(range, unit) {
            if rng.chance(8) {
                torn.push(BlockPart {
                    block: part.block,
                    start,
                    data: Arc::from(&part.data[start - part.start..end - part.start]),
                });
            }
        }
    }
    torn
}

pub(super) fn flip_bit(parts: &mut [BlockPart], bit: usize) {
    let mut byte = bit / 8;
    for part in parts {
        if byte < part.data.len() {
            Arc::make_mut(&mut part.data)[byte] ^= 1 << (bit % 8);
            return;
        }
        byte -= part.data.len();
    }
}
