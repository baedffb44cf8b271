//! Adjacent writes that extend a file, performed with one system call.
//!
//! Why: a file system that blocks while it extends a file performs such writes one after another (ext4 holds the
//! lock of the inode until the data is on the disk). Threads that submit them separately wait for each other.
//! So the pool performs one at a time. Small writes that arrive meanwhile and continue each other become one
//! `pwritev2`: one allocation of blocks, one commit of the journal, and, if they are durable, one flush of
//! the disk. Each request still has a result of its own. Figures: docs/performance.md, *Files that grow*.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::slice;

use arrayvec::ArrayVec;

use crate::backend::{MAX_BATCH, OpCode, Sqe, write_vectored_at};
use crate::op::{Outcome, SubmissionEntry};
use crate::sys::{self, abi};

type Batch = ArrayVec<SubmissionEntry, MAX_BATCH>;

/// Most bytes of one call.
const MAX_BYTES: u64 = 1 << 20;

/// A waiting write.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    offset: i64,
    len: u64,
    /// Where it waits.
    index: usize,
}

impl Candidate {
    fn is_followed_by(self, next: Candidate) -> bool {
        self.offset.checked_add_unsigned(self.len) == Some(next.offset)
    }
}

/// Takes the mergeable write at `first`, and those behind it in `waiting` that are on the same descriptor, with the
/// same flags, and adjacent to it, directly or through others. In the order of their offsets.
pub(super) fn take(waiting: &mut VecDeque<SubmissionEntry>, first: usize) -> Batch {
    // Not the id of the file: the second descriptor of a direct file, for the page cache, has the same id.
    let (fd, flags) = (waiting[first].sqe.fd, waiting[first].sqe.rw_flags);
    let is_candidate =
        |entry: &SubmissionEntry| entry.merges && entry.sqe.fd == fd && entry.sqe.rw_flags == flags;
    let scanned = waiting.iter().enumerate().skip(first).take(MAX_BATCH);
    let mut candidates: ArrayVec<Candidate, MAX_BATCH> = scanned
        .filter(|(_, entry)| is_candidate(entry))
        .map(|(index, SubmissionEntry { sqe, .. })| Candidate {
            offset: sqe.offset,
            len: sqe.len,
            index,
        })
        .collect();
    candidates.sort_unstable();
    let position = candidates.iter().position(|write| write.index == first);
    let mut start = position.unwrap_or_default();
    let mut end = start + 1;
    let mut bytes = candidates[start].len;
    loop {
        if let [.., last, next] = candidates[..candidates.len().min(end + 1)] {
            if end < candidates.len() && last.is_followed_by(next) && bytes + next.len <= MAX_BYTES
            {
                bytes += next.len;
                end += 1;
                continue;
            }
        }
        match start.checked_sub(1).map(|index| candidates[index]) {
            Some(before)
                if before.is_followed_by(candidates[start]) && bytes + before.len <= MAX_BYTES =>
            {
                bytes += before.len;
                start -= 1;
            }
            _ => break,
        }
    }
    let mut taken: ArrayVec<usize, MAX_BATCH> = candidates[start..end]
        .iter()
        .map(|write| write.index)
        .collect();
    taken.sort_unstable_by(|a, b| b.cmp(a)); // the last first, so that the other indices stay right
    let mut batch: Batch = taken
        .into_iter()
        .filter_map(|index| waiting.remove(index))
        .collect();
    batch.sort_unstable_by_key(|entry| entry.sqe.offset);
    batch
}

/// Performs the writes of `batch`, which [`take`] returned. Returns the outcome of each, or `None` if nothing was
/// written because the file has no offsets (a pipe): the backends ignore the offset then, `pwritev2` fails.
///
/// # Safety
///
/// The buffers are valid, and nobody writes to them.
pub(super) unsafe fn perform(batch: &[SubmissionEntry]) -> Option<Vec<(u64, Outcome)>> {
    // SAFETY: the caller's promise.
    let result = unsafe { write(batch) };
    if matches!(&result, Err(error) if error.raw_os_error() == Some(libc::ESPIPE)) {
        return None;
    }
    let file_flags = match (&result, batch) {
        (Err(_), [first, _, ..]) => sys::status_flags(first.sqe.fd).unwrap_or(0),
        _ => 0, // not needed
    };
    let results = split(batch, result, file_flags, |entry| {
        // SAFETY: the caller's promise.
        unsafe { write(slice::from_ref(entry)) }
    });
    let user_data = batch.iter().map(|entry| entry.sqe.user_data);
    let outcomes = results.into_iter().map(Outcome::Completed);
    Some(user_data.zip(outcomes).collect())
}

