//! Finds the data of a sparse file, and divides it into chunks.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// A byte range of a file.
pub(super) type Extent = Range<u64>;

/// Returns the extents of data within the first `length` bytes of an open file, in order, or the whole
/// range if the file system does not report holes. Any other error counts as that, because file systems
/// use various errnos: ext4 returns `ENOENT` for a file that is stored in its inode.
///
/// # Errors
///
/// `EIO` from [`lseek(2)`](https://man7.org/linux/man-pages/man2/lseek.2.html) with `SEEK_DATA`.
pub(super) fn data(file: impl AsFd, length: u64) -> io::Result<Vec<Extent>> {
    let mut extents = Vec::new();
    let mut at = 0;
    while at < length {
        let start = match seek(&file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break, // a hole to the end of the file
            Err(Errno::IO) => return Err(Errno::IO.into()),
            Err(_) => return Ok(vec![0..length]),
        };
        if start >= length {
            break; // the file has grown
        }
        let end = match seek(&file, SeekFrom::Hole(start)) {
            Ok(end) => end.min(length),
            Err(Errno::NXIO) => break, // the file was truncated
            Err(Errno::IO) => return Err(Errno::IO.into()),
            Err(_) => return Ok(vec![0..length]),
        };
        extents.push(start..end);
        at = end;
    }
    Ok(extents)
}

/// Counts the bytes of data within the first `length` bytes.
///
/// # Errors
///
/// Those of [`data`].
pub(super) fn data_bytes(file: &File, length: u64) -> io::Result<u64> {
    let extents = data(file, length)?;
    Ok(extents.iter().map(|extent| extent.end - extent.start).sum())
}

/// Extends both ends of `extents` to multiples of `alignment`, and merges extents that touch.
pub(super) fn aligned_outwards(extents: &[Extent], alignment: u64) -> Vec<Extent> {
    let mut whole: Vec<Extent> = Vec::with_capacity(extents.len());
    for extent in extents {
        let (start, end) = (
            extent.start / alignment * alignment,
            extent.end.next_multiple_of(alignment),
        );
        match whole.last_mut() {
            Some(last) if last.end >= start => last.end = end.max(last.end),
            _ => whole.push(start..end),
        }
    }
    whole
}

/// Divides `extents` into chunks of at most `size` bytes. No chunk crosses a multiple of `size`.
pub(super) fn chunks(extents: &[Extent], size: u64) -> impl Iterator<Item = Extent> {
    extents.iter().flat_map(move |extent| {
        let end = extent.end;
        let cut = move |at: &u64| {
            let next = (at / size + 1) * size;
            (next < end).then_some(next)
        };
        std::iter::successors(Some(extent.start).filter(|start| *start < end), cut)
            .map(move |at| at..((at / size + 1) * size).min(end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_extended_to_whole_blocks_and_merged() {
        let extents = [5..10, 600..1024, 1024..1030, 5000..5001];
        assert_eq!(aligned_outwards(&extents, 512), [0..1536, 4608..5120]);
        assert_eq!(
            aligned_outwards(&extents, 1),
            [5..10, 600..1030, 5000..5001]
        );
        assert_eq!(aligned_outwards(&[], 512), []);
    }

    #[test]
    fn chunks_cover_the_extents_once_and_end_at_multiples() {
        let cut: Vec<_> = chunks(&[0..25, 37..40, 47..51], 10).collect();
        assert_eq!(cut, [0..10, 10..20, 20..25, 37..40, 47..50, 50..51]);
        assert_eq!(chunks(&[], 10).count(), 0);
    }

    #[test]
    fn an_empty_file_has_no_data() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(data(&file, 0).unwrap(), []);
    }

    #[test]
    fn holes_are_not_data() {
        use std::os::unix::fs::{FileExt, MetadataExt};
        let file = tempfile::tempfile_in(".").unwrap();
        file.set_len(10 << 20).unwrap();
        file.write_all_at(&[7; 8192], 4 << 20).unwrap();
        if file.metadata().unwrap().blocks() > 1 << 10 {
            eprintln!("skipped: no holes here");
            return;
        }
        assert_eq!(data(&file, 10 << 20).unwrap(), [4 << 20..(4 << 20) + 8192]);
        assert_eq!(
            data(&file, (4 << 20) + 100).unwrap(),
            [4 << 20..(4 << 20) + 100]
        );
        assert_eq!(data_bytes(&file, 10 << 20).unwrap(), 8192);
    }
}
