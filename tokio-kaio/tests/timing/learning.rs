//! What a file learns from the times that its submissions take.

use std::fs;
use std::pin::pin;

use crate::common::*;
use crate::{holds, undisturbed};
use futures::poll;
use tempfile::TempDir;
use tokio_kaio::{AioCommandError, AioContextHandle, ReadFlags, SubmitPolicy, WriteFlags};

/// Whether submissions of writes to these blocks block without NOWAIT. `None` if only some do.
async fn sleeps(dir: &TempDir, blocks: std::ops::Range<u64>) -> Option<bool> {
    let (context, handle) = inline_context(4);
    let file = open_rw(dir, "slept").await;
    let bytes = patterned_buffer(0, BLOCK);
    let (mut slept, all) = (0, blocks.end - blocks.start);
    for block in blocks {
        let mut written = pin!(write(&handle, &file, block, &bytes));
        let before = voluntary_switches();
        let done = poll!(written.as_mut());
        slept += u64::from(voluntary_switches() != before);
        if done.is_pending() {
            with_hang_guard(written).await.unwrap();
        }
    }
    with_hang_guard(context.close()).await;
    match slept * 10 {
        n if n <= all => Some(false),
        n if n >= all * 9 => Some(true),
        _ => None,
    }
}

const WRITES: u64 = 100;

/// Checks what a new file learns from its first writes.
async fn learns(dir: &TempDir, handle: &AioContextHandle) -> Result<(), String> {
    // Extending writes, then overwrites. On ext4 the first block, on btrfs both, on XFS none.
    let (extending, overwriting) = (sleeps(dir, 0..WRITES).await, sleeps(dir, 0..WRITES).await);
    let file = open_rw(dir, "file").await;
    let bytes = patterned_buffer(0, BLOCK);
    for (waits, what) in [(extending, "extends"), (overwriting, "overwrites")] {
        for block in 0..20 {
            // Learning takes a few writes.
            let block = if what == "extends" { block } else { block % 10 };
            write(handle, &file, block, &bytes).await.unwrap();
        }
        let before = handle.metrics();
        let first = if what == "extends" { 20 } else { 0 };
        for block in first..first + WRITES {
            write(handle, &file, block, &bytes).await.unwrap();
        }
        let (refusals, offloads) = since(handle, &before);
        let counted = || {
            format!("where a write {what} the file: {refusals} refused, {offloads} from the pool")
        };
        match waits {
            Some(true) => holds(refusals <= 2 && offloads + 8 >= WRITES, counted)?,
            // A preempted submission looks like a slow one.
            Some(false) => holds(offloads <= WRITES / 4, counted)?,
            None => eprintln!("skipped: where a write {what} the file, it sleeps now and then"),
        }
    }
    Ok(())
}

#[test]
fn a_file_learns_which_of_its_writes_would_block() {
    let _alone = crate::alone();
    if !is_kernel_aio_build() {
        return;
    }
    Fixture::new(8)
        .policy(SubmitPolicy::NoWaitFirst)
        .run(async |case| {
            undisturbed(async || {
                let learnt = learns(case.dir, &case.handle).await;
                for name in ["slept", "file"] {
                    fs::remove_file(case.dir.path().join(name)).unwrap();
                }
                learnt
            })
            .await;
        });
}

#[test]
fn without_nowait_support_requests_soon_go_inline() {
    let _alone = crate::alone();
    if !is_kernel_aio_build() {
        return;
    }
    let fixture = Fixture::new(8).policy(SubmitPolicy::NoWaitFirst);
    fixture.tmpfs().blocks(8).run(async |case| {
        undisturbed(async || {
            // Nothing is known about a file that was just opened.
            let (file, handle) = (open_rw(case.dir, "data").await, &case.handle);
            let start = handle.metrics();
            let mut bytes = buffer(BLOCK);
            for _ in 0..50 {
                read_block(handle, &file, 0, &mut bytes).await.unwrap();
            }
            let before = handle.metrics();
            assert!(before.since(&start).nowait_refusals >= 1);
            for block in 0..200 {
                let read = read_block(handle, &file, block % 8 * LEN, &mut bytes).await;
                assert_eq!(read.unwrap(), LEN);
                assert!(is_pattern(block % 8, bytes.as_ref()));
            }
            let (refusals, offloads) = since(handle, &before);
            assert_eq!(refusals, 0, "the flag is not tried again");
            // A preempted submission looks like a slow one; two in a row change the way of the next.
            holds(offloads <= 50, || {
                format!("{offloads} of 200 from the pool")
            })
        })
        .await;
    });
}

