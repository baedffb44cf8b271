//! Byte ranges whose requests are held, shortened or refused.
#![cfg(feature = "bytes")]
#![allow(clippy::single_range_in_vec_init)] // a list of one range is meant

use crate::common::*;
use crate::interposer::{Gate, WatchedFile};
use futures::{StreamExt, poll};
use tokio::task::yield_now;
use tokio_kaio::{Coalesce, SizeClassPool};

#[test]
fn short_reads_are_resumed() {
    Fixture::new(8).everywhere().run(async |case| {
        let (dir, handle) = (case.dir, &case.handle);
        let file = file_with_content(dir, 10 * BLOCK + 100).await;
        let content = content(10 * BLOCK + 100);
        let watched = WatchedFile::new(&file);
        watched.shorten_to(3 * BLOCK);
        let bytes = file.read_range(handle, 5..9 * LEN).await.unwrap();
        assert!(bytes == content[5..9 * BLOCK]);
        let ranges = [7 * LEN..20 * LEN, 1..2, LEN..8 * LEN];
        let all = file.read_ranges(handle, &ranges).await.unwrap();
        assert!(all[0] == content[7 * BLOCK..] && all[1] == content[1..2]);
        assert!(all[2] == content[BLOCK..8 * BLOCK]);
        assert!(watched.transfers().len() > 4, "{:?}", watched.transfers());
    });
}

#[test]
fn an_error_names_the_read_that_failed_and_keeps_its_errno() {
    Fixture::new(8).everywhere().run(async |case| {
        let (dir, handle, mode) = (case.dir, &case.handle, case.mode);
        let file = file_with_content(dir, 64 * BLOCK).await;
        let watched = WatchedFile::new(&file);
        watched.fail_after(0);
        let apart = Coalesce::new().max_gap(0);
        let ranges = [40 * LEN + 5..41 * LEN];
        let error = file
            .read_ranges_with(handle, &ranges, apart)
            .await
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{mode:?}");
        if matches!(error, tokio_kaio::AioCommandError::BadResult(_)) {
            let place = format!("a read of {LEN} bytes at offset {}", 40 * LEN);
            assert!(error.to_string().contains(&place), "{mode:?}: {error}");
        }
        drop(watched);
        file.read_ranges_with(handle, &ranges, apart).await.unwrap();
        wait_until(|| handle.buffers().stats().in_use == 0, || ()).await;
    });
}

#[test]
fn the_memory_of_a_dropped_stream_returns_after_the_completion() {
    Fixture::new(8)
        .everywhere()
        .start_driver()
        .blocks(1)
        .run(async |case| {
            let (file, mode) = (case.file, case.mode);
            let pool = SizeClassPool::new(1 << 20).unwrap();
            let handle = case.handle.with_buffers(&pool);
            let gate = Gate::closed();
            let range = gate.offset() + 5..gate.offset() + 10;
            let mut stream = file.stream_ranges(&handle, &[range], Coalesce::new());
            while gate.waiting().is_empty() {
                assert!(poll!(stream.next()).is_pending());
                yield_now().await;
            }
            drop(stream);
            assert!(pool.stats().in_use > 0, "{mode:?}: the kernel has it");
            gate.open();
            wait_until(|| pool.stats().in_use == 0, || pool.stats()).await;
        });
}
