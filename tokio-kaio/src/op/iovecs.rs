//! [`IoVecs`]: memory in several pieces, part of a region, or an owned buffer of any type.
#![allow(unsafe_code)]

use std::any::Any;
use std::iter;
use std::sync::Arc;

use crate::backend::OpCode;
use crate::buf::{Exclusive, IoBuf, IoBufMut, Region, Shape};
use crate::sys::abi;

/// An iovec array and the owner of its memory. A resumed transfer continues with the rest of the array.
///
/// The pieces point into the memory of `owner`. That memory stays valid while the `IoVecs` exists, and is not
/// accessed by others, except that shared regions may be read.
#[derive(Debug)]
pub(crate) struct IoVecs {
    pieces: Pieces,
    owner: Owner,
}

/// Most iovecs in one request.
const MAX_PIECES: usize = abi::UIO_MAXIOV as usize;

#[derive(Debug)]
enum Pieces {
    One(libc::iovec),
    /// The pieces before index `at` have been transferred.
    Many {
        all: Vec<libc::iovec>,
        at: usize,
    },
}

/// Owner of the memory.
enum Owner {
    /// Regions that the kernel writes to. `None` is an empty buffer.
    Exclusive(Vec<Option<Exclusive>>),
    /// Regions that the kernel reads.
    Shared(#[allow(dead_code, reason = "kept alive, not read")] Vec<Arc<Region>>),
    /// An owned buffer, or a `Vec` of owned buffers, from the caller.
    Caller(Box<dyn Any + Send>),
}

// SAFETY: only the raw pointers in `pieces` are not `Send`. They point into the memory of `owner`, which is
// `Send` and moves along, and no code here dereferences them.
unsafe impl Send for IoVecs {}
// SAFETY: the methods that take `&self` return addresses, lengths and shapes. They give no access to the
// memory or the owner.
unsafe impl Sync for IoVecs {}

impl IoVecs {
    /// The bytes of a region from `start` on, for the kernel to write to.
    pub(super) fn rest_of_exclusive(region: Exclusive, start: usize) -> IoVecs {
        let len = region.len() - start;
        IoVecs::exclusive(iter::once((Some(region), start, len)))
    }

    /// The bytes of a region from `start` on, for the kernel to read.
    pub(super) fn rest_of_shared(region: Arc<Region>, start: usize) -> IoVecs {
        let len = region.len() - start;
        IoVecs::shared(iter::once((region, start, len)))
    }

    /// Parts of regions, for the kernel to write to. Each part is a region, a start and a length.
    ///
    /// # Panics
    ///
    /// If a part is not within its region.
    pub(super) fn exclusive(
        parts: impl Iterator<Item = (Option<Exclusive>, usize, usize)>,
    ) -> IoVecs {
        let most = parts.size_hint().1.unwrap_or(0);
        let mut regions = Vec::with_capacity(most);
        let mut pieces = Vec::with_capacity(most);
        for (region, start, len) in parts {
            let address = region.as_ref().map_or(0, Exclusive::address);
            assert!(start + len <= region.as_ref().map_or(0, Exclusive::len));
            pieces.push(piece(address, start, len));
            regions.push(region);
        }
        IoVecs {
            pieces: Pieces::of(pieces),
            owner: Owner::Exclusive(regions),
        }
    }

    /// Like [`IoVecs::exclusive`], for the kernel to read.
    pub(super) fn shared(parts: impl Iterator<Item = (Arc<Region>, usize, usize)>) -> IoVecs {
        let most = parts.size_hint().1.unwrap_or(0);
        let mut regions = Vec::with_capacity(most);
        let mut pieces = Vec::with_capacity(most);
        for (region, start, len) in parts {
            assert!(start + len <= region.len());
            pieces.push(piece(region.address(), start, len));
            regions.push(region);
        }
        IoVecs {
            pieces: Pieces::of(pieces),
            owner: Owner::Shared(regions),
        }
    }

