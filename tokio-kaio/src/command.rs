//! [`RawCommand`]: one operation as the caller states it.

use crate::error::Transfer;
use crate::flags::{ReadFlags, WriteFlags};
use crate::{AioCommandError, LockedBuf};

use crate::request::{Lease, Order, Payload};
use crate::sys::abi;

/// One operation, for
/// [`submit_request`](crate::GenericAioContextHandle::submit_request).
///
/// Offsets and lengths are bytes. For direct I/O they must be multiples of what the file wants:
/// 512 or 4096 mostly. A later, breaking version may have
/// further variants.
#[derive(Debug)]
pub enum RawCommand<'a> {
    /// Read `len` bytes at `offset` to the front of `buffer`. Completes with the number of bytes
    /// read: less than `len` where the file ends, 0 at or past its end. As
    /// [`pread(2)`](https://man7.org/linux/man-pages/man2/pread.2.html).
    Pread {
        /// Where in the file, bytes.
        offset: u64,
        /// Where to. Of the `len` bytes, those after the ones that were read can have been zeroed;
        /// the rest of the buffer is left as it was.
        buffer: &'a mut LockedBuf,
        /// How.
        flags: ReadFlags,
        /// How many bytes, at most the buffer's size.
        len: u64,
    },

    /// Write the first `len` bytes of `buffer` at `offset`. Completes with the number of bytes
    /// written, which can be less than `len`, as where the disk fills up; the rest is then to be
    /// moved to the front of the buffer for the next write. As
    /// [`pwrite(2)`](https://man7.org/linux/man-pages/man2/pwrite.2.html).
    Pwrite {
        /// Where in the file, bytes. Ignored with [`WriteFlags::APPEND`], and where the file was
        /// opened with `O_APPEND`.
        offset: u64,
        /// Where from.
        buffer: &'a LockedBuf,
        /// How.
        flags: WriteFlags,
        /// How many bytes, at most the buffer's size.
        len: u64,
    },

    /// Make the file's data durable. Covers the writes that have completed before it is submitted.
    /// As [`fdatasync(2)`](https://man7.org/linux/man-pages/man2/fdatasync.2.html).
    Fdsync,

    /// Make the file's data and metadata durable. Covers the writes that have completed before it
    /// is submitted. As [`fsync(2)`](https://man7.org/linux/man-pages/man2/fsync.2.html).
    Fsync,
}

impl<'a> RawCommand<'a> {
    /// `IOCB_CMD_*`.
    pub(crate) fn opcode(&self) -> u16 {
        match self {
            RawCommand::Pread { .. } => abi::IOCB_CMD_PREAD,
            RawCommand::Pwrite { .. } => abi::IOCB_CMD_PWRITE,
            RawCommand::Fdsync => abi::IOCB_CMD_FDSYNC,
            RawCommand::Fsync => abi::IOCB_CMD_FSYNC,
        }
    }

    /// Whether it is a write to the end of the file, wherever that is when it is made.
    pub(crate) fn appends(&self) -> bool {
        matches!(self, RawCommand::Pwrite { flags, .. } if flags.contains(WriteFlags::APPEND))
    }

    /// Panics where `len` is larger than the buffer.
    pub(crate) fn check(&self) {
        let (len, size) = match self {
            RawCommand::Pread { len, buffer, .. } => (*len, buffer.size()),
            RawCommand::Pwrite { len, buffer, .. } => (*len, buffer.size()),
            RawCommand::Fdsync | RawCommand::Fsync => return,
        };
        assert!(
            len <= size as u64,
            "len should be <= buffer.size(): a transfer of {len} bytes on a buffer of {size}"
        );
    }

    pub(crate) fn transfer(&self) -> Option<Transfer> {
        match *self {
            RawCommand::Pread { offset, len, .. } => Some(Transfer {
                offset: Some(offset),
                len,
            }),
            RawCommand::Pwrite {
                offset, len, flags, ..
            } => Some(Transfer {
                offset: (!flags.contains(WriteFlags::APPEND)).then_some(offset),
                len,
            }),
            RawCommand::Fdsync | RawCommand::Fsync => None,
        }
    }

    /// What goes to the kernel, with the memory for it leased from the buffer.
    ///
    /// # Errors
    ///
    /// `IoSubmit`: `ENOMEM` where a buffer must be copied and can't, `EOPNOTSUPP` for flags that
    /// no kernel could know.
    pub(crate) fn payload(self) -> Result<(Payload, Lease<'a>), AioCommandError> {
        let opcode = self.opcode();
        Ok(match self {
            RawCommand::Pread {
                offset,
                buffer,
                flags,
                len,
            } => {
                let order = Order {
                    opcode,
                    rw_flags: rw_flags(flags.bits())?,
                    nbytes: len,
                    offset: offset as i64,
                };
                Payload::read(order, buffer).map_err(AioCommandError::IoSubmit)?
            }
            RawCommand::Pwrite {
                offset,
                buffer,
                flags,
                len,
            } => {
                let order = Order {
                    opcode,
                    rw_flags: rw_flags(flags.bits())?,
                    nbytes: len,
                    offset: offset as i64,
                };
                (Payload::write(order, buffer), Lease::None)
            }
            RawCommand::Fdsync | RawCommand::Fsync => (Payload::bare(opcode), Lease::None),
        })
    }
}

