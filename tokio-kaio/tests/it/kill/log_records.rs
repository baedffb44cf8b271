//! The records of the logs: numbered, checksummed, of varied sizes, and the same in every process.

use crate::common::BLOCK;

/// What a process keeps on disk while it is killed again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Log {
    /// Each record is a write of whole blocks with `DSYNC`. Several are in flight.
    Direct,
    /// Records that wait together share a write with `APPEND` and `DSYNC`.
    GroupCommit,
    /// A `FileWriter`, synced after some records.
    Stream,
    /// Not a log: a file that is replaced by its next content, by `StagedFile`.
    Staged,
}

impl Log {
    pub(super) const ALL: [Log; 4] = [Log::Direct, Log::GroupCommit, Log::Stream, Log::Staged];

    /// The name of the file.
    pub(super) fn file_name(self) -> &'static str {
        match self {
            Log::Direct => "direct",
            Log::GroupCommit => "group-commit",
            Log::Stream => "stream",
            Log::Staged => "staged",
        }
    }

    /// The most bytes of content in a record.
    fn max_len(self) -> u64 {
        match self {
            Log::Staged => 300_000,
            _ => 20_000,
        }
    }
}

/// A mark, the number of the record, the length of its content, and a checksum of the rest.
const HEADER: usize = 20;

/// The first bytes of a record. Padding is zero.
const MARK: u32 = 0x4f49_414b;

/// Record `number` of `log`, with its header. Numbers start at 1.
pub(super) fn record(log: Log, number: u64) -> Vec<u8> {
    let mut random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (log as u64) << 32;
    random ^= random >> 29;
    // Every fourth record is small.
    let max = if number % 4 == 0 { 100 } else { log.max_len() };
    let len = random % (max + 1);
    let content = (0..len.div_ceil(8)).flat_map(|word| {
        let word = (random ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (word ^ word >> 31).to_le_bytes()
    });
    let mut record = vec![0; HEADER];
    record.extend(content.take(len as usize));
    record[..4].copy_from_slice(&MARK.to_le_bytes());
    record[4..12].copy_from_slice(&number.to_le_bytes());
    record[12..16].copy_from_slice(&(len as u32).to_le_bytes());
    let checksum = checksum(&record);
    record[16..HEADER].copy_from_slice(&checksum.to_le_bytes());
    record
}

/// The checksum of a record: of everything but the checksum.
fn checksum(record: &[u8]) -> u32 {
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&record[..16]);
    checksum.update(&record[HEADER..]);
    checksum.finalize()
}

/// The records at the start of a file that follow each other without a gap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Replay {
    /// The number of the last record.
    pub(super) last: u64,
    /// Where the last record ends.
    pub(super) end: usize,
}

/// Finds the intact records of `log`, as its owner does when it starts.
///
/// Panics if a record with the right number and checksum has the wrong content.
pub(super) fn replay(log: Log, bytes: &[u8]) -> Replay {
    let mut replay = Replay::default();
    while let Some((start, end)) = record_after(bytes, replay.end, replay.last + 1) {
        let number = replay.last + 1;
        assert!(
            bytes[start..end] == record(log, number),
            "{log:?}: record {number} has the right checksum, and the wrong content"
        );
        replay = Replay { last: number, end };
    }
    replay
}

/// Where record `number` is, if it is intact and follows `at`, with or without padding up to a block.
fn record_after(bytes: &[u8], at: usize, number: u64) -> Option<(usize, usize)> {
    let starts = [at, at.next_multiple_of(BLOCK)];
    starts.into_iter().find_map(|start| {
        let header = bytes.get(start..start + HEADER)?;
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let end = start + HEADER + word(12) as usize;
        let record = bytes.get(start..end)?;
        let is_intact = word(0) == MARK
            && header[4..12] == number.to_le_bytes()
            && word(16) == checksum(record);
        is_intact.then_some((start, end))
    })
}

/// The number of the record that `bytes` are, if they are a record and nothing else.
pub(super) fn whole_record(log: Log, bytes: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(bytes.get(4..12)?.try_into().unwrap());
    (bytes == record(log, number)).then_some(number)
}
