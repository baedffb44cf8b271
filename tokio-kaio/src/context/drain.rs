//! [`drain`]: waits for the requests of a file that were made before.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use super::counts::Look;
use super::shards::Shards;
use super::shared::Shared;
use super::teardown::given_back;
use crate::request::{Flavour, KnownAs};

/// Waits until no request is queued or in flight any more that was made for `file`, in any of `shards`, before this is first polled.
pub(super) async fn drain<F: Flavour>(shards: &Shards<F>, file: KnownAs) {
    // All at once: what is made while it waits for one is not waited for in another.
    let begun: Vec<_> = shards
        .all()
        .iter()
        .map(|shard| Begun::on(shard, file))
        .collect();
    for begun in begun {
        begun.ended().await;
    }
}

/// A drain of one context.
struct Begun<'a, F: Flavour> {
    shared: &'a Arc<Shared<F>>,
    name: Option<u64>,
}

impl<'a, F: Flavour> Begun<'a, F> {
    fn on(shared: &'a Arc<Shared<F>>, file: KnownAs) -> Begun<'a, F> {
        let name = shared.with(|state, aftermath| {
            state.reap_all(Look::Other, aftermath);
            state.table.begin_drain(file)
        });
        Begun { shared, name }
    }

    async fn ended(self) {
        if let Some(name) = self.name {
            poll_fn(|cx| {
                let waker = cx.waker().clone();
                let (done, unused) = self.shared.with(|state, aftermath| {
                    state.reap_all(Look::Poll, aftermath);
                    state.table.is_drained(name, waker)
                });
                drop(unused); // not under the lock
                match done {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            })
            .await;
        }
        // The kernel may still have what its context has given up.
        if !self.shared.is_live() {
            given_back(self.shared.watch_gone()).await;
        }
    }
}

impl<F: Flavour> Drop for Begun<'_, F> {
    fn drop(&mut self) {
        if let Some(name) = self.name {
            let unused = self.shared.with(|state, _| state.table.end_drain(name));
            drop(unused); // not under the lock
        }
    }
}
