//! `AioContext::close_timeout`: closing a context with stuck requests.

use std::os::fd::AsRawFd;
use std::time::Duration;

use crate::common::*;
use crate::interposer::Gate;
use futures::poll;
use tokio_kaio::{
    AioCommandError, AioContextBuilder, Backend, CloseTimeoutError, File, ReadFlags, aio_context,
};

#[test]
fn an_idle_context_closes_before_the_timeout() {
    for mode in modes() {
        multi_thread().block_on(async {
            let (context, _handle) = context_in(mode, 4);
            let closed = context.close_timeout(HANG).await;
            assert_eq!(closed, Ok(()), "{mode:?}");
        });
    }
}

#[test]
fn a_close_that_times_out_reports_what_is_in_flight_and_the_context_ends_later() {
    if !in_child!() {
        return;
    }
    let dir = disk_dir();
    for mode in modes() {
        let before = open_resources();
        multi_thread().block_on(async {
            let (context, handle) = context_in(mode, 4);
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
            // Before a pool thread takes it, a dropped read would be withdrawn.
            wait_until(|| gate.waiting().len() == 2, || handle.metrics()).await;
            drop(dropped);

            let closed = context.close_timeout(Duration::from_millis(5)).await;
            let still_out: CloseTimeoutError = closed.unwrap_err();
            assert_eq!(still_out.queued(), 0, "{mode:?}");
            assert_eq!(still_out.in_flight(), 2);
            assert_eq!(still_out.descriptors(), [file.as_raw_fd()]);
            assert_eq!(still_out.abandoned(), 1);
            assert!(still_out.to_string().contains("in flight"), "{still_out}");

            // The context accepts nothing more; requests in flight go on, and then it ends.
            let refused = handle
                .submit_request(&file, tokio_kaio::RawCommand::Fsync)
                .await;
            assert!(matches!(refused, Err(AioCommandError::AioStopped)));
            gate.open();
            waited_for.await.unwrap();
        });
        block_until(|| is_released(before), open_resources);
    }
}

/// Each of them blocks its teardown thread while the gate is closed.
#[test]
fn stuck_contexts_do_not_keep_others_from_ending() {
    if !in_child!() {
        return;
    }
    const STUCK: usize = 70; // more than twice as many as end at the same time
    let dir = disk_dir();
    let before = open_resources();
    current_thread().block_on(async {
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
            wait_until(|| gate.waiting().len() == stuck, || gate.waiting()).await;
            drop((context, background));
            let stopped = with_hang_guard(read).await;
            assert!(matches!(stopped, Err(AioCommandError::AioStopped)));
        }
        let (context, _handle) = aio_context(1, true).unwrap();
        with_hang_guard(context.close()).await;
    });
    block_until(|| is_released(before), open_resources);
}
