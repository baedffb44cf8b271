//! Direct reads of ranges: merged, in flight together.

use std::io;
use std::ops::Range;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio_kaio::{AioContextHandle, File, ReadFlags};

use crate::store_settings::StoreSettings;

/// Offsets and lengths of direct reads are multiples of this, which suits all usual devices. Where a device wants
/// larger blocks, reads fail with `EINVAL` and are repeated through the page cache.
const BLOCK: u64 = 4096;

/// Most bytes that the reads of one call have in flight.
const MAX_IN_FLIGHT: u64 = 64 << 20;

/// Ranges that are read together.
#[derive(Debug, PartialEq, Eq)]
struct Merged {
    /// What is read: from the first to the last byte.
    range: Range<u64>,
    /// Indices of the ranges that are within.
    members: Vec<usize>,
    /// Bytes of the members together.
    wanted: u64,
}

impl Merged {
    /// The blocks that are read.
    fn blocks(&self) -> Range<u64> {
        self.range.start / BLOCK * BLOCK..self.range.end.next_multiple_of(BLOCK)
    }
}

/// Reads one range, which is not empty. Shorter at the end of the file.
pub(crate) async fn read_range(
    handle: &AioContextHandle,
    file: &File,
    range: &Range<u64>,
) -> io::Result<Bytes> {
    let start = range.start / BLOCK * BLOCK;
    let len = memory_size(range.end.next_multiple_of(BLOCK) - start)?;
    let buffer = handle.buffers().get_or_map(len).map_err(io::Error::other)?;
    let none = ReadFlags::empty();
    let (read, buffer) = file.read_full_owned_at(handle, start, buffer, none).await;
    let bytes = Bytes::from(buffer).slice(..read? as usize);
    Ok(part(
        &bytes,
        start,
        range,
        is_mostly(range.end - range.start, len),
    ))
}

/// Reads `ranges`, which are not empty. Each result is shorter at the end of the file.
pub(crate) async fn read_ranges(
    handle: &AioContextHandle,
    file: &File,
    ranges: &[Range<u64>],
    settings: &StoreSettings,
) -> io::Result<Vec<Bytes>> {
    if let [range] = ranges {
        return Ok(vec![read_range(handle, file, range).await?]);
    }
    let mut results = vec![Bytes::new(); ranges.len()];
    let merged = merge(ranges, settings.coalesce_gap, settings.coalesce_size);
    let mut rest = merged.as_slice();
    while !rest.is_empty() {
        let mut in_flight = 0;
        let mut batch = handle.owned_batch();
        let mut count = 0;
        for merged in rest {
            let blocks = merged.blocks();
            let len = blocks.end - blocks.start;
            if count > 0 && in_flight + len > MAX_IN_FLIGHT {
                break;
            }
            let buffer = handle.buffers().get_or_map(memory_size(len)?);
            batch.read_full(file, blocks.start, buffer.map_err(io::Error::other)?);
            in_flight += len;
            count += 1;
        }
        let mut completed = batch.stream();
        while let Some((index, read, buffer)) = completed.next().await {
            let merged = &rest[index];
            let share = is_mostly(merged.wanted, buffer.len());
            let bytes = Bytes::from(buffer).slice(..read? as usize);
            for &member in &merged.members {
                let range = &ranges[member];
                results[member] = part(&bytes, merged.blocks().start, range, share);
            }
        }
        rest = &rest[count..];
    }
    Ok(results)
}

/// Whether most of a buffer is wanted. If not, results are copied, so that they do not keep it.
fn is_mostly(wanted: u64, buffer: usize) -> bool {
    wanted * 2 >= buffer as u64
}

/// The bytes of `range` in `bytes`, which start at `start` and end where the file ends, at the earliest.
fn part(bytes: &Bytes, start: u64, range: &Range<u64>, share: bool) -> Bytes {
    let within = |offset: u64| (offset - start).min(bytes.len() as u64) as usize;
    let part = within(range.start)..within(range.end);
    match share {
        true => bytes.slice(part),
        false => Bytes::copy_from_slice(&bytes[part]),
    }
}

fn memory_size(len: u64) -> io::Result<usize> {
    usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory.into())
}

/// Merges ranges that are at most `gap` apart, into ones of at most `size` bytes, except single ranges that are
/// longer.
fn merge(ranges: &[Range<u64>], gap: u64, size: u64) -> Vec<Merged> {
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_by_key(|&index| ranges[index].start);
    let mut merged: Vec<Merged> = Vec::new();
    for index in order {
        let range = &ranges[index];
        if let Some(last) = merged.last_mut() {
            let end = last.range.end.max(range.end);
            let is_near = range.start <= last.range.end.saturating_add(gap);
            let is_within = range.end <= last.range.end;
            if is_within || (is_near && end - last.range.start <= size) {
                last.range.end = end;
                last.members.push(index);
                last.wanted += range.end - range.start;
                continue;
            }
        }
        merged.push(Merged {
            range: range.clone(),
            members: vec![index],
            wanted: range.end - range.start,
        });
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(ranges: &[Range<u64>], gap: u64, size: u64) -> Vec<(Range<u64>, Vec<usize>)> {
        let merged = merge(ranges, gap, size).into_iter();
        merged
            .map(|merged| (merged.range, merged.members))
            .collect()
    }

    #[test]
    fn ranges_that_are_near_or_overlap_are_merged_in_any_order() {
        let ranges = [50..60, 0..10, 20..30, 5..12, 22..25];
        assert_eq!(
            merged(&ranges, 8, 100),
            [(0..30, vec![1, 3, 2, 4]), (50..60, vec![0])]
        );
    }

    #[test]
    fn merged_ranges_are_no_longer_than_the_limit_except_single_ones() {
        let ranges = [0..10, 10..20, 20..30, 30..70, 70..71, 35..36];
        assert_eq!(
            merged(&ranges, 0, 20),
            [
                (0..20, vec![0, 1]),
                (20..30, vec![2]),
                (30..70, vec![3, 5]),
                (70..71, vec![4])
            ]
        );
    }

    #[test]
    fn a_range_that_ends_at_the_largest_offset_does_not_overflow() {
        let last = u64::MAX - 1..u64::MAX;
        assert_eq!(merged(&[0..1, last.clone(), last], u64::MAX, 1).len(), 2);
    }
}
