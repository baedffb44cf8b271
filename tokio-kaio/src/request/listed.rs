//! [`Listed`]: memory in pieces, or of other kinds than one whole region.
#![allow(unsafe_code)]

use std::any::Any;
use std::iter;
use std::sync::Arc;

use crate::buf::{Exclusive, IoBuf, IoBufMut, Region, Shape};
use crate::sys::abi::{self, Iocb};

/// Pieces of memory that one operation moves, in order, with what owns them. An operation that is
/// resumed goes on with what is left of them.
///
/// What the pieces name is the owner's: valid as long as this is there, and touched by nobody else.
#[derive(Debug)]
pub(crate) struct Listed {
    pieces: Pieces,
    owner: Owner,
}

/// Most that one request has.
const MOST_PIECES: usize = abi::UIO_MAXIOV as usize;

#[derive(Debug)]
enum Pieces {
    One(libc::iovec),
    /// Those from `at` on are left.
    Many {
        all: Vec<libc::iovec>,
        at: usize,
    },
}

/// What the pieces are of.
enum Owner {
    /// Regions that the kernel writes to. `None`: an empty buffer's.
    Filling(Vec<Option<Exclusive>>),
    /// Regions that the kernel reads.
    Sending(#[allow(dead_code, reason = "kept, not looked at")] Vec<Arc<Region>>),
    /// Buffers of the caller's, a `B` or a `Vec<B>`.
    Caller(Box<dyn Any + Send>),
}

// SAFETY: the pieces are memory of the owner's, which is `Send`; it is not touched through them
// here.
unsafe impl Send for Listed {}
// SAFETY: nothing is to be reached through a `&Listed` but numbers.
unsafe impl Sync for Listed {}

impl Listed {
    /// A part of one region, for the kernel to write to.
    pub(super) fn filling_rest(region: Exclusive, start: usize) -> Listed {
        let len = region.len() - start;
        Listed::filling(iter::once((Some(region), start, len)))
    }

    /// A part of one region, for the kernel to read.
    pub(super) fn sending_rest(region: Arc<Region>, start: usize) -> Listed {
        let len = region.len() - start;
        Listed::sending(iter::once((region, start, len)))
    }

    /// Parts of regions, by where they start and their lengths, for the kernel to write to. They must
    /// be within.
    pub(super) fn filling(
        parts: impl Iterator<Item = (Option<Exclusive>, usize, usize)>,
    ) -> Listed {
        let most = parts.size_hint().1.unwrap_or(0);
        let mut regions = Vec::with_capacity(most);
        let mut pieces = Vec::with_capacity(most);
        for (region, start, len) in parts {
            let address = region.as_ref().map_or(0, Exclusive::address);
            assert!(start + len <= region.as_ref().map_or(0, Exclusive::len));
            pieces.push(piece(address, start, len));
            regions.push(region);
        }
        Listed {
            pieces: Pieces::of(pieces),
            owner: Owner::Filling(regions),
        }
    }

    /// Parts of regions, as above, for the kernel to read.
    pub(super) fn sending(parts: impl Iterator<Item = (Arc<Region>, usize, usize)>) -> Listed {
        let most = parts.size_hint().1.unwrap_or(0);
        let mut regions = Vec::with_capacity(most);
        let mut pieces = Vec::with_capacity(most);
        for (region, start, len) in parts {
            assert!(start + len <= region.len());
            pieces.push(piece(region.address(), start, len));
            regions.push(region);
        }
        Listed {
            pieces: Pieces::of(pieces),
            owner: Owner::Sending(regions),
        }
    }

    /// A buffer of the caller's, all that it has room for.
    pub(super) fn filling_owned<B: IoBufMut>(buffer: B) -> Listed {
        let mut buffer = Box::new(buffer); // where it stays: pointers come next
        let piece = room(&mut *buffer);
        Listed {
            pieces: Pieces::One(piece),
            owner: Owner::Caller(buffer),
        }
    }

