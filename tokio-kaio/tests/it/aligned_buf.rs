//! `AlignedBuf`: address, kind and limits of its memory, and its release.

use std::fs;
use std::panic::catch_unwind;

use crate::common::*;
use tokio_kaio::{AlignedBuf, LockedBuf, LockedBufError, ReadFlags, WriteFlags};

const HUGE_PAGE: usize = 2 << 20;

/// Bytes of the field `name` of `/proc/self/status`.
fn status(name: &str) -> usize {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let of_field = |line: &str| kilobytes(line.strip_prefix(name)?);
    text.lines().find_map(of_field).unwrap()
}

fn kilobytes(text: &str) -> Option<usize> {
    let number = text.strip_prefix(':')?.trim().strip_suffix(" kB")?;
    Some(number.parse::<usize>().unwrap() << 10)
}

/// Bytes on huge pages in the mapping that starts at `address`.
fn on_huge_pages(address: usize) -> usize {
    let text = fs::read_to_string("/proc/self/smaps").unwrap();
    let start = format!("{address:x}-");
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&start));
    let of_field = |line: &str| kilobytes(line.strip_prefix("AnonHugePages")?);
    lines.find_map(of_field).unwrap()
}

/// Whether the system provides huge pages on request. If not, prints a line that says so.
fn has_huge_pages() -> bool {
    let enabled = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    let size = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size");
    let there = enabled.is_ok_and(|enabled| !enabled.contains("[never]"))
        && size.is_ok_and(|size| size.trim().parse() == Ok(HUGE_PAGE));
    if !there {
        eprintln!("skipped: the system has no transparent huge pages of 2 MiB");
    }
    there
}

#[test]
fn buffers_of_any_size_are_page_aligned_and_zeroed() {
    for size in [1, 511, 512, 4095, 4096, 4097, 1 << 20, (3 << 20) + 1] {
        for made in [
            AlignedBuf::new(size),
            AlignedBuf::huge(size),
            AlignedBuf::with_alignment(size, 1),
        ] {
            let mut buffer = made.unwrap();
            assert_eq!((buffer.size(), buffer.len()), (size, size));
            assert_eq!(buffer.as_ptr().addr() % 4096, 0);
            assert!(buffer.iter().all(|&byte| byte == 0));
            assert!(!buffer.is_locked());
            buffer.fill(7);
            assert!(buffer.iter().all(|&byte| byte == 7));
        }
    }
}

#[test]
fn a_buffer_has_the_requested_alignment() {
    for alignment in (0..=26).map(|bits| 1_usize << bits) {
        for size in [1, 4096, 3 << 12, 1 << 21] {
            let mut buffer = AlignedBuf::with_alignment(size, alignment).unwrap();
            assert_eq!(
                buffer.as_ptr().addr() % alignment.max(4096),
                0,
                "{alignment}"
            );
            assert_eq!(buffer.size(), size);
            buffer[size - 1] = 1;
        }
    }
}

#[test]
fn an_alignment_must_be_a_power_of_two() {
    for alignment in [0, 3, 4097, usize::MAX] {
        catch_unwind(|| AlignedBuf::with_alignment(4096, alignment)).unwrap_err();
    }
}

#[test]
fn an_impossible_size_is_an_error() {
    let made_of = |size| {
        [
            AlignedBuf::new(size),
            AlignedBuf::with_size(size),
            AlignedBuf::with_alignment(size, 1 << 21),
            AlignedBuf::huge(size),
        ]
    };
    for size in [
        0,
        1 << 62,
        isize::MAX as usize,
        usize::MAX - 4096,
        usize::MAX,
    ] {
        for made in made_of(size) {
            assert!(
                matches!(made, Err(LockedBufError::MapAnon(_))),
                "{size}: {made:?}"
            );
        }
    }
    let too_far = AlignedBuf::with_alignment(4096, 1 << (usize::BITS - 1));
    assert!(
        matches!(too_far, Err(LockedBufError::MapAnon(_))),
        "{too_far:?}"
    );
}

#[test]
fn an_empty_buffer_is_a_buffer() {
    let mut empty = AlignedBuf::default();
    assert_eq!((empty.size(), empty.len(), empty.as_mut().len()), (0, 0, 0));
    assert!(!empty.is_locked());
    assert_eq!((empty.part(..).len(), empty.part_mut(..).len()), (0, 0));
    assert!(format!("{empty:?}").contains("size: 0"));
}

