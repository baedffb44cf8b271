//! Transfers of many pieces of memory.

use std::os::fd::AsRawFd;

use super::rig::{content, file_with, on_both};
use crate::sys::abi::{IOCB_CMD_PREADV, IOCB_CMD_PWRITEV, Iocb, RWF_APPEND, RWF_HIPRI, UIO_MAXIOV};

fn transfer(opcode: u16, file: &impl AsRawFd, pieces: &[libc::iovec], offset: i64) -> Iocb {
    Iocb {
        lio_opcode: opcode,
        fildes: file.as_raw_fd() as u32,
        buf: pieces.as_ptr() as u64,
        nbytes: pieces.len() as u64,
        offset,
        ..Iocb::default()
    }
}

fn filled(piece: &mut [u8]) -> libc::iovec {
    libc::iovec {
        iov_base: piece.as_mut_ptr().cast(),
        iov_len: piece.len(),
    }
}

fn sent(piece: &[u8]) -> libc::iovec {
    libc::iovec {
        iov_base: piece.as_ptr().cast_mut().cast(),
        iov_len: piece.len(),
    }
}

#[test]
fn a_read_fills_one_piece_after_the_other() {
    on_both(|rig| {
        let file = file_with(b"0123456789");
        for rw_flags in [0, RWF_HIPRI] {
            let (mut first, mut second) = ([0; 3], [0; 4]);
            let pieces = [filled(&mut first), filled(&mut second)];
            let read = Iocb {
                rw_flags,
                ..transfer(IOCB_CMD_PREADV, &file, &pieces, 2)
            };
            // SAFETY: the memory is looked at after the event.
            unsafe { rig.submit(&mut [read]) }.unwrap();
            assert_eq!(rig.next_event(), [(0, 7)]);
            assert_eq!((&first, &second), (b"234", b"5678"));
        }
    });
}

#[test]
fn a_write_takes_one_piece_after_the_other() {
    on_both(|rig| {
        let file = file_with(b"0123456789");
        let pieces = [sent(b"ab"), sent(b""), sent(b"cde")];
        let write = transfer(IOCB_CMD_PWRITEV, &file, &pieces, 1);
        // SAFETY: nobody writes to the memory.
        unsafe { rig.submit(&mut [write]) }.unwrap();
        assert_eq!(rig.next_event(), [(0, 5)]);
        assert_eq!(content(&file), b"0abcde6789");
        let append = Iocb {
            rw_flags: RWF_APPEND,
            ..write
        };
        // SAFETY: as above.
        unsafe { rig.submit(&mut [append]) }.unwrap();
        assert_eq!(rig.next_event(), [(0, 5)]);
        assert_eq!(content(&file), b"0abcde6789abcde");
    });
}

#[test]
fn more_pieces_than_there_may_be_are_refused() {
    on_both(|rig| {
        let file = file_with(b"");
        for opcode in [IOCB_CMD_PREADV, IOCB_CMD_PWRITEV] {
            let mut pieces = vec![sent(b""); UIO_MAXIOV as usize];
            let most = transfer(opcode, &file, &pieces, 0);
            // SAFETY: it moves nothing.
            unsafe { rig.submit(&mut [most]) }.unwrap();
            assert_eq!(rig.next_event(), [(0, 0)]);
            pieces.push(sent(b""));
            let more = transfer(opcode, &file, &pieces, 0);
            // SAFETY: it is refused.
            assert_eq!(unsafe { rig.submit(&mut [more]) }, Err(libc::EINVAL));
        }
    });
}

#[test]
fn a_negative_offset_is_refused() {
    on_both(|rig| {
        let file = file_with(b"");
        let pieces = [sent(b"")];
        for (opcode, rw_flags) in [
            (IOCB_CMD_PREADV, 0),
            (IOCB_CMD_PREADV, RWF_HIPRI),
            (IOCB_CMD_PWRITEV, 0),
            (IOCB_CMD_PWRITEV, RWF_HIPRI),
        ] {
            let transfer = Iocb {
                rw_flags,
                ..transfer(opcode, &file, &pieces, -1)
            };
            // SAFETY: it is refused.
            assert_eq!(unsafe { rig.submit(&mut [transfer]) }, Err(libc::EINVAL));
        }
    });
}
