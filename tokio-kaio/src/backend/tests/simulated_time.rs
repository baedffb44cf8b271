//! [`SimulatedTime`]: the disk of a simulated backend, and the runtime whose clock it follows.

use std::cell::Cell;
use std::future::poll_fn;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::task::Poll;

use tokio::runtime::{Builder, Runtime};

use crate::backend::simulated::SimulatedBackend;
use crate::simulation::{
    Access, OpenDir, OpenMode, OpenedFile, Request, RequestKind, SimDisk, SimulatedPath,
};
use crate::sync::DriverWaker;

/// The disk of a simulated backend, and the runtime with its timer. The clock is paused: time passes in
/// [`wait_for_wakeup`](SimulatedTime::wait_for_wakeup).
pub(super) struct SimulatedTime {
    pub(super) disk: SimDisk,
    pub(super) runtime: Runtime,
    driver: Arc<DriverWaker>,
    files: Cell<u32>,
}

/// An open file of the disk. Its I/O goes through the page cache, so that it takes transfers of any length.
pub(super) struct FileOfDisk {
    disk: SimDisk,
    pub(super) opened: OpenedFile,
}

impl SimulatedTime {
    pub(super) fn with_backend() -> (SimulatedTime, SimulatedBackend) {
        let mut builder = Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        let in_runtime = runtime.enter();
        let disk = SimDisk::builder().build();
        let (backend, timer) = SimulatedBackend::new(Arc::clone(disk.disk()));
        let driver = Arc::new(DriverWaker::new());
        runtime.spawn(timer.timer(Arc::clone(&driver)));
        drop(in_runtime);
        let time = SimulatedTime {
            disk,
            runtime,
            driver,
            files: Cell::new(0),
        };
        (time, backend)
    }

    /// Waits until the driver task would be woken.
    pub(super) fn wait_for_wakeup(&self) {
        let mut is_registered = false;
        self.runtime.block_on(poll_fn(|cx| {
            if is_registered {
                return Poll::Ready(());
            }
            self.driver.register(cx.waker());
            is_registered = true;
            Poll::Pending
        }));
    }

    /// Opens the root directory.
    pub(super) fn open_root(&self) -> OpenDir {
        let path = SimulatedPath::find(self.disk.path()).unwrap();
        path.unwrap().open_dir().unwrap()
    }

    /// Creates a file, open for that access.
    pub(super) fn file(&self, read: bool, write: bool) -> FileOfDisk {
        let number = self.files.get();
        self.files.set(number + 1);
        let path = self.disk.path().join(number.to_string());
        let path = SimulatedPath::find(&path).unwrap().unwrap();
        let mode = OpenMode {
            read,
            write,
            create: true,
            ..OpenMode::default()
        };
        let access = Access {
            read,
            write,
            ..Access::default()
        };
        FileOfDisk {
            disk: self.disk.clone(),
            opened: path.open(mode, access).unwrap(),
        }
    }
}

impl FileOfDisk {
    /// Writes `content` to the start of the file.
    pub(super) fn fill(&self, content: &[u8]) {
        let write = RequestKind::Write {
            offset: 0,
            data: &[content],
            append: false,
            dsync: false,
            sync: false,
        };
        self.perform(write, &mut |_, _| {});
    }

    pub(super) fn content(&self) -> Vec<u8> {
        let mut content = Vec::new();
        let read = RequestKind::Read {
            offset: 0,
            len: 1 << 20,
        };
        self.perform(read, &mut |at, bytes| {
            content.resize(at, 0);
            content.extend_from_slice(bytes);
        });
        content
    }

    /// Performs a request at once, however long the disk takes for it.
    fn perform(&self, kind: RequestKind<'_>, read_into: &mut dyn FnMut(usize, &[u8])) {
        let mut core = self.disk.disk().lock();
        let request = Request {
            inode: core.descriptor(self.as_raw_fd()).unwrap().inode,
            direct: false,
            kind,
        };
        let now = core.now();
        let begun = core.state.begin(now, request);
        core.state.finish(now, begun.id, read_into).unwrap();
    }
}

impl AsRawFd for FileOfDisk {
    fn as_raw_fd(&self) -> RawFd {
        self.opened.placeholder.as_raw_fd()
    }
}
