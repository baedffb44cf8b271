//! [`DiskTrace`]: the calls and requests of a disk, in order.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use super::disk_request::Errno;

/// The calls and requests of a simulated disk, in order, with their times and results.
///
/// [`Display`](fmt::Display) prints a line each: the number of the event, the time, and the call. Two runs of the same program with the same seed have the same
/// trace, to the byte, if the program runs on a current-thread runtime with a paused clock, and chooses nothing
/// by chance or by the time of day.
///
/// A trace keeps the last events only. Its [hash](DiskTrace::hash) covers all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskTrace {
    pub(super) events: VecDeque<TraceEvent>,
    /// Events that the trace does not have any more.
    pub(super) omitted: u64,
    pub(super) hash: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TraceEvent {
    pub(super) at: Duration,
    pub(super) kind: TraceKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TraceKind {
    /// A call that has a result at once.
    Call {
        name: &'static str,
        /// Paths.
        arguments: Box<[Box<str>]>,
        result: Result<u64, Errno>,
    },
    /// A call on an open file.
    FileCall {
        name: &'static str,
        inode: u64,
        offset: u64,
        len: u64,
        result: Result<u64, Errno>,
    },
    Begin {
        id: u64,
        name: &'static str,
        inode: u64,
        offset: u64,
        len: u64,
        /// A digest of the data of a write.
        data: u64,
    },
    Finish {
        id: u64,
        result: Result<u64, Errno>,
    },
    Cancel {
        id: u64,
    },
    PowerCut,
}

impl DiskTrace {
    /// A hash of all events since the disk was made. Equal traces have equal hashes, on every machine. Other
    /// versions of the library may have other hashes.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Events since the disk was made.
    pub fn events(&self) -> u64 {
        self.omitted + self.events.len() as u64
    }

    /// Adds an event, and forgets the oldest one if there are more than `most`.
    pub(super) fn push(&mut self, at: Duration, kind: TraceKind, most: usize) {
        let event = TraceEvent { at, kind };
        self.hash = event.hash(self.hash);
        if self.events.len() >= most {
            self.omitted += 1;
            self.events.pop_front();
        }
        if most > 0 {
            self.events.push_back(event);
        }
    }
}

impl TraceEvent {
    fn hash(&self, before: u64) -> u64 {
        let mut hash = mix(before, self.at.as_nanos() as u64);
        let result = |hash, result: &Result<u64, Errno>| match *result {
            Ok(value) => mix(hash, value),
            Err(errno) => mix(mix(hash, u64::MAX), errno as u64),
        };
        match &self.kind {
            TraceKind::Call {
                name,
                arguments,
                result: value,
            } => {
                hash = digest(mix(hash, 1), name.as_bytes());
                for argument in arguments {
                    hash = digest(hash, argument.as_bytes());
                }
                result(hash, value)
            }
            TraceKind::FileCall {
                name,
                inode,
                offset,
                len,
                result: value,
            } => {
                hash = digest(mix(hash, 2), name.as_bytes());
                result(mix(mix(mix(hash, *inode), *offset), *len), value)
            }
            TraceKind::Begin {
                id,
                name,
                inode,
                offset,
                len,
                data,
            } => {
                hash = digest(mix(hash, 3), name.as_bytes());
                let numbers = [id, inode, offset, len, data];
                numbers
                    .into_iter()
                    .fold(hash, |hash, &number| mix(hash, number))
            }
            TraceKind::Finish { id, result: value } => result(mix(mix(hash, 4), *id), value),
            TraceKind::Cancel { id } => mix(mix(hash, 5), *id),
            TraceKind::PowerCut => mix(hash, 6),
        }
    }
}

/// One step of the hash: a folded multiplication.
fn mix(hash: u64, value: u64) -> u64 {
    let product =
        u128::from(hash ^ 0x9e37_79b9_7f4a_7c15) * u128::from(value ^ 0xd1b5_4a32_d192_ed03);
    (product as u64 ^ (product >> 64) as u64).rotate_left(29) ^ hash.wrapping_add(value)
}

/// A digest of bytes, and of their number. Not for data that somebody has chosen to collide.
pub(super) fn digest(seed: u64, bytes: &[u8]) -> u64 {
    let word = |bytes: &[u8]| {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    };
    // Four at a time, because each step waits for the one before it. A step takes two words with one
    // multiplication: blocks are long, and every write has a digest.
    let mut lanes = [seed, !seed, seed.rotate_left(16), seed.rotate_left(32)];
    let mut chunks = bytes.chunks_exact(64);
    for chunk in &mut chunks {
        for (lane, bytes) in lanes.iter_mut().zip(chunk.chunks_exact(16)) {
            let (first, second) = bytes.split_at(8);
            let product =
                u128::from(word(first) ^ 0x9e37_79b9_7f4a_7c15) * u128::from(word(second) ^ *lane);
            *lane = (product as u64 ^ (product >> 64) as u64).wrapping_add(lane.rotate_left(29));
        }
    }
    for bytes in chunks.remainder().chunks(8) {
        lanes[0] = mix(lanes[0], word(bytes));
    }
    lanes.into_iter().fold(bytes.len() as u64, mix)
}

impl fmt::Display for DiskTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.omitted > 0 {
            writeln!(f, "({} earlier events omitted)", self.omitted)?;
        }
        for (number, event) in (self.omitted + 1..).zip(&self.events) {
            writeln!(f, "{number} {event}")?;
        }
        Ok(())
    }
}

impl fmt::Display for TraceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09} ", self.at.as_secs(), self.at.subsec_nanos())?;
        let result = |f: &mut fmt::Formatter<'_>, result: &Result<u64, Errno>| match *result {
            Ok(value) => write!(f, " = {value}"),
            Err(errno) => write!(f, " = error {errno}"),
        };
        match &self.kind {
            TraceKind::Call {
                name,
                arguments,
                result: value,
            } => {
                f.write_str(name)?;
                for argument in arguments {
                    write!(f, " {argument:?}")?;
                }
                result(f, value)
            }
            TraceKind::FileCall {
                name,
                inode,
                offset,
                len,
                result: value,
            } => {
                write!(f, "{name} inode {inode} offset {offset} len {len}")?;
                result(f, value)
            }
            TraceKind::Begin {
                id,
                name,
                inode,
                offset,
                len,
                data,
            } => {
                write!(f, "begin {id} {name} inode {inode}")?;
                if *len > 0 || *offset > 0 {
                    write!(f, " offset {offset} len {len}")?;
                }
                if *data != 0 {
                    write!(f, " data {data:016x}")?;
                }
                Ok(())
            }
            TraceKind::Finish { id, result: value } => {
                write!(f, "finish {id}")?;
                result(f, value)
            }
            TraceKind::Cancel { id } => write!(f, "cancel {id}"),
            TraceKind::PowerCut => f.write_str("power cut"),
        }
    }
}
