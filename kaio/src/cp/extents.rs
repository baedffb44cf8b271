//! Where a file has data, and where holes; and in which pieces it is copied.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Bytes of a file, from an offset to another.
pub(super) type Extent = Range<u64>;

/// Where the first `length` bytes of an open file are data, in order: all of it, where the file system
/// can't tell. Some have errors of their own for that, as ext4 has `ENOENT` for a file in its inode; if
/// the file can't be read, reading tells.
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
            Err(Errno::NXIO) => break, // a hole up to the end
            Err(Errno::IO) => return Err(Errno::IO.into()),
            Err(_) => return Ok(vec![0..length]),
        };
        if start >= length {
            break; // it has grown
        }
        let end = match seek(&file, SeekFrom::Hole(start)) {
            Ok(end) => end.min(length),
            Err(Errno::NXIO) => break, // cut off meanwhile
            Err(Errno::IO) => return Err(Errno::IO.into()),
            Err(_) => return Ok(vec![0..length]),
        };
        extents.push(start..end);
        at = end;
    }
    Ok(extents)
}

/// How many bytes of the first `length` are data.
///
/// # Errors
///
/// Those of [`data`].
pub(super) fn data_bytes(file: &File, length: u64) -> io::Result<u64> {
    let extents = data(file, length)?;
    Ok(extents.iter().map(|extent| extent.end - extent.start).sum())
}

/// `extents`, grown to multiples of `grain` at both ends; those that meet then are one.
pub(super) fn grown(extents: &[Extent], grain: u64) -> Vec<Extent> {
    let mut whole: Vec<Extent> = Vec::with_capacity(extents.len());
    for extent in extents {
        let (start, end) = (
            extent.start / grain * grain,
            extent.end.next_multiple_of(grain),
        );
        match whole.last_mut() {
            Some(last) if last.end >= start => last.end = end.max(last.end),
            _ => whole.push(start..end),
        }
    }
    whole
}

/// `extents` in pieces of at most `size` bytes, each within one block of that size, as the file is
/// divided into them.
pub(super) fn pieces(extents: &[Extent], size: u64) -> impl Iterator<Item = Extent> {
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
    fn extents_grow_to_whole_blocks_and_join() {
        let extents = [5..10, 600..1024, 1024..1030, 5000..5001];
        assert_eq!(grown(&extents, 512), [0..1536, 4608..5120]);
        assert_eq!(grown(&extents, 1), [5..10, 600..1030, 5000..5001]);
        assert_eq!(grown(&[], 512), []);
    }

    #[test]
    fn pieces_cover_the_extents_once_and_end_at_multiples() {
        let cut: Vec<_> = pieces(&[0..25, 37..40, 47..51], 10).collect();
        assert_eq!(cut, [0..10, 10..20, 20..25, 37..40, 47..50, 50..51]);
        assert_eq!(pieces(&[], 10).count(), 0);
    }

    #[test]
    fn an_empty_file_has_no_data() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(data(&file, 0).unwrap(), []);
    }

    #[test]
    fn holes_are_not_among_the_data() {
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