    /// An owned buffer of the caller. The kernel writes to its whole capacity.
    pub(super) fn read_into<B: IoBufMut>(buffer: B) -> IoVecs {
        let mut buffer = Box::new(buffer); // at its final address before its pointer is taken
        let piece = capacity_of(&mut *buffer);
        IoVecs {
            pieces: Pieces::One(piece),
            owner: Owner::Caller(buffer),
        }
    }

    /// An owned buffer of the caller. The kernel reads all of its bytes.
    pub(super) fn write_from<B: IoBuf>(buffer: B) -> IoVecs {
        let buffer = Box::new(buffer);
        let piece = bytes_of(&*buffer);
        IoVecs {
            pieces: Pieces::One(piece),
            owner: Owner::Caller(buffer),
        }
    }

    /// Owned buffers of the caller. The kernel writes to their whole capacity.
    pub(super) fn read_into_all<B: IoBufMut>(buffers: Vec<B>) -> IoVecs {
        let mut buffers = Box::new(buffers);
        let pieces = buffers.iter_mut().map(capacity_of).collect();
        IoVecs {
            pieces: Pieces::of(pieces),
            owner: Owner::Caller(buffers),
        }
    }

    /// Owned buffers of the caller. The kernel reads all of their bytes.
    pub(super) fn write_from_all<B: IoBuf>(buffers: Vec<B>) -> IoVecs {
        let buffers = Box::new(buffers);
        let pieces = buffers.iter().map(bytes_of).collect();
        IoVecs {
            pieces: Pieces::of(pieces),
            owner: Owner::Caller(buffers),
        }
    }

    /// The iovecs of the next request: as many of the rest as the kernel accepts.
    fn window(&self) -> &[libc::iovec] {
        let left = self.rest();
        &left[..left.len().min(MAX_PIECES)]
    }

    fn rest(&self) -> &[libc::iovec] {
        match &self.pieces {
            Pieces::One(piece) => std::slice::from_ref(piece),
            Pieces::Many { all, at } => &all[*at..],
        }
    }

    /// Number of bytes in the rest.
    pub(crate) fn len(&self) -> u64 {
        sum(self.rest())
    }

    /// Number of bytes that the next request can move at most.
    pub(super) fn max_transfer(&self) -> u64 {
        sum(self.window())
    }

    /// See [`IoBuffer::address_bits`](super::IoBuffer::address_bits).
    pub(super) fn address_bits(&self) -> u64 {
        let pieces = self.window().iter().filter(|piece| piece.iov_len > 0);
        let bits = pieces.map(|piece| (piece.iov_base.addr() | piece.iov_len) as u64);
        bits.fold(0, |all, bits| all | bits)
    }

    /// Returns the opcode, address and length fields of an entry that moves `nbytes`.
    #[cold]
    pub(super) fn encode(&self, opcode: OpCode, nbytes: u64) -> (OpCode, u64, u64) {
        match self.window() {
            [piece] => {
                let address = piece.iov_base.expose_provenance() as u64;
                (opcode, address, nbytes.min(piece.iov_len as u64))
            }
            pieces => {
                let opcode = match opcode {
                    OpCode::Read => OpCode::ReadVectored,
                    _ => OpCode::WriteVectored,
                };
                let address = pieces.as_ptr().expose_provenance() as u64;
                (opcode, address, pieces.len() as u64)
            }
        }
    }

    /// Removes the first `moved` bytes from the rest.
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

    /// Returns the shapes of the buffers of a read, if it is into [`AlignedBuf`](crate::AlignedBuf)s.
    pub(super) fn shapes(&self) -> Option<Vec<Option<Shape>>> {
        match &self.owner {
            Owner::Exclusive(regions) => {
                let shape = |region: &Option<Exclusive>| region.as_ref().map(Exclusive::shape);
                Some(regions.iter().map(shape).collect())
            }
            Owner::Shared(_) | Owner::Caller(_) => None,
        }
    }

