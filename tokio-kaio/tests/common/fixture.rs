//! What most tests start from: a context, and a file in a directory to test in.

use std::fmt::Debug;
use std::fs;
use std::path::PathBuf;
use std::thread;

use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_kaio::{AioContext, AioContextBuilder, AioContextHandle, Backend, File, SubmitPolicy};

use super::{
    assert_idle, assert_no_work_left, current_thread, disk_dir, multi_thread, open_rw, test_dirs,
    tmpfs_dir, with_hang_guard, write_patterned,
};

/// Where requests run, and which thread submits them.
pub type Mode = (Backend, SubmitPolicy);

pub const POLICIES: [SubmitPolicy; 3] = [
    SubmitPolicy::Inline,
    SubmitPolicy::NoWaitFirst,
    SubmitPolicy::Offload,
];

/// The backends of this build.
pub const BACKENDS: &[Backend] = if cfg!(kaio_force_threads) {
    &[Backend::ThreadPool]
} else if cfg!(kaio_force_uring) {
    &[Backend::IoUring]
} else {
    &[Backend::KernelAio, Backend::ThreadPool]
};

/// Every policy on every backend. The thread pool ignores the policy, so it has one mode.
pub fn modes() -> impl Iterator<Item = Mode> {
    let of = |&backend| {
        let policies = match backend {
            Backend::KernelAio => &POLICIES[..],
            _ => &POLICIES[1..2],
        };
        policies.iter().map(move |&policy| (backend, policy))
    };
    BACKENDS.iter().flat_map(of)
}

/// Whether contexts use kernel AIO by default. `false`, with a line that says so, in builds with
/// `kaio_force_threads` or `kaio_force_uring`.
pub fn is_kernel_aio_build() -> bool {
    let other = cfg!(kaio_force_threads) || cfg!(kaio_force_uring);
    if other {
        eprintln!("skipped on {}: about kernel AIO", BACKENDS[0]);
    }
    !other
}

/// A context with [`SubmitPolicy::Inline`].
pub fn inline_context(slots: usize) -> (AioContext, AioContextHandle) {
    let builder = AioContextBuilder::new(slots).submit_policy(SubmitPolicy::Inline);
    builder.build().unwrap()
}

/// A context in `mode`.
pub fn context_in((backend, policy): Mode, slots: usize) -> (AioContext, AioContextHandle) {
    let builder = AioContextBuilder::new(slots).backend(backend);
    builder.submit_policy(policy).build().unwrap()
}

/// Runs a test on a context and a file, once for each combination of directory, mode and runtime.
///
/// Each run has a context and a file of its own. After the run the context must be idle: all slots
/// free, nothing queued or in flight. Then it is closed.
///
/// By default there is one run: on the disk, with the default mode, on a current-thread runtime,
/// with an empty file.
pub struct Fixture {
    builder: AioContextBuilder,
    dirs: Vec<TempDir>,
    modes: Vec<Option<Mode>>,
    runtimes: Vec<fn() -> Runtime>,
    content: Content,
    starts_driver: bool,
    pauses_clock: bool,
}

enum Content {
    Blocks(usize),
    Bytes(Vec<u8>),
}

/// What one run of a test works with.
pub struct Case<'a> {
    pub dir: &'a TempDir,
    /// The path of `file`.
    pub path: PathBuf,
    /// The file `data` in `dir`, open for direct reads and writes.
    pub file: File,
    pub handle: AioContextHandle,
    pub mode: Mode,
}

impl Fixture {
    /// A context with `slots` slots.
    pub fn new(slots: usize) -> Fixture {
        Fixture {
            builder: AioContextBuilder::new(slots),
            dirs: Vec::new(),
            modes: vec![None],
            runtimes: vec![current_thread],
            content: Content::Blocks(0),
            starts_driver: false,
            pauses_clock: false,
        }
    }

    /// Changes how the context is made.
    pub fn build(mut self, change: impl FnOnce(AioContextBuilder) -> AioContextBuilder) -> Fixture {
        self.builder = change(self.builder);
        self
    }

    pub fn policy(self, policy: SubmitPolicy) -> Fixture {
        self.build(|builder| builder.submit_policy(policy))
    }

    /// Submits every request on the thread that makes it.
    pub fn inline(self) -> Fixture {
        self.policy(SubmitPolicy::Inline)
    }

    /// Runs in each of these modes.
    pub fn modes(mut self, modes: impl IntoIterator<Item = Mode>) -> Fixture {
        self.modes = modes.into_iter().map(Some).collect();
        self
    }

    /// Runs in every mode.
    pub fn every_mode(self) -> Fixture {
        self.modes(modes())
    }