#[test]
fn a_range_beyond_the_buffer_panics() {
    let buffer = AlignedBuf::new(4096).unwrap();
    assert_eq!(buffer.part(100..200).len(), 100);
    assert_eq!(
        (buffer.part(4096..).len(), buffer.part(..=4095).len()),
        (0, 4096)
    );
    assert!(buffer.part(7..7).is_empty());
    for range in [0..4097, 4097..4097, usize::MAX..usize::MAX] {
        let from = std::panic::AssertUnwindSafe(&buffer);
        catch_unwind(|| from.part(range.clone()).len()).unwrap_err();
        let mut own = AlignedBuf::new(4096).unwrap();
        let to = std::panic::AssertUnwindSafe(&mut own);
        catch_unwind(move || { to }.part_mut(range).len()).unwrap_err();
    }
}

#[test]
fn memory_is_unmapped_completely() {
    if !in_child!() {
        return;
    }
    let before = status("VmSize");
    for _ in 0..50 {
        let buffers = [
            AlignedBuf::new(64 << 20),
            AlignedBuf::with_alignment(64 << 20, 1 << 24),
            AlignedBuf::huge((64 << 20) + 1),
        ];
        drop(buffers.map(Result::unwrap));
    }
    // If it leaked, that would be 9600 MiB.
    assert!(
        status("VmSize") < before + (1 << 30),
        "it is not given back"
    );
}

#[test]
fn large_buffers_use_huge_pages_if_available() {
    // Not beside other tests: the kernel would merge the mapping with one of theirs.
    if !in_child!() || !has_huge_pages() {
        return;
    }
    let mut huge = AlignedBuf::huge(8 * HUGE_PAGE + 5).unwrap();
    assert_eq!(huge.as_ptr().addr() % HUGE_PAGE, 0);
    huge.fill(1);
    let found = on_huge_pages(huge.as_ptr().addr());
    if found == 0 {
        eprintln!("skipped: the system has no huge page to give now");
        return;
    }
    assert_eq!(found % HUGE_PAGE, 0);
    assert!(found <= 9 * HUGE_PAGE);
}

#[test]
fn only_locked_buffers_count_as_locked_memory() {
    if !in_child!() {
        return;
    }
    let before = status("VmLck");
    let locked = LockedBuf::with_size(3 * 4096 + 1).unwrap();
    assert!(locked.is_locked());
    assert_eq!(status("VmLck") - before, 4 * 4096);
    let plain = AlignedBuf::new(1 << 20).unwrap();
    assert_eq!(status("VmLck") - before, 4 * 4096);
    drop((locked, plain));
    assert_eq!(status("VmLck"), before);
}

#[test]
fn only_locked_buffers_are_subject_to_the_memlock_limit() {
    if !in_child!() || !drop_root() {
        return;
    }
    set_limit(libc::RLIMIT_MEMLOCK, 64 << 10);
    let refused = LockedBuf::with_size(1 << 20);
    assert!(
        matches!(refused, Err(LockedBufError::MemLock(_))),
        "{refused:?}"
    );
    for made in [AlignedBuf::new(1 << 20), AlignedBuf::huge(1 << 20)] {
        made.unwrap().fill(1);
    }
    LockedBuf::with_size(16 << 10).unwrap();
}

/// Every kind of buffer, for every kind of transfer.
#[test]
fn every_kind_of_buffer_is_read_into_and_written_from() {
    Fixture::new(4).everywhere().run(async |case| {
        let (file, handle) = (case.file, case.handle);
        let kinds = [
            AlignedBuf::new(2 * BLOCK),
            AlignedBuf::with_size(2 * BLOCK),
            AlignedBuf::with_alignment(2 * BLOCK, 1 << 16),
            AlignedBuf::huge(2 * BLOCK),
        ];
        for (seed, kind) in (0..).zip(kinds) {
            let mut bytes = kind.unwrap();
            pattern(seed, &mut bytes);
            let written = file.write_at(&handle, 0, &bytes, 8192, WriteFlags::empty());
            assert_eq!(written.await.unwrap(), 8192);
            let address = bytes.as_ptr();
            bytes.fill(0);
            let read = file.read_at(&handle, 0, &mut bytes, 8192, ReadFlags::empty());
            assert_eq!(read.await.unwrap(), 8192);
            assert!(is_pattern(seed, &bytes));
            assert_eq!(bytes.as_ptr(), address);
        }
    });
}