#[test]
fn an_unknown_flag_of_the_caller_does_not_end_nowait_attempts() {
    let _alone = crate::alone();
    if !is_kernel_aio_build() {
        return;
    }
    Fixture::new(8)
        .policy(SubmitPolicy::NoWaitFirst)
        .blocks(8)
        .run(async |case| {
            undisturbed(async || {
                let (file, handle) = (open_rw(case.dir, "data").await, &case.handle);
                let mut bytes = buffer(BLOCK);
                let mut read = async |flags| {
                    let read = file.read_at(handle, 0, &mut bytes, LEN, flags);
                    read.await
                };
                read(ReadFlags::empty()).await.unwrap();
                let unknown = ReadFlags::from_bits_retain(1 << 30);
                let error = read(unknown).await.unwrap_err();
                assert!(matches!(error, AioCommandError::IoSubmit(_)), "{error}");
                assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
                let before = handle.metrics();
                for _ in 0..20 {
                    read(ReadFlags::empty()).await.unwrap();
                }
                // A preempted submission looks like a slow one, and a full queue of the device refuses.
                let (refusals, offloads) = since(handle, &before);
                holds(refusals == 0 && offloads < 4, || {
                    format!("{refusals} of 20 refused, {offloads} from the pool")
                })
            })
            .await;
        });
}

/// Offloads of sequential writes of 8 KiB that extend a new file, then of overwrites of the same
/// blocks. A vectored write has two pieces: with one piece it would be a plain write.
async fn offloads(dir: &TempDir, handle: &AioContextHandle, vectored: bool) -> [u64; 2] {
    const LEN: usize = 2 * BLOCK;
    let name = format!("learned-{vectored}");
    let _ = fs::remove_file(dir.path().join(&name)); // of the attempt before
    let file = open_rw(dir, &name).await;
    let bytes = buffer(LEN);
    let parts = &[bytes.part(..BLOCK), bytes.part(BLOCK..)];
    let mut offloads = [0; 2];
    for count in &mut offloads {
        let before = handle.metrics();
        for offset in (0..LEARNING_WRITES).map(|index| index * LEN as u64) {
            let flags = WriteFlags::empty();
            let written = match vectored {
                true => file.write_vectored_at(handle, offset, parts, flags).await,
                false => {
                    file.write_at(handle, offset, &bytes, LEN as u64, flags)
                        .await
                }
            };
            assert_eq!(written.unwrap(), LEN as u64);
        }
        *count = handle.metrics().since(&before).offloads;
    }
    offloads
}

const LEARNING_WRITES: u64 = 400;

#[test]
fn vectored_writes_learn_what_plain_writes_learn() {
    let _alone = crate::alone();
    Fixture::new(8).every_dir().run(async |case| {
        undisturbed(async || {
            let plain = offloads(case.dir, &case.handle, false).await;
            let vectored = offloads(case.dir, &case.handle, true).await;
            for (plain, vectored) in plain.into_iter().zip(vectored) {
                // A class of a file learns within a dozen requests. Some later ones are probes, or watched.
                let surplus = vectored.saturating_sub(plain);
                holds(surplus < LEARNING_WRITES / 8, || {
                    format!("plain writes: {plain} offloads, vectored writes: {vectored}")
                })?;
            }
            Ok(())
        })
        .await;
    });
}
