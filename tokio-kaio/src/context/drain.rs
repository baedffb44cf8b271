//! [`drain`]: waits for the requests on a file that were made before the drain.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::shards::Shards;
use crate::config::ContextTypes;
use crate::driver::{Driver, Entered};
use crate::metrics::ReapSource;
use crate::op::FileId;
use crate::sync::drop_contained;
use crate::teardown::wait_until_gone;

/// Waits until the requests on `file`, in all of `shards`, that were made before the first poll of this
/// future are done.
pub(super) async fn drain<T: ContextTypes>(shards: &Shards<T>, file: FileId) {
    // All shard drains start before the first wait, so that they include no requests made during it.
    let drains: Vec<_> = shards
        .all()
        .iter()
        .map(|driver| ShardDrain::start(driver, file))
        .collect();
    for drain in drains {
        drain.wait().await;
    }
}

/// A drain of one context.
struct ShardDrain<'a, T: ContextTypes> {
    driver: &'a Arc<Driver<T>>,
    /// `None` if there is nothing to wait for.
    id: Option<u64>,
}

impl<'a, T: ContextTypes> ShardDrain<'a, T> {
    fn start(driver: &'a Arc<Driver<T>>, file: FileId) -> ShardDrain<'a, T> {
        let id = match driver.enter() {
            Ok(driver) => driver.start_drain(file),
            Err(_) => None,
        };
        ShardDrain { driver, id }
    }

    async fn wait(self) {
        poll_fn(|cx| {
            let (Some(id), Ok(driver)) = (self.id, self.driver.enter()) else {
                return Poll::Ready(());
            };
            match driver.poll_drain(id, cx.waker()) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
        // If the context ended at once, the kernel may still have requests. Its teardown waits for them.
        let is_live = self.driver.enter().is_ok_and(|driver| driver.is_live());
        if !is_live && self.driver.enter().is_ok() {
            wait_until_gone(self.driver.gone()).await;
        }
    }
}

impl<T: ContextTypes> Drop for ShardDrain<'_, T> {
    fn drop(&mut self) {
        if let (Some(id), Ok(driver)) = (self.id, self.driver.enter()) {
            driver.end_drain(id);
        }
    }
}

impl<T: ContextTypes> Entered<'_, T> {
    /// Starts a drain of the requests on `file`. Returns its id, or `None` if there are no requests.
    pub(crate) fn start_drain(&self, file: FileId) -> Option<u64> {
        self.with_slots(ReapSource::Other, |slots, drains| drains.start(file, slots))
    }

    /// Returns whether drain `id` is done. If not, `waker` is woken when it is.
    pub(crate) fn poll_drain(&self, id: u64, waker: &Waker) -> bool {
        let waker = waker.clone();
        let (done, unneeded) =
            self.with_slots(ReapSource::Poll, |_, drains| drains.poll(id, waker));
        drop_contained(unneeded);
        done
    }

    /// Removes drain `id`, which no future waits for any more.
    pub(crate) fn end_drain(&self, id: u64) {
        let unneeded = self.with_slots(ReapSource::Other, |_, drains| drains.remove(id));
        drop_contained(unneeded);
    }
}