/// No bit is dropped on the way to the kernel.
fn rw_flags(bits: isize) -> Result<i32, AioCommandError> {
    i32::try_from(bits)
        .map_err(|_| AioCommandError::IoSubmit(std::io::Error::from_raw_os_error(libc::EOPNOTSUPP)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::abi::Iocb;

    const EVENTFD: i32 = 77;

    /// The iocb as the kernel gets it, of a command that is well-formed.
    fn encoded(command: RawCommand<'_>) -> Iocb {
        let (mut payload, lease) = command.payload().unwrap();
        let (order, memory) = payload.take();
        let mut iocb = order.iocb(5, &memory, 3);
        lease.settle(memory);
        assert_eq!(iocb.flags, 0, "RWF flags put here would be lost");
        iocb.notify(EVENTFD);
        assert_eq!(
            (iocb.flags, iocb.resfd),
            (abi::IOCB_FLAG_RESFD, EVENTFD as u32)
        );
        assert_eq!((iocb.data, iocb.fildes), (3, 5));
        assert_eq!((iocb.reqprio, iocb.reserved2), (0, 0));
        iocb
    }

    fn read(buffer: &mut LockedBuf, flags: ReadFlags) -> RawCommand<'_> {
        RawCommand::Pread {
            offset: 8192,
            buffer,
            flags,
            len: 512,
        }
    }

    fn write(buffer: &LockedBuf, flags: WriteFlags) -> RawCommand<'_> {
        RawCommand::Pwrite {
            offset: 8192,
            buffer,
            flags,
            len: 512,
        }
    }

    #[test]
    fn every_read_flag_is_in_rw_flags_and_nowhere_else() {
        let mut buffer = LockedBuf::with_size(4096).unwrap();
        for (flag, bits) in [
            (ReadFlags::empty(), 0),
            (ReadFlags::HIPRI, libc::RWF_HIPRI),
            (ReadFlags::NOWAIT, libc::RWF_NOWAIT),
            (ReadFlags::all(), libc::RWF_HIPRI | libc::RWF_NOWAIT),
            (ReadFlags::from_bits_retain(1 << 30), 1 << 30),
        ] {
            let iocb = encoded(read(&mut buffer, flag));
            assert_eq!(iocb.rw_flags, bits, "{flag:?}");
        }
    }

    #[test]
    fn every_write_flag_is_in_rw_flags_and_nowhere_else() {
        let buffer = LockedBuf::with_size(4096).unwrap();
        for (flag, bits) in [
            (WriteFlags::empty(), 0),
            (WriteFlags::APPEND, libc::RWF_APPEND),
            (WriteFlags::DSYNC, libc::RWF_DSYNC),
            (WriteFlags::HIPRI, libc::RWF_HIPRI),
            (WriteFlags::NOWAIT, libc::RWF_NOWAIT),
            (WriteFlags::SYNC, libc::RWF_SYNC),
            (WriteFlags::all(), 0x1f),
            (WriteFlags::from_bits_retain(0x20), 0x20),
        ] {
            let iocb = encoded(write(&buffer, flag));
            assert_eq!(iocb.rw_flags, bits, "{flag:?}");
        }
    }

    #[test]
    fn bits_that_do_not_fit_are_refused_and_the_buffer_stays() {
        let mut buffer = LockedBuf::with_size(4096).unwrap();
        for bits in (31..isize::BITS).map(|bit| 1_isize << bit) {
            let flags = ReadFlags::from_bits_retain(bits);
            let error = read(&mut buffer, flags).payload().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP), "{bits:#x}");
            let flags = WriteFlags::from_bits_retain(bits);
            let error = write(&buffer, flags).payload().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP), "{bits:#x}");
        }
        assert_eq!(buffer.size(), 4096);
    }

    #[test]
    fn transfers_name_their_place_and_memory() {
        let mut buffer = LockedBuf::with_size(4096).unwrap();
        let address = buffer.as_ref().as_ptr().addr() as u64;
        let iocb = encoded(write(&buffer, WriteFlags::empty()));
        assert_eq!(iocb.lio_opcode, abi::IOCB_CMD_PWRITE);
        assert_eq!((iocb.offset, iocb.nbytes, iocb.buf), (8192, 512, address));
        let iocb = encoded(read(&mut buffer, ReadFlags::empty()));
        assert_eq!(iocb.lio_opcode, abi::IOCB_CMD_PREAD);
        assert_eq!((iocb.offset, iocb.nbytes, iocb.buf), (8192, 512, address));
    }

    #[test]
    fn syncs_leave_every_field_of_a_transfer_at_zero() {
        for (command, opcode) in [
            (RawCommand::Fsync, abi::IOCB_CMD_FSYNC),
            (RawCommand::Fdsync, abi::IOCB_CMD_FDSYNC),
        ] {
            let iocb = encoded(command);
            assert_eq!(iocb.lio_opcode, opcode);
            assert_eq!(
                (iocb.offset, iocb.nbytes, iocb.buf, iocb.rw_flags),
                (0, 0, 0, 0)
            );
        }
    }
}