/// Divides the result of all writes of `batch` into the results of each: bytes, or a negated errno. Writes that
/// the call did not begin, because it failed or was short, are made again, each by itself. `file_flags` are the
/// status flags of the file, if the call failed.
fn split(
    batch: &[SubmissionEntry],
    result: io::Result<usize>,
    file_flags: libc::c_int,
    mut write_alone: impl FnMut(&SubmissionEntry) -> io::Result<usize>,
) -> Vec<i64> {
    let error = result.as_ref().err().map(error_code);
    let code = |result: io::Result<usize>| match result {
        Ok(bytes) => bytes as i64,
        Err(error) => error_code(&error),
    };
    if batch.len() == 1 {
        return vec![code(result)];
    }
    match error {
        // The data may have been appended before the call failed. Another write would append it again.
        Some(error) if file_flags & libc::O_APPEND != 0 => return vec![error; batch.len()],
        _ => {}
    }
    let mut left = result.unwrap_or(0) as u64;
    let results = batch.iter().map(|entry| {
        let written = left.min(entry.sqe.len);
        left -= written;
        match written {
            0 => code(write_alone(entry)),
            written => written as i64,
        }
    });
    let mut results: Vec<i64> = results.collect();
    // A durable call also reports that an earlier write to the page cache was lost. The kernel reports that
    // only once. So if each of the writes succeeds, the error of the call must not get lost.
    let is_durable = batch[0].sqe.rw_flags & (abi::RWF_DSYNC | abi::RWF_SYNC) != 0
        || file_flags & libc::O_DSYNC != 0; // `O_SYNC` includes its bit
    if let (Some(error), true) = (error, is_durable && results.iter().all(|code| *code >= 0)) {
        results[0] = error;
    }
    results
}

/// The negated errno.
fn error_code(error: &io::Error) -> i64 {
    -i64::from(error.raw_os_error().unwrap_or(libc::EIO))
}

