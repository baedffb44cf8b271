//! [`Lanes`]: the buffers, and with them the number of blocks in flight.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_kaio::{AlignedBuf, LockedBufError};

/// From here on buffers are on huge pages, as far as there are any. On ordinary ones each page is a
/// piece of memory of its own, for the kernel, the device and whoever serves that; 1 MiB of them can be
/// more than a request may have (`queue/max_segments`; virtio: 254). Measured on virtio, 1 MiB: 0.6 of
/// the time of `dd bs=1M` with huge pages, 1.1 without; 512 KiB, which is one request either way, gains
/// as much.
const LARGE: usize = 512 << 10;

/// As many buffers as there may be blocks in flight, whatever number of files they are of. Made once.
#[derive(Debug)]
pub(super) struct Lanes {
    free: RefCell<Vec<AlignedBuf>>,
    /// One for each that is free.
    permits: Semaphore,
    depth: usize,
}

impl Lanes {
    pub(super) fn new(depth: usize, size: usize) -> Result<Lanes, LockedBufError> {
        let buffers = (0..depth).map(|_| match size < LARGE {
            true => AlignedBuf::new(size),
            false => AlignedBuf::huge(size),
        });
        Ok(Lanes {
            free: RefCell::new(buffers.collect::<Result<_, _>>()?),
            permits: Semaphore::new(depth),
            depth,
        })
    }

    /// A buffer, in the order in which they were asked for.
    pub(super) async fn buffer(&self) -> Lent<'_> {
        // Never closed.
        let permit = self.permits.acquire().await.ok();
        let buffer = self.free.borrow_mut().pop().unwrap_or_default();
        Lent {
            buffer,
            lanes: self,
            _permit: permit,
        }
    }

    /// Does `each` of `work`, at most `most` at a time, each with a buffer. After a failure nothing is
    /// begun any more; it returns when nothing is under way.
    ///
    /// # Errors
    ///
    /// The first one.
    pub(super) async fn each<T, E>(
        &self,
        work: impl Iterator<Item = T>,
        most: usize,
        each: impl AsyncFn(T, &mut AlignedBuf) -> Result<(), E>,
    ) -> Result<(), E> {
        let work = RefCell::new(work);
        let failed = RefCell::new(None);
        let lane = async || {
            loop {
                let mut buffer = self.buffer().await;
                if failed.borrow().is_some() {
                    break;
                }
                let Some(next) = work.borrow_mut().next() else {
                    break;
                };
                if let Err(error) = each(next, &mut buffer).await {
                    failed.borrow_mut().get_or_insert(error);
                }
            }
        };
        let mut lanes: FuturesUnordered<_> = (0..most.min(self.depth)).map(|_| lane()).collect();
        while lanes.next().await.is_some() {}
        drop(lanes);
        failed.into_inner().map_or(Ok(()), Err)
    }
}

/// A buffer that goes back.
#[derive(Debug)]
pub(super) struct Lent<'a> {
    buffer: AlignedBuf,
    lanes: &'a Lanes,
    /// Released after the buffer is back.
    _permit: Option<SemaphorePermit<'a>>,
}

impl Deref for Lent<'_> {
    type Target = AlignedBuf;

    fn deref(&self) -> &AlignedBuf {
        &self.buffer
    }
}

impl DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut AlignedBuf {
        &mut self.buffer
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        self.lanes.free.borrow_mut().push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn no_more_are_under_way_than_there_are_buffers() {
        let lanes = Lanes::new(3, 4096).unwrap();
        let (now, most, done) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let each = async |_, _: &mut AlignedBuf| {
            now.set(now.get() + 1);
            most.set(most.get().max(now.get()));
            tokio::task::yield_now().await;
            now.set(now.get() - 1);
            done.set(done.get() + 1);
            Ok::<(), ()>(())
        };
        lanes.each(0..100, 10, each).await.unwrap();
        assert_eq!((most.get(), done.get()), (3, 100));
    }

    #[tokio::test]
    async fn after_a_failure_nothing_is_begun() {
        let lanes = Lanes::new(2, 4096).unwrap();
        let begun = Cell::new(0);
        let each = async |number, _: &mut AlignedBuf| {
            begun.set(begun.get() + 1);
            tokio::task::yield_now().await;
            if number == 4 {
                Err("the fifth")
            } else {
                Ok(())
            }
        };
        assert_eq!(lanes.each(0..100, 2, each).await, Err("the fifth"));
        assert!(begun.get() <= 8, "{}", begun.get());
        lanes.each(0..3, 2, each).await.unwrap();
    }
}