    /// Returns the regions of a read.
    pub(super) fn into_regions(self) -> Vec<Option<Exclusive>> {
        match self.owner {
            Owner::Exclusive(regions) => regions,
            Owner::Shared(_) | Owner::Caller(_) => Vec::new(),
        }
    }

    /// Returns the owned buffer or buffers of the caller, if their type is `T`.
    pub(super) fn into_owned<T: 'static>(self) -> Option<T> {
        match self.owner {
            Owner::Caller(owned) => Some(*owned.downcast().ok()?),
            Owner::Exclusive(_) | Owner::Shared(_) => None,
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
            Owner::Exclusive(_) => "Exclusive",
            Owner::Shared(_) => "Shared",
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

fn capacity_of<B: IoBufMut>(buffer: &mut B) -> libc::iovec {
    let iov_len = buffer.bytes_total();
    libc::iovec {
        iov_base: buffer.stable_mut_ptr().cast(),
        iov_len,
    }
}

fn bytes_of<B: IoBuf>(buffer: &B) -> libc::iovec {
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
    use crate::backend::Sqe;
    use crate::op::{IoBuffer, IoOp};

    fn iovecs(lengths: &[usize]) -> IoVecs {
        let buffers: Vec<Box<[u8]>> = lengths.iter().map(|&len| vec![0; len].into()).collect();
        IoVecs::read_into_all(buffers)
    }

    fn rest(iovecs: &IoVecs) -> Vec<usize> {
        iovecs.rest().iter().map(|piece| piece.iov_len).collect()
    }

    /// Returns the entry of a read of `nbytes`.
    fn encoded(iovecs: IoVecs, nbytes: u64) -> (Sqe, IoVecs) {
        let op = IoOp {
            nbytes,
            ..IoOp::new(OpCode::Read)
        };
        let buffer = IoBuffer::Vectored(Box::new(iovecs));
        let sqe = op.sqe(0, &buffer, 0);
        let IoBuffer::Vectored(iovecs) = buffer else {
            unreachable!("made above");
        };
        (sqe, *iovecs)
    }

    #[test]
    fn advancing_drops_bytes_within_pieces_and_across_them() {
        let mut list = iovecs(&[3, 0, 4, 5]);
        assert_eq!(list.len(), 12);
        list.advance(2);
        assert_eq!(rest(&list), [1, 0, 4, 5]);
        list.advance(1);
        assert_eq!(rest(&list), [4, 5]);
        list.advance(8);
        assert_eq!(rest(&list), [1]);
        list.advance(100);
        assert_eq!((rest(&list), list.len()), (vec![], 0));
    }

    #[test]
    fn one_request_has_at_most_as_many_pieces_as_the_kernel_takes() {
        let list = iovecs(&vec![2; MAX_PIECES + 7]);
        let all = list.len();
        let (sqe, mut list) = encoded(list, all);
        assert_eq!(sqe.opcode, OpCode::ReadVectored);
        assert_eq!(sqe.len, abi::UIO_MAXIOV);
        assert_eq!(list.max_transfer(), 2 * abi::UIO_MAXIOV);
        list.advance(list.max_transfer());
        let all = list.len();
        assert_eq!(encoded(list, all).0.len, 7);
    }

    #[test]
    fn one_piece_is_a_plain_transfer() {
        let mut list = iovecs(&[3, 4]);
        list.advance(4);
        let (sqe, _) = encoded(list, 3);
        assert_eq!((sqe.opcode, sqe.len), (OpCode::Read, 3));
    }

    #[test]
    fn the_buffers_of_the_caller_come_back() {
        let buffers = iovecs(&[3, 4]).into_owned::<Vec<Box<[u8]>>>().unwrap();
        assert_eq!(buffers.iter().map(|b| b.len()).sum::<usize>(), 7);
        assert!(iovecs(&[3]).into_owned::<Vec<Vec<u8>>>().is_none());
    }
}
