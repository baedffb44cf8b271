//! [`DoctorReport`]: the findings of `kaio doctor`, and the schema of `--json`.

use std::path::PathBuf;

use kaio_bench::Disk;
use serde::Serialize;
use tokio_kaio::Backend;

use super::request_classes::{NowaitResults, RequestClass, Verdict};
use crate::direct_io_probe::DirectIoAlignment;
use crate::stdio::lossy;
use crate::system_limits::Memlock;

/// The version of the schema. It changes if a field is removed or changes its meaning, but not if a field
/// is added.
pub(crate) const SCHEMA: u32 = 1;

/// The output of `kaio doctor --json`. `docs/kaio.md` documents it for users.
///
/// Unknown values are `null`. Sizes are in bytes, shares between 0 and 1, times in microseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DoctorReport {
    /// [`SCHEMA`].
    pub(crate) schema: u32,
    /// Whether AIO is usable on every path. If so, the exit code is 0.
    pub(crate) usable: bool,
    /// The machine.
    pub(crate) machine: MachineReport,
    /// The paths, in the order of the command line.
    pub(crate) paths: Vec<PathReport>,
}

/// The machine, and the limits of this process.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MachineReport {
    /// Release and version of the kernel.
    pub(crate) kernel: String,
    /// Model of the CPU.
    pub(crate) cpu: String,
    /// Cores that the process may use.
    pub(crate) cores: usize,
    /// Memory.
    pub(crate) memory: u64,
    /// The share of all CPU time that other programs used right before the measurements.
    pub(crate) others_busy: Option<f64>,
    /// Whether a context can be created.
    pub(crate) io_setup: ProbeResult,
    /// Whether completions are reaped in user space, from the mapped ring. `false`: by system call.
    pub(crate) user_space_ring: Option<bool>,
    /// The seccomp mode of this process.
    pub(crate) seccomp: Option<Seccomp>,
    /// Slots of all contexts on the machine: `fs.aio-nr`.
    pub(crate) aio_nr: Option<u64>,
    /// The limit on `aio_nr`: `fs.aio-max-nr`.
    pub(crate) aio_max_nr: Option<u64>,
    /// The limit on locked memory.
    pub(crate) memlock: Memlock,
    /// Whether an io_uring ring can be created.
    pub(crate) io_uring: ProbeResult,
    /// The sysctl `kernel.io_uring_disabled`: 0 allows all processes, 1 some, 2 none.
    pub(crate) io_uring_disabled: Option<u32>,
    /// The backend of a context that may use any.
    pub(crate) backend: BackendReport,
    /// Advice.
    pub(crate) advice: Vec<Advice>,
}

/// The result of trying a system call.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ProbeResult {
    /// Whether the call succeeded.
    pub(crate) works: bool,
    /// The errno of a failure.
    pub(crate) errno: Option<i32>,
    /// The error of a failure, as text.
    pub(crate) error: Option<String>,
}

/// The backend that a context takes which prefers io_uring to kernel AIO, and both to threads.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct BackendReport {
    /// The first one that is available. `None`: a context can't be created.
    pub(crate) chosen: Option<BackendName>,
    /// Those before it, and why they are not available.
    pub(crate) refused: Vec<RefusedReport>,
}

/// A backend that is not available.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RefusedReport {
    /// The backend.
    pub(crate) backend: BackendName,
    /// The errno of its setup.
    pub(crate) errno: Option<i32>,
    /// The backend, why it is not available, and what to do.
    pub(crate) error: String,
}

/// The name of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BackendName {
    /// io_uring.
    IoUring,
    /// Kernel AIO.
    KernelAio,
    /// Threads.
    ThreadPool,
}

impl BackendName {
    /// The name of a backend of tokio-kaio. `None`: the backend is newer than this program.
    pub(crate) fn of(backend: Backend) -> Option<BackendName> {
        match backend {
            Backend::IoUring => Some(BackendName::IoUring),
            Backend::KernelAio => Some(BackendName::KernelAio),
            Backend::ThreadPool => Some(BackendName::ThreadPool),
            _ => None,
        }
    }

    /// The name in texts.
    pub(crate) fn text(self) -> &'static str {
        match self {
            BackendName::IoUring => "io_uring",
            BackendName::KernelAio => "kernel AIO",
            BackendName::ThreadPool => "the thread pool",
        }
    }
}

