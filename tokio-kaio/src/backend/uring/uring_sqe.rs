//! Entries in io_uring's form, and the checks that the kernel makes too late.
#![allow(unsafe_code)] // reads the iovecs of the caller

use io_uring::opcode;
use io_uring::squeue;
use io_uring::types::{Fd, FsyncFlags};

use super::in_flight_table::Key;
use super::registered_buffers::RegisteredBuffers;
use crate::backend::{OpCode, Sqe};
use crate::buf::PathToOpen;
use crate::sys::abi::{
    IOPRIO_CLASS_IDLE, IOPRIO_CLASS_NONE, IOPRIO_CLASS_SHIFT, MAX_RW_COUNT, RWF_HIPRI, UIO_MAXIOV,
};

/// Refuses what other backends refuse and the kernel would perform, or fail with an errno that could also
/// come from the file.
///
/// # Errors
///
/// `EINVAL`.
///
/// # Safety
///
/// The iovecs of a vectored entry are valid.
#[inline]
pub(super) unsafe fn check(entry: &Sqe) -> Result<(), i32> {
    let is_good = match entry.opcode {
        OpCode::Read | OpCode::Write | OpCode::ReadVectored | OpCode::WriteVectored => {
            // SAFETY: the caller's promise.
            has_known_priority(entry.priority) && unsafe { is_in_range(entry) }
        }
        OpCode::Fsync | OpCode::Fdatasync => {
            (entry.addr, entry.len, entry.offset, entry.rw_flags) == (0, 0, 0, 0)
        }
        // The kernel checks the rest: only files have errors of these.
        OpCode::Allocate | OpCode::Truncate => entry.addr == 0,
        OpCode::SyncRange => entry.addr == 0 && u32::try_from(entry.len).is_ok(),
        OpCode::Open => entry.addr != 0 && entry.offset == 0 && u32::try_from(entry.len).is_ok(),
        OpCode::Poll => {
            let events_fit = u16::try_from(entry.len).is_ok();
            events_fit && (entry.addr, entry.offset, entry.rw_flags) == (0, 0, 0)
        }
    };
    if is_good { Ok(()) } else { Err(libc::EINVAL) }
}

#[inline]
fn has_known_priority(priority: u16) -> bool {
    if priority == 0 {
        return true;
    }
    let (class, level) = (
        priority >> IOPRIO_CLASS_SHIFT,
        priority & ((1 << IOPRIO_CLASS_SHIFT) - 1),
    );
    class <= IOPRIO_CLASS_IDLE && (class != IOPRIO_CLASS_NONE || level == 0)
}

/// Whether a transfer has an offset, not too many iovecs, and an end that is an offset.
///
/// # Safety
///
/// As [`check`].
#[inline]
unsafe fn is_in_range(entry: &Sqe) -> bool {
    let len = match entry.opcode.is_vectored() {
        false => entry.len,
        true if entry.len > UIO_MAXIOV => return false,
        true => {
            // SAFETY: the caller's promise.
            let lens = unsafe { iovecs(entry) }.map(|[_, len]| len as u64);
            lens.fold(0, u64::saturating_add)
        }
    };
    let end = (entry.offset as u64).checked_add(len);
    entry.offset >= 0 && end.is_some_and(|end| end <= i64::MAX as u64)
}

/// The iovecs of a vectored entry: address and length of each. None of another entry.
///
/// # Safety
///
/// As [`check`], until the iterator is dropped.
#[inline]
pub(super) unsafe fn iovecs(entry: &Sqe) -> impl Iterator<Item = [usize; 2]> + use<> {
    let count = match entry.opcode.is_vectored() {
        true => entry.len as usize,
        false => 0,
    };
    let first = entry.addr as usize as *const libc::iovec;
    (0..count).map(move |index| {
        // SAFETY: there are that many, by the caller's promise.
        let iovec = unsafe { first.add(index) };
        // SAFETY: as above.
        let iovec = unsafe { iovec.read() };
        [iovec.iov_base as usize, iovec.iov_len]
    })
}

