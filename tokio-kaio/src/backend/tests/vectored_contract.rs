//! Vectored transfers.

use std::os::fd::AsRawFd;

use super::contract_fixture::{on_each_backend, sync};
use crate::backend::{OpCode, Sqe};
use crate::sys::abi::{RWF_APPEND, RWF_HIPRI, UIO_MAXIOV};

fn transfer(opcode: OpCode, file: &impl AsRawFd, iovecs: &[libc::iovec], offset: i64) -> Sqe {
    Sqe {
        opcode,
        addr: iovecs.as_ptr() as u64,
        len: iovecs.len() as u64,
        offset,
        ..sync(file, 7)
    }
}

fn for_read(piece: &mut [u8]) -> libc::iovec {
    libc::iovec {
        iov_base: piece.as_mut_ptr().cast(),
        iov_len: piece.len(),
    }
}

fn for_write(piece: &[u8]) -> libc::iovec {
    libc::iovec {
        iov_base: piece.as_ptr().cast_mut().cast(),
        iov_len: piece.len(),
    }
}

#[test]
fn a_read_fills_one_piece_after_the_other() {
    on_each_backend(|fixture| {
        let file = fixture.file_with(b"0123456789");
        for rw_flags in [0, RWF_HIPRI] {
            let (mut first, mut second) = ([0; 3], [0; 4]);
            let iovecs = [for_read(&mut first), for_read(&mut second)];
            let read = Sqe {
                rw_flags,
                ..transfer(OpCode::ReadVectored, &file, &iovecs, 2)
            };
            // SAFETY: the memory is looked at after the completion.
            unsafe { fixture.submit(&[read]) }.unwrap();
            assert_eq!(fixture.next_completion(), (7, 7));
            assert_eq!((&first, &second), (b"234", b"5678"));
        }
    });
}

#[test]
fn a_write_writes_one_piece_after_the_other() {
    on_each_backend(|fixture| {
        let file = fixture.file_with(b"0123456789");
        let iovecs = [for_write(b"ab"), for_write(b""), for_write(b"cde")];
        let write = transfer(OpCode::WriteVectored, &file, &iovecs, 1);
        // SAFETY: nobody writes to the memory.
        unsafe { fixture.submit(&[write]) }.unwrap();
        assert_eq!(fixture.next_completion(), (7, 5));
        assert_eq!(file.content(), b"0abcde6789");
        let append = Sqe {
            rw_flags: RWF_APPEND,
            ..write
        };
        // SAFETY: as above.
        unsafe { fixture.submit(&[append]) }.unwrap();
        assert_eq!(fixture.next_completion(), (7, 5));
        assert_eq!(file.content(), b"0abcde6789abcde");
    });
}

#[test]
fn iovecs_are_not_used_after_the_submission() {
    on_each_backend(|fixture| {
        let file = fixture.file_with(b"0123456789");
        let (mut first, mut second) = ([0; 3], [0; 4]);
        let iovecs = vec![for_read(&mut first), for_read(&mut second)];
        let read = transfer(OpCode::ReadVectored, &file, &iovecs, 0);
        // SAFETY: the memory is looked at after the completion.
        unsafe { fixture.submit(&[read]) }.unwrap();
        drop(iovecs);
        assert_eq!(fixture.next_completion(), (7, 7));
        assert_eq!((&first, &second), (b"012", b"3456"));
    });
}

#[test]
fn more_iovecs_than_allowed_are_refused() {
    on_each_backend(|fixture| {
        let file = fixture.file_with(b"");
        for opcode in [OpCode::ReadVectored, OpCode::WriteVectored] {
            let mut iovecs = vec![for_write(b""); UIO_MAXIOV as usize];
            let most = transfer(opcode, &file, &iovecs, 0);
            // SAFETY: it moves nothing.
            unsafe { fixture.submit(&[most]) }.unwrap();
            assert_eq!(fixture.next_completion(), (7, 0));
            iovecs.push(for_write(b""));
            let more = transfer(opcode, &file, &iovecs, 0);
            // SAFETY: it is refused.
            assert_eq!(unsafe { fixture.submit(&[more]) }, Err(libc::EINVAL));
        }
    });
}

#[test]
fn a_negative_offset_is_refused() {
    on_each_backend(|fixture| {
        let file = fixture.file_with(b"");
        let iovecs = [for_write(b"")];
        for (opcode, rw_flags) in [
            (OpCode::ReadVectored, 0),
            (OpCode::ReadVectored, RWF_HIPRI),
            (OpCode::WriteVectored, 0),
            (OpCode::WriteVectored, RWF_HIPRI),
        ] {
            let transfer = Sqe {
                rw_flags,
                ..transfer(opcode, &file, &iovecs, -1)
            };
            // SAFETY: it is refused.
            assert_eq!(unsafe { fixture.submit(&[transfer]) }, Err(libc::EINVAL));
        }
    });
}

#[test]
fn a_transfer_past_the_largest_offset_is_refused() {
    on_each_backend(|fixture| {
        let file = fixture.file_with(b"");
        let mut memory = [0; 2];
        let iovecs = [for_read(&mut memory[..1]), for_write(b"0")];
        for rw_flags in [0, RWF_HIPRI] {
            for opcode in [OpCode::ReadVectored, OpCode::WriteVectored] {
                let transfer = Sqe {
                    rw_flags,
                    ..transfer(opcode, &file, &iovecs, i64::MAX - 1)
                };
                // SAFETY: it is refused.
                assert_eq!(unsafe { fixture.submit(&[transfer]) }, Err(libc::EINVAL));
            }
        }
        assert!(fixture.is_quiet());
    });
}