/// Performs adjacent writes with one call.
///
/// # Safety
///
/// As [`perform`].
unsafe fn write(batch: &[SubmissionEntry]) -> io::Result<usize> {
    let iovecs = batch.iter().map(|entry| libc::iovec {
        iov_base: entry.sqe.addr as usize as *mut libc::c_void,
        iov_len: entry.sqe.len as usize,
    });
    let iovecs: ArrayVec<libc::iovec, MAX_BATCH> = iovecs.collect();
    let all = Sqe {
        opcode: OpCode::WriteVectored,
        addr: iovecs.as_ptr().addr() as u64,
        len: iovecs.len() as u64,
        ..batch[0].sqe
    };
    loop {
        // SAFETY: the iovecs live through the call; the caller's promise.
        match unsafe { write_vectored_at(&all) } {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(all(test, not(kaio_loom)))]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use super::*;
    use crate::op::OpenFile;
    use crate::policy::OpClass;

    const LEN: u64 = 4096;

    /// A write of a block to `file`. Its `user_data` is the number of the block.
    fn write_of(file: &Arc<OpenFile>, block: u64, data: &[u8]) -> SubmissionEntry {
        let sqe = Sqe {
            opcode: OpCode::Write,
            priority: 0,
            fd: std::os::fd::AsRawFd::as_raw_fd(&**file),
            rw_flags: 0,
            addr: data.as_ptr().expose_provenance() as u64,
            len: data.len() as u64,
            offset: (block * LEN) as i64,
            user_data: block,
        };
        let mut entry = SubmissionEntry::new(sqe, Arc::clone(file), Some(OpClass::Extend));
        entry.merges = entry.is_mergeable();
        entry
    }

    fn new_file() -> Arc<OpenFile> {
        Arc::new(OpenFile::new(tempfile::tempfile().unwrap()))
    }

    fn blocks(batch: &[SubmissionEntry]) -> Vec<u64> {
        batch.iter().map(|entry| entry.sqe.user_data).collect()
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files")]
    fn adjacent_writes_of_a_file_are_taken_in_the_order_of_their_offsets() {
        let (file, other, data) = (new_file(), new_file(), [0; LEN as usize]);
        let mut durable = write_of(&file, 6, &data);
        durable.sqe.rw_flags = libc::RWF_DSYNC;
        let mut waiting = VecDeque::from([
            write_of(&other, 3, &data),
            write_of(&file, 4, &data),
            write_of(&file, 9, &data),
            durable,
            write_of(&file, 5, &data),
            write_of(&other, 2, &data),
            write_of(&file, 3, &data),
        ]);
        assert_eq!(blocks(&take(&mut waiting, 1)), [3, 4, 5]);
        assert_eq!(blocks(waiting.make_contiguous()), [3, 9, 6, 2]);
        assert_eq!(blocks(&take(&mut waiting, 0)), [2, 3]);
        assert_eq!(blocks(&take(&mut waiting, 1)), [6]);
        assert_eq!(blocks(&take(&mut waiting, 0)), [9]);
        assert!(waiting.is_empty());
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files")]
    fn a_call_writes_no_more_than_its_limits() {
        let (file, data) = (new_file(), vec![0; 64 << 10]);
        let of_64k = |block: u64| write_of(&file, block * 16, &data);
        let mut waiting: VecDeque<_> = (0..20).map(of_64k).collect();
        assert_eq!(take(&mut waiting, 0).len(), 16);
        assert_eq!(waiting.len(), 4);
        let mut waiting: VecDeque<_> = (0..100)
            .map(|block| write_of(&file, block, &data[..LEN as usize]))
            .collect();
        assert_eq!(take(&mut waiting, 0).len(), MAX_BATCH);
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files")]
    fn each_write_has_its_data_in_the_file_and_its_own_result() {
        let file = new_file();
        let data: Vec<_> = (0..4).map(|byte| [byte; LEN as usize]).collect();
        let writes = (0..4).map(|block| write_of(&file, block, &data[block as usize]));
        let mut waiting: VecDeque<_> = writes.collect();
        let batch = take(&mut waiting, 0);
        // SAFETY: `data` outlives the call.
        let outcomes = unsafe { perform(&batch) };
        let written = (0..4).map(|block| (block, Outcome::Completed(LEN as i64)));
        assert_eq!(outcomes, Some(written.collect()));
        let mut read = vec![0; 4 * LEN as usize];
        std::os::unix::fs::FileExt::read_exact_at(file.file(), &mut read, 0).unwrap();
        assert_eq!(read, data.concat());
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files")]
    fn an_error_is_that_of_each_write() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let (full, data) = (Arc::new(OpenFile::new(full)), [0; LEN as usize]);
        let batch = [write_of(&full, 0, &data), write_of(&full, 1, &data)];
        let no_space = Outcome::Completed(-i64::from(libc::ENOSPC));
        // SAFETY: `data` outlives the call.
        let outcomes = unsafe { perform(&batch) };
        assert_eq!(outcomes, Some(vec![(0, no_space), (1, no_space)]));
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files")]
    fn nothing_is_written_to_a_file_without_offsets() {
        let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
        let writer = File::from(std::os::fd::OwnedFd::from(writer));
        let (stream, data) = (Arc::new(OpenFile::new(writer)), [0; LEN as usize]);
        let batch = [write_of(&stream, 0, &data), write_of(&stream, 1, &data)];
        // SAFETY: `data` outlives the call.
        let outcomes = unsafe { perform(&batch) };
        assert_eq!(outcomes, None);
        drop((batch, stream)); // closes the writer
        assert_eq!(io::read_to_string(reader).unwrap(), "");
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files")]
    fn a_short_call_is_divided_and_the_rest_is_written_again() {
        let (file, data) = (new_file(), [0; LEN as usize]);
        let batch: Vec<_> = (0..4).map(|block| write_of(&file, block, &data)).collect();
        let mut again = vec![];
        let results = split(&batch, Ok(LEN as usize + 512), 0, |entry| {
            again.push(entry.sqe.user_data);
            match entry.sqe.user_data {
                2 => Ok(LEN as usize),
                _ => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            }
        });
        assert_eq!(results, [4096, 512, 4096, -i64::from(libc::ENOSPC)]);
        assert_eq!(again, [2, 3]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files")]
    fn writes_on_two_descriptors_of_a_file_are_not_merged() {
        let (file, data) = (new_file(), [0; LEN as usize]);
        let reopened = file.file().try_clone().unwrap();
        let reopened = Arc::new(OpenFile::duplicate(reopened, file.id()));
        let mut waiting = VecDeque::from([
            write_of(&file, 0, &data),
            write_of(&reopened, 1, &data),
            write_of(&file, 2, &data),
        ]);
        assert_eq!(blocks(&take(&mut waiting, 0)), [0]);
        assert_eq!(blocks(&take(&mut waiting, 0)), [1]);
    }

    /// The results of two writes with these flags whose call fails with `EIO`, and how many are made again, which
    /// succeed.
    fn after_an_error(rw_flags: i32, file_flags: i32) -> (Vec<i64>, usize) {
        let (file, data) = (new_file(), [0; LEN as usize]);
        let batch = [0, 1].map(|block| {
            let mut write = write_of(&file, block, &data);
            write.sqe.rw_flags = rw_flags;
            write
        });
        let mut again = 0;
        let error = io::Error::from_raw_os_error(libc::EIO);
        let results = split(&batch, Err(error), file_flags, |_| {
            again += 1;
            Ok(LEN as usize)
        });
        (results, again)
    }

    const FAILED: i64 = -(libc::EIO as i64);
    const WRITTEN: i64 = LEN as i64;

    #[test]
    #[cfg_attr(miri, ignore = "opens files")]
    fn the_error_of_a_durable_call_is_not_lost_if_each_write_succeeds() {
        for rw_flags in [libc::RWF_DSYNC, libc::RWF_SYNC] {
            assert_eq!(after_an_error(rw_flags, 0), (vec![FAILED, WRITTEN], 2));
        }
        for file_flags in [libc::O_DSYNC, libc::O_SYNC] {
            assert_eq!(after_an_error(0, file_flags), (vec![FAILED, WRITTEN], 2));
        }
        assert_eq!(after_an_error(0, 0), (vec![WRITTEN, WRITTEN], 2));
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files")]
    fn writes_that_may_have_been_appended_are_not_made_again() {
        let failed = (vec![FAILED, FAILED], 0);
        assert_eq!(after_an_error(libc::RWF_DSYNC, libc::O_APPEND), failed);
        assert_eq!(after_an_error(0, libc::O_APPEND), failed);
    }
}