/// An entry in io_uring's form. A transfer of registered memory names it.
///
/// # Safety
///
/// The memory of an [`OpCode::Open`] is valid.
#[inline]
pub(super) unsafe fn encode(entry: &Sqe, key: Key, buffers: &RegisteredBuffers) -> squeue::Entry {
    let (fd, offset) = (Fd(entry.fd), entry.offset as u64);
    // The flag only matters on rings that poll the device; on others, the kernel refuses it.
    let rw_flags = entry.rw_flags & !RWF_HIPRI;
    let address = entry.addr as usize;
    let encoded = match entry.opcode {
        OpCode::Read => {
            let len = entry.len.min(MAX_RW_COUNT) as u32;
            let address = address as *mut u8;
            match buffers.index_of(entry.addr, len.into()) {
                None => opcode::Read::new(fd, address, len)
                    .offset(offset)
                    .ioprio(entry.priority)
                    .rw_flags(rw_flags)
                    .build(),
                Some(index) => opcode::ReadFixed::new(fd, address, len, index)
                    .offset(offset)
                    .ioprio(entry.priority)
                    .rw_flags(rw_flags)
                    .build(),
            }
        }
        OpCode::Write => {
            let len = entry.len.min(MAX_RW_COUNT) as u32;
            let address = address as *const u8;
            match buffers.index_of(entry.addr, len.into()) {
                None => opcode::Write::new(fd, address, len)
                    .offset(offset)
                    .ioprio(entry.priority)
                    .rw_flags(rw_flags)
                    .build(),
                Some(index) => opcode::WriteFixed::new(fd, address, len, index)
                    .offset(offset)
                    .ioprio(entry.priority)
                    .rw_flags(rw_flags)
                    .build(),
            }
        }
        OpCode::ReadVectored => {
            opcode::Readv::new(fd, address as *const libc::iovec, entry.len as u32)
                .offset(offset)
                .ioprio(entry.priority)
                .rw_flags(rw_flags)
                .build()
        }
        OpCode::WriteVectored => {
            opcode::Writev::new(fd, address as *const libc::iovec, entry.len as u32)
                .offset(offset)
                .ioprio(entry.priority)
                .rw_flags(rw_flags)
                .build()
        }
        OpCode::Fsync => opcode::Fsync::new(fd).build(),
        OpCode::Fdatasync => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
        OpCode::Poll => opcode::PollAdd::new(fd, entry.len as u32).build(),
        OpCode::Allocate => opcode::Fallocate::new(fd, entry.len)
            .offset(offset)
            .mode(entry.rw_flags)
            .build(),
        OpCode::Truncate => opcode::Ftruncate::new(fd, entry.len).build(),
        OpCode::SyncRange => opcode::SyncFileRange::new(fd, entry.len as u32)
            .offset(offset)
            .flags(entry.rw_flags as u32)
            .build(),
        OpCode::Open => {
            // SAFETY: the caller's promise.
            let path = unsafe { PathToOpen::path_at(entry.addr) };
            opcode::OpenAt::new(Fd(libc::AT_FDCWD), path)
                .flags(entry.rw_flags)
                .mode(entry.len as u32)
                .build()
        }
    };
    encoded.user_data(key.user_data())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::{BufferPool, RegisteredPool};

    #[test]
    fn transfers_of_registered_memory_name_it() {
        let pool = BufferPool::new(2, 4096).unwrap();
        let addresses = RegisteredPool::from(&pool).addresses();
        let buffers = RegisteredBuffers::of_addresses(addresses.clone());
        let opcode_of = |opcode, addr: usize| {
            let entry = Sqe {
                opcode,
                priority: 0,
                fd: 0,
                rw_flags: 0,
                addr: addr as u64,
                len: 4096,
                offset: 0,
                user_data: 0,
            };
            // SAFETY: it opens nothing.
            let encoded = unsafe { encode(&entry, Key::from_user_data(0), &buffers) };
            let text = format!("{encoded:?}");
            let (_, number) = text.split_once("op_code: ").unwrap();
            number
                .split([',', ' '])
                .next()
                .unwrap()
                .parse::<u8>()
                .unwrap()
        };
        let (inside, outside) = (addresses.start + 4096, addresses.end);
        assert_eq!(opcode_of(OpCode::Read, inside), opcode::ReadFixed::CODE);
        assert_eq!(opcode_of(OpCode::Write, inside), opcode::WriteFixed::CODE);
        assert_eq!(opcode_of(OpCode::Read, outside), opcode::Read::CODE);
        assert_eq!(opcode_of(OpCode::Write, outside), opcode::Write::CODE);
    }
}
