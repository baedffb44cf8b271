//! A blocking pool that has no thread to give.

use std::os::unix::fs::OpenOptionsExt;

use tokio_kaio::{AioContextBuilder, SubmitPolicy};

use super::*;

/// From now on, until it is taken back, this process gets no further thread. `false`, and a line
/// that says so, where it does.
fn forbid_threads() -> bool {
    if !obey_limits() {
        return false;
    }
    limit(libc::RLIMIT_NPROC, 0);
    let spawned = std::thread::Builder::new().spawn(|| ());
    let forbidden = spawned.is_err();
    if !forbidden {
        eprintln!("skipped: threads can be made in spite of RLIMIT_NPROC");
    }
    forbidden
}

fn allow_threads() {
    limit(libc::RLIMIT_NPROC, 1024);
}

#[test]
fn where_no_thread_is_to_be_had_requests_of_the_pool_are_eagain_alone() {
    if !in_child("pool::where_no_thread_is_to_be_had_requests_of_the_pool_are_eagain_alone") {
        return;
    }
    let dir = common::on_disk();
    common::write_patterned(&dir.path().join("data"), 8);
    let file = fs::File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(dir.path().join("data"))
        .unwrap();
    for &backend in common::BACKENDS {
        if !forbid_threads() {
            return;
        }
        // A runtime whose pool has no thread yet.
        run(async {
            let before = held();
            let (context, handle) = AioContextBuilder::new(4)
                .backend(backend)
                .submit_policy(SubmitPolicy::Offload)
                .build()
                .unwrap();
            for _wave in 0..3 {
                let reads = join_all((0..8).map(async |block| {
                    let mut bytes = patterned(99, BLOCK);
                    let command = RawCommand::Pread {
                        offset: block * LEN,
                        buffer: &mut bytes,
                        flags: ReadFlags::empty(),
                        len: LEN,
                    };
                    let refused = handle.submit_request(&file, command).await;
                    assert!(is_pattern(99, bytes.as_ref()), "the buffer is as it was");
                    let text = refused.as_ref().unwrap_err().to_string();
                    assert!(text.contains("no thread"), "{text}");
                    assert_eq!(submit_errno(refused), Some(libc::EAGAIN));
                }));
                within(reads).await;
                common::is_idle(&handle, 4).await;
            }
            assert_eq!(handle.metrics().failed, 24);
            allow_threads();
            let mut bytes = buffer(BLOCK);
            let command = RawCommand::Pread {
                offset: LEN,
                buffer: &mut bytes,
                flags: ReadFlags::empty(),
                len: LEN,
            };
            assert_eq!(
                within(handle.submit_request(&file, command)).await.unwrap(),
                LEN
            );
            assert!(is_pattern(1, bytes.as_ref()));
            within(context.close()).await;
            assert_eq!(held(), before);
        });
    }
}
