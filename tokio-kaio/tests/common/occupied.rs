//! Threads and slots that stay occupied until the test releases them.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::mpsc;

use tokio::task::unconstrained;
use tokio_kaio::{AioContextHandle, PollEvents};

/// Keeps the only thread of a blocking pool occupied until dropped.
pub struct OccupiedThread(pub mpsc::Sender<()>);

/// Occupies the only thread of the runtime's blocking pool.
pub async fn occupy_blocking_thread() -> OccupiedThread {
    let (release, released) = mpsc::channel::<()>();
    let (began, begun) = tokio::sync::oneshot::channel();
    tokio::task::spawn_blocking(move || {
        began.send(()).unwrap();
        released.recv().unwrap_err();
    });
    begun.await.unwrap();
    OccupiedThread(release)
}

/// Keeps a slot of a context occupied until released or dropped.
pub struct OccupiedSlot {
    poll: Pin<Box<dyn Future<Output = ()>>>,
    writer: UnixStream,
}

/// Occupies a slot with a poll of a socket that is not readable.
pub async fn occupy_slot(handle: &AioContextHandle) -> OccupiedSlot {
    let (reader, writer) = UnixStream::pair().unwrap();
    let handle = handle.clone();
    let mut poll = Box::pin(async move {
        let events = handle.poll(&reader, PollEvents::IN).await;
        assert_eq!(events.unwrap(), PollEvents::IN);
    });
    // Ignores the task's budget: if it is used up, a poll submits nothing.
    assert!(futures::poll!(unconstrained(poll.as_mut())).is_pending());
    OccupiedSlot { poll, writer }
}

impl OccupiedSlot {
    pub async fn release(mut self) {
        self.writer.write_all(b"x").unwrap();
        self.poll.await;
    }
}
