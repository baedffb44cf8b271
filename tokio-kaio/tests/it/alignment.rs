//! `File::alignment` and `File::atomic_writes`: what direct I/O on a file requires and offers.

use std::fs;

use crate::common::*;
use tokio_kaio::{Alignment, AlignmentSource, File, ReadFlags, WriteFlags};

async fn alignment(file: &File) -> Alignment {
    file.alignment().await.unwrap()
}

#[test]
fn transfers_with_the_reported_alignment_succeed() {
    Fixture::new(1).blocks(4).every_dir().run(async |case| {
        let (path, file, handle) = (case.path, case.file, case.handle);
        let alignment = alignment(&file).await;
        assert!(alignment.memory.is_power_of_two(), "{alignment:?}");
        assert!(alignment.read_offset <= alignment.offset, "{alignment:?}");
        assert_ne!(alignment.source, AlignmentSource::Assumed);
        assert_ne!(alignment.source, AlignmentSource::Buffered);
        if let Some(reported) = statx_alignment(&fs::File::open(path.clone()).unwrap()) {
            assert_eq!(alignment.source, AlignmentSource::Statx);
            assert_eq!(alignment.offset, u64::from(reported));
        }

        let bytes = patterned_buffer(5, 2 * BLOCK);
        for at in [alignment.offset, 3 * alignment.offset] {
            let len = alignment.offset;
            let written = file.write_at(&handle, at, &bytes, len, WriteFlags::empty());
            assert_eq!(written.await.unwrap(), len, "{alignment:?}");
        }
        let mut bytes = buffer(2 * BLOCK);
        for at in [alignment.read_offset, 3 * alignment.read_offset] {
            let len = alignment.read_offset;
            let read = file.read_at(&handle, at, &mut bytes, len, ReadFlags::empty());
            assert_eq!(read.await.unwrap(), len, "{alignment:?}");
        }
    });
}

#[tokio::test]
async fn clones_share_their_alignment() {
    for dir in test_dirs() {
        write_patterned(&dir.path().join("data"), 1);
        let file = open_rw(&dir, "data").await;
        let clone = file.try_clone().unwrap();
        let known = alignment(&file).await;
        assert_eq!(alignment(&clone).await, known);
    }
}

#[test]
fn a_known_alignment_needs_no_thread() {
    let dir = disk_dir();
    one_blocking_thread().block_on(async {
        write_patterned(&dir.path().join("data"), 1);
        let file = open_rw(&dir, "data").await;
        let known = alignment(&file).await;
        let _busy = occupy_blocking_thread().await;
        assert_eq!(with_hang_guard(file.alignment()).await.unwrap(), known);
    });
}

#[tokio::test]
async fn without_statx_a_file_is_probed_once_it_has_data() {
    let Some(dir) = tmpfs_dir() else {
        return;
    };
    let file = open_rw(&dir, "data").await;
    let first = alignment(&file).await;
    if first.source == AlignmentSource::Statx {
        eprintln!("skipped: this tmpfs reports its alignment");
        return;
    }
    assert_eq!(first.source, AlignmentSource::Assumed);
    assert_eq!((first.memory, first.offset), (BLOCK, LEN));
    fs::write(dir.path().join("data"), [1; 100]).unwrap();
    let second = alignment(&file).await;
    assert_eq!(second.source, AlignmentSource::Probed);
    assert_eq!(
        (second.memory, second.offset, second.read_offset),
        (512, 512, 512)
    );
}

#[tokio::test]
async fn a_file_that_has_lost_its_direct_io_is_an_error_that_says_what_to_do() {
    let dir = disk_dir();
    let path = dir.path().join("data");
    fs::write(&path, []).unwrap();
    let Ok(file) = File::open(&path, false).await else {
        eprintln!("skipped: the file had no direct I/O when it was opened");
        return;
    };
    if let Err(why) = journaled(&path) {
        eprintln!("skipped: {why}");
        return;
    }
    match file.alignment().await {
        Ok(alignment) => {
            assert_ne!(alignment.source, AlignmentSource::Statx);
            eprintln!("skipped: before Linux 6.1 the kernel does not report it");
        }
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
            let text = error.to_string();
            let path = path.to_str().unwrap();
            assert!(
                text.contains(path) && text.contains("aio_open_or_buffered"),
                "{text}"
            );
        }
    }
}

#[tokio::test]
async fn atomic_writes_are_offered_in_powers_of_two_or_not_at_all() {
    for dir in test_dirs() {
        let file = open_rw(&dir, "data").await;
        let Some(sizes) = file.atomic_writes().await.unwrap() else {
            eprintln!("skipped on one file system: it offers no atomic writes");
            continue;
        };
        let fast = sizes.unit_max_opt.unwrap_or(sizes.unit_max);
        let ordered = [1, sizes.unit_min, fast, sizes.unit_max];
        assert!(ordered.is_sorted(), "{sizes:?}");
        assert!(sizes.unit_min.is_power_of_two() && sizes.unit_max.is_power_of_two());
        assert!(sizes.segments_max >= 1, "{sizes:?}");
    }
}
