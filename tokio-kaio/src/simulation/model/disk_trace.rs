//! [`DiskTrace`]: the calls and requests of a disk, in order.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use super::disk_request::Errno;

/// The calls and requests of a simulated disk, in order, with their times and results.
///
/// [`Display`](fmt::Display) prints a line each: the number of the event, the time, and the call. Two runs of the
/// same program with the same seed have the same trace, to the byte, if the program runs on a current-thread
/// runtime with a paused clock, and chooses nothing by chance or by the time of day.
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

/// A part of an event, in its text and in its hash.
enum Field<'e> {
    Word(&'static str),
    /// Printed in quotes.
    Path(&'e str),
    /// A number and its label of at most 8 bytes.
    Number(&'static str, u64),
    /// A digest of data, printed in hexadecimal.
    Data(u64),
    Outcome(Result<u64, Errno>),
}

impl TraceKind {
    /// Calls `visit` for each part, in the order of the text.
    #[inline]
    fn visit(&self, mut visit: impl FnMut(Field<'_>)) {
        use Field::{Data, Number, Outcome, Path, Word};
        match *self {
            TraceKind::Call {
                name,
                ref arguments,
                result,
            } => {
                visit(Word(name));
                arguments.iter().for_each(|path| visit(Path(path)));
                visit(Outcome(result));
            }
            TraceKind::FileCall {
                name,
                inode,
                offset,
                len,
                result,
            } => {
                visit(Word(name));
                visit(Number("inode", inode));
                visit(Number("offset", offset));
                visit(Number("len", len));
                visit(Outcome(result));
            }
            TraceKind::Begin {
                id,
                name,
                inode,
                offset,
                len,
                data,
            } => {
                visit(Number("begin", id));
                visit(Word(name));
                visit(Number("inode", inode));
                if len > 0 || offset > 0 {
                    visit(Number("offset", offset));
                    visit(Number("len", len));
                }
                if data != 0 {
                    visit(Data(data));
                }
            }
            TraceKind::Finish { id, result } => {
                visit(Number("finish", id));
                visit(Outcome(result));
            }
            TraceKind::Cancel { id } => visit(Number("cancel", id)),
            TraceKind::PowerCut => visit(Word("power cut")),
        }
    }
}

impl TraceEvent {
    fn hash(&self, before: u64) -> u64 {
        let mut hash = mix(before, self.at.as_nanos() as u64);
        self.kind.visit(|field| {
            hash = match field {
                Field::Word(text) | Field::Path(text) => digest(hash, text.as_bytes()),
                Field::Number(label, number) => mix(mix(hash, word(label.as_bytes())), number),
                Field::Data(data) => mix(hash, data),
                Field::Outcome(Ok(value)) => mix(hash, value),
                Field::Outcome(Err(errno)) => mix(mix(hash, u64::MAX), errno as u64),
            }
        });
        hash
    }
}

/// One step of the hash: a folded multiplication.
fn mix(hash: u64, value: u64) -> u64 {
    let product =
        u128::from(hash ^ 0x9e37_79b9_7f4a_7c15) * u128::from(value ^ 0xd1b5_4a32_d192_ed03);
    (product as u64 ^ (product >> 64) as u64).rotate_left(29) ^ hash.wrapping_add(value)
}

/// At most 8 bytes as a number.
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// A digest of bytes, and of their number. Not for data that somebody has chosen to collide.
pub(super) fn digest(seed: u64, bytes: &[u8]) -> u64 {
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
        write!(f, "{}.{:09}", self.at.as_secs(), self.at.subsec_nanos())?;
        let mut written = Ok(());
        self.kind.visit(|field| {
            written = written.and_then(|()| match field {
                Field::Word(text) => write!(f, " {text}"),
                Field::Path(path) => write!(f, " {path:?}"),
                Field::Number(label, number) => write!(f, " {label} {number}"),
                Field::Data(data) => write!(f, " data {data:016x}"),
                Field::Outcome(Ok(value)) => write!(f, " = {value}"),
                Field::Outcome(Err(errno)) => write!(f, " = error {errno}"),
            });
        });
        written
    }
}