/// Reads on one backend.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct BackendReadsReport {
    /// The backend.
    pub(crate) backend: BackendName,
    /// Reads per second, eight at a time.
    pub(crate) reads_per_second: f64,
    /// CPU time of the process per read.
    pub(crate) cpu_us: f64,
}

/// The seccomp mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Seccomp {
    /// Disabled.
    Off,
    /// Only `read`, `write` and `exit` are allowed.
    Strict,
    /// A filter is active.
    Filter,
}

/// A path, and how AIO behaves there.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PathReport {
    /// The path, as on the command line.
    #[serde(serialize_with = "lossy")]
    pub(crate) path: PathBuf,
    /// The type of the file.
    pub(crate) kind: Option<Kind>,
    /// Whether AIO is usable: direct reads succeeded.
    pub(crate) usable: bool,
    /// What failed, and what to do. If set, the exit code is 1.
    pub(crate) error: Option<String>,
    /// The type of the file system.
    pub(crate) file_system: Option<String>,
    /// The mount source, usually a device.
    pub(crate) source: Option<String>,
    /// The block device that the path is or is on.
    pub(crate) device: Option<Disk>,
    /// Whether direct I/O is supported.
    pub(crate) direct: Option<bool>,
    /// The alignment that direct I/O requires.
    pub(crate) alignment: Option<DirectIoAlignment>,
    /// The file that was measured.
    pub(crate) measured_on: Option<MeasuredOn>,
    /// Why writes were not measured. `null`: they were.
    pub(crate) only_reads: Option<String>,
    /// Bytes per request.
    pub(crate) block: Option<u64>,
    /// The classes that were measured.
    pub(crate) classes: Vec<ClassReport>,
    /// Reads on each backend that is available.
    pub(crate) backends: Vec<BackendReadsReport>,
    /// Advice.
    pub(crate) advice: Vec<Advice>,
}

impl PathReport {
    /// A report without findings.
    pub(crate) fn new(path: PathBuf) -> PathReport {
        PathReport {
            path,
            kind: None,
            usable: false,
            error: None,
            file_system: None,
            source: None,
            device: None,
            direct: None,
            alignment: None,
            measured_on: None,
            only_reads: None,
            block: None,
            classes: vec![],
            backends: vec![],
            advice: vec![],
        }
    }

    /// The results of a class, if it was measured.
    pub(crate) fn class(&self, class: RequestClass) -> Option<&ClassReport> {
        let mut classes = self.classes.iter();
        classes.find(|report| report.class == class && report.verdict.is_some())
    }
}

/// The type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A block device.
    BlockDevice,
}

/// The file that was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MeasuredOn {
    /// A scratch file, in the directory or next to the file.
    Scratch,
    /// The file or device itself, which was only read.
    Itself,
}

/// The results of a class.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ClassReport {
    /// The class.
    pub(crate) class: RequestClass,
    /// How most submissions behave.
    pub(crate) verdict: Option<Verdict>,
    /// Submissions that the verdict rests on.
    pub(crate) requests: u64,
    /// The share of the requests' time that the thread spent in `io_submit`.
    pub(crate) share_inside: Option<f64>,
    /// The share of the submissions that slept.
    pub(crate) share_slept: Option<f64>,
    /// The median time of a request.
    pub(crate) median_us: Option<f64>,
    /// The results of the same requests with `NOWAIT`. `null` for a flush, which takes no flags.
    pub(crate) nowait: Option<NowaitResults>,
    /// Why the class could not be measured completely.
    pub(crate) error: Option<String>,
}

/// A piece of advice.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Advice {
    /// The topic.
    pub(crate) about: About,
    /// The advice, as a sentence.
    pub(crate) text: String,
}

/// The topic of a piece of advice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum About {
    /// A sandbox that forbids AIO.
    Sandbox,
    /// `fs.aio-max-nr`.
    Capacity,
    /// `RLIMIT_MEMLOCK`.
    LockedMemory,
    /// The reliability of the measurements.
    Certainty,
    /// The choice of the file system, or its options.
    FileSystem,
    /// The queue depth.
    Depth,
    /// The submit policy.
    Policy,
    /// Preallocation of blocks.
    Preallocation,
    /// The alignment of offsets, lengths and addresses.
    Alignment,
}
