//! Contexts that have stopped.

use super::*;

#[tokio::test]
async fn every_request_to_a_stopped_context_is_stopped() {
    let dir = disk_dir();
    write_patterned(&dir.path().join("data"), 1);
    let file = open_rw(&dir, "data").await;
    for closed in [true, false] {
        let (context, handle) = aio_context(2, true).unwrap();
        if closed {
            with_hang_guard(context.close()).await;
        } else {
            drop(context);
        }
        let mut bytes = patterned_buffer(2, BLOCK);
        let stopped = [
            read(&handle, &file, 0, &mut bytes).await.map(drop),
            write(&handle, &file, 0, &bytes).await.map(drop),
            file.sync_all(&handle).await,
            file.sync_data(&handle).await,
            handle
                .submit_request(&file, RawCommand::Fsync)
                .await
                .map(drop),
        ];
        for result in stopped {
            assert!(
                matches!(result, Err(AioCommandError::AioStopped)),
                "{result:?}"
            );
        }
        assert_eq!(handle.available_slots(), None);
        assert!(is_pattern(2, bytes.as_ref()), "the buffer is as it was");
    }
    let untouched = fs::read(dir.path().join("data")).unwrap();
    assert!(is_pattern(0, &untouched));
}

async fn those_that_wait_for_a_slot_are_stopped(closed: bool) {
    const WAITING: u64 = 16;
    let dir = disk_dir();
    write_patterned(&dir.path().join("data"), LONG / BLOCK);
    let file = Arc::new(open_rw(&dir, "data").await);
    let mut long = buffer(LONG);
    let test = retry_until(async || {
        let whole = LONG as u64;
        fs::File::options()
            .write(true)
            .open(dir.path().join("data"))
            .unwrap()
            .set_len(whole)
            .unwrap();
        let (context, handle) = aio_context(1, true).unwrap();
        let mut running = pin!(read(&handle, &file, 0, &mut long));
        if poll!(running.as_mut()).is_ready() {
            return None;
        }
        let mut waiting = JoinSet::new();
        for i in 0..WAITING {
            let (handle, file) = (handle.clone(), Arc::clone(&file));
            waiting.spawn(async move {
                let mut bytes = patterned_buffer(i, BLOCK);
                let result = match i % 3 {
                    0 => read(&handle, &file, i, &mut bytes).await.map(drop),
                    1 => write(&handle, &file, 1000 + i, &bytes).await.map(drop),
                    _ => handle
                        .submit_request(&*file, RawCommand::Fsync)
                        .await
                        .map(drop),
                };
                (result, is_pattern(i, bytes.as_ref()))
            });
        }
        tokio::task::yield_now().await; // they come to wait
        if context.available_slots() != Some(0) || poll!(running.as_mut()).is_ready() {
            // Too late: the first one is done. A write that went is not to land in the next attempt.
            waiting.shutdown().await;
            context.close().await;
            return None;
        }
        let mut close = pin!(async {
            if closed {
                context.close().await;
            } else {
                drop(context);
            }
        });
        let is_closing = poll!(close.as_mut()).is_pending();
        assert!(closed || !is_closing, "a drop does not wait");
        let finished = match closed && !is_closing {
            true => running.now_or_never().expect("what runs is waited for"),
            false => running.await,
        };
        assert_eq!(finished.unwrap(), whole, "what ran has finished");
        if is_closing {
            close.await;
        }
        while let Some(task) = waiting.join_next().await {
            let (result, same) = task.unwrap();
            assert!(
                matches!(result, Err(AioCommandError::AioStopped)),
                "{result:?}"
            );
            assert!(same, "the buffer is as it was");
        }
        let len = file.metadata().await.unwrap().len();
        assert_eq!(len, whole, "nothing of what waited was written");
        Some(())
    });
    with_hang_guard(test).await;
}

#[tokio::test]
async fn closing_a_context_stops_requests_waiting_for_a_slot() {
    those_that_wait_for_a_slot_are_stopped(true).await;
}

#[tokio::test]
async fn dropping_a_context_stops_requests_waiting_for_a_slot() {
    those_that_wait_for_a_slot_are_stopped(false).await;
}