    /// The same, all that it has.
    pub(super) fn sending_owned<B: IoBuf>(buffer: B) -> Listed {
        let buffer = Box::new(buffer);
        let piece = content(&*buffer);
        Listed {
            pieces: Pieces::One(piece),
            owner: Owner::Caller(buffer),
        }
    }

    /// Buffers of the caller's, all that they have room for.
    pub(super) fn filling_all_owned<B: IoBufMut>(buffers: Vec<B>) -> Listed {
        let mut buffers = Box::new(buffers);
        let pieces = buffers.iter_mut().map(room).collect();
        Listed {
            pieces: Pieces::of(pieces),
            owner: Owner::Caller(buffers),
        }
    }

    /// The same, all that they have.
    pub(super) fn sending_all_owned<B: IoBuf>(buffers: Vec<B>) -> Listed {
        let buffers = Box::new(buffers);
        let pieces = buffers.iter().map(content).collect();
        Listed {
            pieces: Pieces::of(pieces),
            owner: Owner::Caller(buffers),
        }
    }

    /// What goes to the kernel in one request.
    fn window(&self) -> &[libc::iovec] {
        let left = self.left();
        &left[..left.len().min(MOST_PIECES)]
    }

    fn left(&self) -> &[libc::iovec] {
        match &self.pieces {
            Pieces::One(piece) => std::slice::from_ref(piece),
            Pieces::Many { all, at } => &all[*at..],
        }
    }

    /// Bytes that are left.
    pub(crate) fn len(&self) -> u64 {
        sum(self.left())
    }

    /// Bytes that one request moves at most.
    pub(super) fn reach(&self) -> u64 {
        sum(self.window())
    }

    /// See [`Memory::misalignment`](super::Memory::misalignment).
    pub(super) fn misalignment(&self) -> u64 {
        let pieces = self.window().iter().filter(|piece| piece.iov_len > 0);
        let bits = pieces.map(|piece| (piece.iov_base.addr() | piece.iov_len) as u64);
        bits.fold(0, |all, bits| all | bits)
    }

    /// A request for it. `iocb` has the opcode of a plain transfer.
    #[cold]
    pub(super) fn fill(&self, iocb: &mut Iocb, nbytes: u64) {
        match self.window() {
            [piece] => {
                iocb.buf = piece.iov_base.expose_provenance() as u64;
                iocb.nbytes = nbytes.min(piece.iov_len as u64);
            }
            pieces => {
                iocb.lio_opcode = match iocb.lio_opcode {
                    abi::IOCB_CMD_PREAD => abi::IOCB_CMD_PREADV,
                    _ => abi::IOCB_CMD_PWRITEV,
                };
                iocb.buf = pieces.as_ptr().expose_provenance() as u64;
                iocb.nbytes = pieces.len() as u64;
            }
        }
    }

    /// The first `moved` bytes of what is left are done with.
    pub(super) fn advance(&mut self, moved: u64) {
        let mut moved = usize::try_from(moved).unwrap_or(usize::MAX);
        match &mut self.pieces {
            Pieces::One(piece) => skip(piece, moved),
            Pieces::Many { all, at } => {
                while let Some(piece) = all.get_mut(*at) {
                    if moved < piece.iov_len {
                        return skip(piece, moved);
                    }
                    moved -= piece.iov_len;
                    *at += 1;
                }
            }
        }
    }

    /// What the buffers get that lent it, where it stays with the kernel.
    pub(super) fn shapes(&self) -> Option<Vec<Option<Shape>>> {
        match &self.owner {
            Owner::Filling(regions) => {
                let shape = |region: &Option<Exclusive>| region.as_ref().map(Exclusive::shape);
                Some(regions.iter().map(shape).collect())
            }
            Owner::Sending(_) | Owner::Caller(_) => None,
        }
    }

    /// The regions that were to be filled.
    pub(super) fn into_regions(self) -> Vec<Option<Exclusive>> {
        match self.owner {
            Owner::Filling(regions) => regions,
            Owner::Sending(_) | Owner::Caller(_) => Vec::new(),
        }
    }

