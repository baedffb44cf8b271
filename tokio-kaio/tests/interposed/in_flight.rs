//! Requests in flight for as long as the test wants: what becomes of them when their future or their
//! context is dropped.

use crate::common::*;
use crate::interposer::{Gate, poll_until_at_gate};
use futures::poll;
use tokio_kaio::AioCommandError;

#[test]
fn a_read_dropped_in_flight_leaves_a_zeroed_buffer_of_the_same_size() {
    Fixture::new(1).every_mode().run(async |case| {
        let (file, handle) = (case.file, case.handle);
        let gate = Gate::closed();
        let mut target = patterned_buffer(1, BLOCK);
        let old = target.as_ptr();
        {
            let mut read = Box::pin(read_block(&handle, &file, gate.offset(), &mut target));
            poll_until_at_gate(&gate, &mut read).await;
        }
        assert!(target.size() == BLOCK && target.as_ptr() != old);
        assert!(target.iter().all(|&byte| byte == 0));
        assert_eq!(handle.available_slots(), Some(0));
        gate.open();
    });
}

#[test]
fn a_dropped_context_serves_requests_in_flight_and_stops_queued_ones() {
    let dir = disk_dir();
    for mode in modes() {
        current_thread().block_on(with_hang_guard(async {
            let (context, handle) = context_in(mode, 2);
            let file = open_rw(&dir, "data").await;
            let gate = Gate::closed();
            let mut targets: Vec<_> = (0..6).map(|_| buffer(BLOCK)).collect();
            let read = |target| read_block(&handle, &file, gate.offset(), target);
            let mut reads: Vec<_> = targets.iter_mut().map(|t| Box::pin(read(t))).collect();
            for read in &mut reads {
                assert!(poll!(read).is_pending());
            }
            let waiting = || gate.waiting().len();
            wait_until(|| waiting() == 2, waiting).await;
            drop(context);
            assert_eq!(handle.available_slots(), None);
            let late = file.sync_all(&handle).await;
            assert!(matches!(late, Err(AioCommandError::AioStopped)));
            let queued = reads.split_off(2);
            for read in queued {
                let stopped = read.await;
                assert!(
                    matches!(stopped, Err(AioCommandError::AioStopped)),
                    "{mode:?}: {stopped:?}"
                );
            }
            gate.open();
            for read in reads {
                assert_eq!(read.await.unwrap(), 1, "{mode:?}");
            }
            assert!(targets.iter().all(|target| target.size() == BLOCK));
        }));
    }
}
