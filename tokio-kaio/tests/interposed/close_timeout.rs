//! Closing a context whose disk is stuck.

use std::os::fd::AsRawFd;
use std::time::Duration;

use crate::common::*;
use crate::interposer::Gate;
use futures::poll;
use tokio_kaio::{
    AioCommandError, AioContextBuilder, Backend, File, ReadFlags, StillOut, aio_context,
};

const LEN: u64 = BLOCK as u64;

#[test]
fn an_idle_context_closes_in_time() {
    for way in ways() {
        two_workers().block_on(async {
            let (context, _handle) = context_by(way, 4);
            let closed = context.close_timeout(Duration::from_secs(60)).await;
            assert_eq!(closed, Ok(()), "{way:?}");
        });
    }
}

#[test]
fn what_is_still_out_is_told_and_the_context_ends_later() {
    if !in_child!() {
        return;
    }
    let dir = on_disk();
    for way in ways() {
        let before = held();
        two_workers().block_on(async {
            let (context, handle) = context_by(way, 4);
            let path = dir.path().join("file");
            write_patterned(&path, 4);
            let file = File::open(&path, false).await.unwrap();
            let gate = Gate::closed();
            let (mut first, mut second) = (buffer(BLOCK), buffer(BLOCK));
            let flags = ReadFlags::empty();
            let mut waited_for =
                Box::pin(file.read_at(&handle, gate.offset(), &mut first, LEN, flags));
            let mut dropped =
                Box::pin(file.read_at(&handle, gate.offset(), &mut second, LEN, flags));
            assert!(poll!(&mut waited_for).is_pending() && poll!(&mut dropped).is_pending());
            // In the pool, one that no thread has taken yet would be taken back.
            until(|| gate.held().len() == 2, || handle.metrics()).await;
            drop(dropped);

            let closed = context.close_timeout(Duration::from_millis(5)).await;
            let still_out: StillOut = closed.unwrap_err();
            assert_eq!(still_out.queued(), 0, "{way:?}");
            assert_eq!(still_out.in_flight(), 2);
            assert_eq!(still_out.descriptors(), [file.as_raw_fd()]);
            assert_eq!(still_out.abandoned(), 1);
            assert!(still_out.to_string().contains("in flight"), "{still_out}");

            // It takes nothing more; what runs goes on, and then it ends.
            let refused = handle
                .submit_request(&file, tokio_kaio::RawCommand::Fsync)
                .await;
            assert!(matches!(refused, Err(AioCommandError::AioStopped)));
            gate.open();
            waited_for.await.unwrap();
        });
        until_here(|| is_back(before), held);
    }
}

/// Each of them keeps the thread that is to end it, for as long as the gate is closed.
#[test]
fn contexts_that_are_stuck_do_not_keep_others_from_ending() {
    if !in_child!() {
        return;
    }
    const STUCK: usize = 70; // more than twice as many as end at the same time
    let dir = on_disk();
    let before = held();
    one_thread().block_on(async {
        let path = dir.path().join("file");
        write_patterned(&path, 4);
        let file = File::open(&path, false).await.unwrap();
        let gate = Gate::closed();
        for stuck in 1..=STUCK {
            let builder = AioContextBuilder::new(2).backend(Backend::ThreadPool);
            let (context, handle, background) = builder.build_local().unwrap();
            let (at, mut target) = (gate.offset(), buffer(BLOCK));
            let mut read =
                Box::pin(file.read_at(&handle, at, &mut target, LEN, ReadFlags::empty()));
            assert!(poll!(&mut read).is_pending());
            until(|| gate.held().len() == stuck, || gate.held()).await;
            drop((context, background));
            let stopped = within(read).await;
            assert!(matches!(stopped, Err(AioCommandError::AioStopped)));
        }
        let (context, _handle) = aio_context(1, true).unwrap();
        within(context.close()).await;
    });
    until_here(|| is_back(before), held);
}