    /// The caller's, if it is a `T`.
    pub(super) fn into_owned<T: 'static>(self) -> Option<T> {
        match self.owner {
            Owner::Caller(owned) => Some(*owned.downcast().ok()?),
            Owner::Filling(_) | Owner::Sending(_) => None,
        }
    }
}

impl Pieces {
    fn of(all: Vec<libc::iovec>) -> Pieces {
        match *all {
            [one] => Pieces::One(one),
            _ => Pieces::Many { all, at: 0 },
        }
    }
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Owner::Filling(_) => "Filling",
            Owner::Sending(_) => "Sending",
            Owner::Caller(_) => "Caller",
        })
    }
}

fn piece(address: u64, start: usize, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: std::ptr::with_exposed_provenance_mut(address as usize + start),
        iov_len: len,
    }
}

fn room<B: IoBufMut>(buffer: &mut B) -> libc::iovec {
    let iov_len = buffer.bytes_total();
    libc::iovec {
        iov_base: buffer.stable_mut_ptr().cast(),
        iov_len,
    }
}

fn content<B: IoBuf>(buffer: &B) -> libc::iovec {
    let iov_len = buffer.bytes_init();
    libc::iovec {
        iov_base: buffer.stable_ptr().cast_mut().cast(),
        iov_len,
    }
}

fn skip(piece: &mut libc::iovec, bytes: usize) {
    let bytes = bytes.min(piece.iov_len);
    piece.iov_base = piece.iov_base.wrapping_byte_add(bytes);
    piece.iov_len -= bytes;
}

fn sum(pieces: &[libc::iovec]) -> u64 {
    let lengths = pieces.iter().map(|piece| piece.iov_len as u64);
    lengths.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(lengths: &[usize]) -> Listed {
        let buffers: Vec<Box<[u8]>> = lengths.iter().map(|&len| vec![0; len].into()).collect();
        Listed::filling_all_owned(buffers)
    }

    fn left(listed: &Listed) -> Vec<usize> {
        listed.left().iter().map(|piece| piece.iov_len).collect()
    }

    #[test]
    fn what_is_done_with_is_skipped_within_pieces_and_over_them() {
        let mut list = listed(&[3, 0, 4, 5]);
        assert_eq!(list.len(), 12);
        list.advance(2);
        assert_eq!(left(&list), [1, 0, 4, 5]);
        list.advance(1);
        assert_eq!(left(&list), [4, 5]);
        list.advance(8);
        assert_eq!(left(&list), [1]);
        list.advance(100);
        assert_eq!((left(&list), list.len()), (vec![], 0));
    }

    #[test]
    fn one_request_has_as_many_pieces_as_the_kernel_takes() {
        let mut list = listed(&vec![2; MOST_PIECES + 7]);
        let (mut iocb, all) = (Iocb::default(), list.len());
        list.fill(&mut iocb, all);
        assert_eq!(iocb.lio_opcode, abi::IOCB_CMD_PREADV);
        assert_eq!(iocb.nbytes, abi::UIO_MAXIOV);
        assert_eq!(list.reach(), 2 * abi::UIO_MAXIOV);
        list.advance(list.reach());
        let (mut iocb, rest) = (Iocb::default(), list.len());
        list.fill(&mut iocb, rest);
        assert_eq!(iocb.nbytes, 7);
    }

    #[test]
    fn one_piece_goes_as_a_plain_transfer() {
        let mut list = listed(&[3, 4]);
        list.advance(4);
        let mut iocb = Iocb::default();
        list.fill(&mut iocb, 3);
        assert_eq!((iocb.lio_opcode, iocb.nbytes), (abi::IOCB_CMD_PREAD, 3));
    }

    #[test]
    fn the_callers_buffers_come_back() {
        let buffers = listed(&[3, 4]).into_owned::<Vec<Box<[u8]>>>().unwrap();
        assert_eq!(buffers.iter().map(|b| b.len()).sum::<usize>(), 7);
        assert!(listed(&[3]).into_owned::<Vec<Vec<u8>>>().is_none());
    }
}