    /// Runs with every policy, on the default backend.
    pub fn every_policy(self) -> Fixture {
        self.modes(POLICIES.map(|policy| (BACKENDS[0], policy)))
    }

    /// Runs on every backend, with the default policy.
    pub fn every_backend(self) -> Fixture {
        self.modes(
            BACKENDS
                .iter()
                .map(|&backend| (backend, SubmitPolicy::default())),
        )
    }

    /// Runs in every test directory.
    pub fn every_dir(mut self) -> Fixture {
        self.dirs = test_dirs();
        self
    }

    /// Runs in every mode in every test directory.
    pub fn everywhere(self) -> Fixture {
        self.every_dir().every_mode()
    }

    /// Runs on tmpfs; not at all where tmpfs has no direct I/O.
    pub fn tmpfs(mut self) -> Fixture {
        self.dirs = tmpfs_dir().into_iter().collect();
        if self.dirs.is_empty() {
            self.modes.clear();
        }
        self
    }

    /// Runs on a multi-thread runtime with two workers.
    pub fn multi_thread(mut self) -> Fixture {
        self.runtimes = vec![multi_thread];
        self
    }

    /// Runs on a current-thread and on a multi-thread runtime.
    pub fn every_runtime(mut self) -> Fixture {
        self.runtimes = vec![current_thread, multi_thread];
        self
    }

    /// Runs on this runtime.
    pub fn runtime(mut self, make: fn() -> Runtime) -> Fixture {
        self.runtimes = vec![make];
        self
    }

    /// The file has `blocks` blocks; block `i` holds [`pattern`](super::pattern) `i`.
    pub fn blocks<N: TryInto<usize, Error: Debug>>(mut self, blocks: N) -> Fixture {
        self.content = Content::Blocks(blocks.try_into().unwrap());
        self
    }

    /// The file has this content.
    pub fn content(mut self, bytes: impl Into<Vec<u8>>) -> Fixture {
        self.content = Content::Bytes(bytes.into());
        self
    }

    /// The context's background task has run before the test starts.
    pub fn start_driver(mut self) -> Fixture {
        self.starts_driver = true;
        self
    }

    /// tokio's clock stands still during the test. Implies [`start_driver`](Fixture::start_driver).
    pub fn pause_clock(mut self) -> Fixture {
        self.pauses_clock = true;
        self.start_driver()
    }

    pub fn run(mut self, test: impl AsyncFn(Case<'_>)) {
        if self.dirs.is_empty() && !self.modes.is_empty() {
            self.dirs.push(disk_dir());
        }
        for dir in &self.dirs {
            for &mode in &self.modes {
                for make_runtime in &self.runtimes {
                    make_runtime().block_on(self.run_once(dir, mode, &test));
                }
            }
        }
    }

    async fn run_once(&self, dir: &TempDir, mode: Option<Mode>, test: &impl AsyncFn(Case<'_>)) {
        let mut builder = self.builder.clone();
        if let Some((backend, policy)) = mode {
            builder = builder.backend(backend).submit_policy(policy);
        }
        let _on_panic = OnPanic(format!("in {:?}, {mode:?}", dir.path()));
        let path = dir.path().join("data");
        match &self.content {
            Content::Blocks(0) => drop(fs::File::create(&path).unwrap()),
            Content::Blocks(blocks) => write_patterned(&path, *blocks),
            Content::Bytes(bytes) => fs::write(&path, bytes).unwrap(),
        }
        let file = open_rw(dir, "data").await;
        let (context, handle) = builder.build().unwrap();
        let slots = context.available_slots();
        if self.starts_driver {
            tokio::task::yield_now().await;
        }
        let case = Case {
            dir,
            path: path.clone(),
            file,
            handle: handle.clone(),
            mode: mode.unwrap_or((handle.backend(), SubmitPolicy::default())),
        };
        if self.pauses_clock {
            // No hang guard: with nothing else to do, the clock would jump to its end.
            tokio::time::pause();
            test(case).await;
            tokio::time::resume();
        } else {
            with_hang_guard(test(case)).await;
        }
        with_hang_guard(async {
            match slots {
                Some(slots) => assert_idle(&handle, slots).await,
                // A context that does not wait for slots does not count the free ones.
                None => assert_no_work_left(&handle).await,
            }
            context.close().await;
        })
        .await;
        assert_eq!(handle.available_slots(), None);
        let _ = fs::remove_file(path); // the test may have done so
    }
}

/// Prints this if it is dropped by a panic: which run of a test has failed.
struct OnPanic(String);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("failed {}", self.0);
        }
    }
}
