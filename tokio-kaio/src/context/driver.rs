//! [`Driver`]: the background task of a context.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::shared::Shared;
use crate::request::Flavour;

/// Submits what futures have queued, when the tasks that were ready have run. Ends when the
/// context has given everything back.
///
/// Dropped before that, as when its runtime shuts down, it ends the context: what waits gets
/// [`AioStopped`](crate::AioCommandError::AioStopped), and what the kernel still has is kept until
/// the kernel is done.
pub(crate) struct Driver<F: Flavour> {
    shared: Arc<Shared<F>>,
    gone: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<F: Flavour> Driver<F> {
    pub(crate) fn new(shared: Arc<Shared<F>>) -> Driver<F> {
        Driver { shared, gone: None }
    }
}

impl<F: Flavour + 'static> Future for Driver<F> {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.gone.is_none() {
            let reaper = &this.shared.reaper;
            reaper.register_driver(cx.waker());
            let waker = reaper.take_signal().then(|| reaper.waker());
            if !this.shared.drive(waker.as_ref()) {
                return Poll::Pending;
            }
        }
        let gone = this.gone.get_or_insert_with(|| {
            let mut gone = this.shared.watch_gone();
            Box::pin(async move { while gone.changed().await.is_ok() {} })
        });
        ready!(gone.as_mut().poll(cx));
        Poll::Ready(Ok(()))
    }
}

impl<F: Flavour> Drop for Driver<F> {
    fn drop(&mut self) {
        self.shared.orphan();
    }
}
