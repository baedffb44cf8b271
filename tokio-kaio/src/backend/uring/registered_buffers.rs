//! [`RegisteredBuffers`]: memory that the kernel pins once, and not for each request.
#![allow(unsafe_code)] // registers memory with the kernel

use std::io;
use std::ops::Range;

use io_uring::IoUring;

use crate::buf::RegisteredPool;

/// The memory that is registered with a ring.
///
/// The kernel remembers the *pages* of an index, so the addresses must mean the same pages as long as requests
/// name the index. The pools keep their memory mapped, and nothing else is ever mapped there.
#[derive(Debug)]
pub(in crate::backend) struct RegisteredBuffers {
    /// The addresses of each index.
    ranges: Vec<Range<u64>>,
    _pools: Vec<RegisteredPool>,
    /// Why nothing is registered.
    refused: Option<io::Error>,
}

/// Bytes of the largest registered buffer.
const MOST_BYTES: usize = 1 << 30;

/// The most registered buffers.
const MOST_BUFFERS: usize = 1 << 14;

impl RegisteredBuffers {
    pub(super) fn none() -> RegisteredBuffers {
        RegisteredBuffers {
            ranges: Vec::new(),
            _pools: Vec::new(),
            refused: None,
        }
    }

    /// Registers the memory of `pools`, which the kernel pins: all of it, or none. A part that is larger than a
    /// gibibyte becomes several, and a request that crosses their border is an ordinary one.
    pub(super) fn register(ring: &IoUring, pools: &[RegisteredPool]) -> RegisteredBuffers {
        RegisteredBuffers::try_register(ring, pools).unwrap_or_else(|error| RegisteredBuffers {
            refused: Some(error),
            ..RegisteredBuffers::none()
        })
    }

    fn try_register(ring: &IoUring, pools: &[RegisteredPool]) -> io::Result<RegisteredBuffers> {
        let mut iovecs = Vec::new();
        let mut ranges = Vec::new();
        for addresses in pools.iter().map(RegisteredPool::addresses) {
            for start in addresses.clone().step_by(MOST_BYTES) {
                let end = addresses.end.min(start + MOST_BYTES);
                ranges.push(start as u64..end as u64);
                iovecs.push(libc::iovec {
                    iov_base: start as *mut libc::c_void,
                    iov_len: end - start,
                });
            }
        }
        if iovecs.is_empty() {
            return Ok(RegisteredBuffers::none());
        }
        if iovecs.len() > MOST_BUFFERS {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        // SAFETY: the result has the pools, which keep the memory mapped. It goes with the ring.
        unsafe { ring.submitter().register_buffers(&iovecs) }?;
        Ok(RegisteredBuffers {
            ranges,
            _pools: pools.to_vec(),
            refused: None,
        })
    }

    /// Ends the registration with `ring`, which has no request in flight. If a later filter forbids that, it ends
    /// with the ring.
    pub(super) fn unregister(&self, ring: &IoUring) {
        if !self.ranges.is_empty() {
            let _ = ring.submitter().unregister_buffers();
        }
    }

    /// Why nothing is registered. `ENOMEM`: `RLIMIT_MEMLOCK` is too small, or there is not enough memory.
    pub(super) fn refused(&self) -> Option<&io::Error> {
        self.refused.as_ref()
    }

    /// Memory that is registered with no ring.
    #[cfg(test)]
    pub(super) fn of_addresses(addresses: Range<usize>) -> RegisteredBuffers {
        let mut buffers = RegisteredBuffers::none();
        buffers
            .ranges
            .push(addresses.start as u64..addresses.end as u64);
        buffers
    }

    /// The number of bytes.
    pub(super) fn bytes(&self) -> usize {
        let lens = self.ranges.iter().map(|range| range.end - range.start);
        lens.sum::<u64>() as usize
    }

    /// The index of the buffer that has `len` bytes at `address`.
    #[inline]
    pub(super) fn index_of(&self, address: u64, len: u64) -> Option<u16> {
        let has_all = |range: &Range<u64>| {
            range.contains(&address) && (1..=range.end - address).contains(&len)
        };
        self.ranges
            .iter()
            .position(has_all)
            .map(|index| index as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_the_buffer_that_has_all_of_its_memory() {
        let buffers = RegisteredBuffers {
            ranges: vec![4096..8192, 8192..12288],
            ..RegisteredBuffers::none()
        };
        assert_eq!(buffers.bytes(), 8192);
        for (address, len, index) in [
            (4096, 4096, Some(0)),
            (8191, 1, Some(0)),
            (8192, 1, Some(1)),
            (12287, 1, Some(1)),
            (8191, 2, None), // crosses the border
            (4095, 2, None),
            (12288, 1, None),
            (5000, 0, None),
            (5000, u64::MAX, None),
        ] {
            assert_eq!(buffers.index_of(address, len), index, "{address} {len}");
        }
        assert_eq!(RegisteredBuffers::none().index_of(4096, 1), None);
    }
}
