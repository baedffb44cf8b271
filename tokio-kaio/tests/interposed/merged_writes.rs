//! Errors of one call that performs several writes.

use std::fs;

use crate::common::*;
use crate::interposer::WatchedFile;
use futures::future::join_all;
use tokio_kaio::{AioCommandError, Backend, SubmitPolicy, WriteFlags};

#[test]
#[cfg_attr(kaio_plain_policy, ignore = "needs merged writes; Plain offloads none")]
fn a_merged_durable_call_that_fails_is_the_error_of_one_write_and_loses_no_data() {
    const ROUND: u64 = 32;
    for &backend in BACKENDS {
        if backend == Backend::ThreadPool {
            continue; // performs each request by itself
        }
        let mode = (backend, SubmitPolicy::NoWaitFirst);
        Fixture::new(32).modes([mode]).run(async |case| {
            let watched = WatchedFile::new(&case.file);
            watched.fail_merged_with(libc::EIO);
            // The first rounds show that extending the file blocks. How many writes a thread finds waiting
            // depends on the scheduler.
            let (mut failed, mut rounds) = (0, 0);
            while rounds < 100 && watched.merged() == 0 {
                let writes = (rounds * ROUND..(rounds + 1) * ROUND).map(async |block| {
                    let (bytes, flags) = (patterned_buffer(block, BLOCK), WriteFlags::DSYNC);
                    let file = &case.file;
                    file.write_at(&case.handle, block * LEN, &bytes, LEN, flags)
                        .await
                });
                for result in with_hang_guard(join_all(writes)).await {
                    match result {
                        Ok(written) => assert_eq!(written, LEN),
                        Err(AioCommandError::BadResult(error)) => {
                            assert_eq!(error.raw_os_error(), Some(libc::EIO));
                            failed += 1;
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                rounds += 1;
            }
            if watched.merged() == 0 {
                eprintln!("skipped: extending a file does not block here");
            }
            assert_eq!(failed, watched.merged());
            let bytes = fs::read(&case.path).unwrap();
            assert_eq!(bytes.len() as u64, rounds * ROUND * LEN);
            for (block, bytes) in bytes.chunks(BLOCK).enumerate() {
                assert!(is_pattern(block as u64, bytes), "block {block}");
            }
        });
    }
}
