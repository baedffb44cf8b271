//! [`Report`]: all that `kaio doctor` finds out, as `--json` has it.

use std::path::PathBuf;

use kaio_bench::Disk;
use serde::Serialize;

use super::classes::{Answers, Class, Verdict};
use crate::alignment::Aligned;
use crate::limits::Memlock;
use crate::output::lossy;

/// The number of the schema: of another one if a field goes, or means something else. Fields may be
/// added to one.
pub(crate) const SCHEMA: u32 = 1;

/// What `kaio doctor --json` prints. `docs/kaio.md` has the same for its readers.
///
/// What is not known is `null`; sizes are in bytes, shares from 0 to 1, times in microseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// [`SCHEMA`].
    pub(crate) schema: u32,
    /// Whether AIO is usable everywhere asked; the exit code is 0 if so.
    pub(crate) usable: bool,
    /// The machine.
    pub(crate) machine: MachineReport,
    /// The paths, in the order asked.
    pub(crate) paths: Vec<PathReport>,
}

/// The machine, and what this process may do on it.
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
    /// The share of all CPUs' time that others took right before the measuring.
    pub(crate) others_busy: Option<f64>,
    /// Whether a context can be made.
    pub(crate) io_setup: Asked,
    /// Whether completions are reaped in user space, from a ring that the kernel maps. `false`: by a
    /// system call.
    pub(crate) user_space_ring: Option<bool>,
    /// What seccomp does to this process.
    pub(crate) seccomp: Option<Seccomp>,
    /// Requests that all contexts of the machine may have in flight: `fs.aio-nr`.
    pub(crate) aio_nr: Option<u64>,
    /// Its limit: `fs.aio-max-nr`.
    pub(crate) aio_max_nr: Option<u64>,
    /// Memory that may be locked.
    pub(crate) memlock: Memlock,
    /// Whether a ring of io_uring can be made.
    pub(crate) io_uring: Asked,
    /// The sysctl `kernel.io_uring_disabled`: 0 for all, 1 for some, 2 for nobody.
    pub(crate) io_uring_disabled: Option<u32>,
    /// What to do about it.
    pub(crate) advice: Vec<Advice>,
}

/// What the kernel answered.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Asked {
    /// Whether it worked.
    pub(crate) works: bool,
    /// If not, the errno.
    pub(crate) errno: Option<i32>,
    /// And the error in words.
    pub(crate) error: Option<String>,
}

/// The mode of seccomp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Seccomp {
    /// None.
    Off,
    /// Reads, writes and an end.
    Strict,
    /// What a filter allows.
    Filter,
}

/// One path, and what AIO does there.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PathReport {
    /// As it was given.
    #[serde(serialize_with = "lossy")]
    pub(crate) path: PathBuf,
    /// What is there.
    pub(crate) kind: Option<Kind>,
    /// Whether AIO is usable: there is direct I/O, and reads were made with it.
    pub(crate) usable: bool,
    /// What went wrong, and what to do about it; with one, the exit code is 1.
    pub(crate) error: Option<String>,
    /// The type of the file system.
    pub(crate) file_system: Option<String>,
    /// What is mounted there: a device, mostly.
    pub(crate) source: Option<String>,
    /// The block device that it is, or is on.
    pub(crate) device: Option<Disk>,
    /// Whether there is direct I/O.
    pub(crate) direct: Option<bool>,
    /// What that wants.
    pub(crate) alignment: Option<Aligned>,
    /// What was measured on.
    pub(crate) measured_on: Option<MeasuredOn>,
    /// Why writes were not tried, if not.
    pub(crate) only_reads: Option<String>,
    /// Bytes of a request.
    pub(crate) block: Option<u64>,
    /// The classes that were measured.
    pub(crate) classes: Vec<ClassReport>,
    /// What to do about it.
    pub(crate) advice: Vec<Advice>,
}

impl PathReport {
    /// One of which nothing is known.
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
            advice: vec![],
        }
    }

    /// What came of a class, if its submissions were measured.
    pub(crate) fn class(&self, class: Class) -> Option<&ClassReport> {
        let mut classes = self.classes.iter();
        classes.find(|report| report.class == class && report.verdict.is_some())
    }
}

/// What a path leads to.
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

/// What was measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MeasuredOn {
    /// A file of our own, in the directory, or beside the file.
    Scratch,
    /// The file or device itself, which was read.
    Itself,
}

/// What came of a class.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ClassReport {
    /// Which.
    pub(crate) class: Class,
    /// What most submissions did.
    pub(crate) verdict: Option<Verdict>,
    /// Submissions that were watched for that.
    pub(crate) requests: u64,
    /// The share of the requests' time in which their thread was in `io_submit`.
    pub(crate) share_inside: Option<f64>,
    /// The share of the submissions that slept.
    pub(crate) share_slept: Option<f64>,
    /// The median time of a request.
    pub(crate) median_us: Option<f64>,
    /// What as many requests with `NOWAIT` were answered; a sync can't have the flag.
    pub(crate) nowait: Option<Answers>,
    /// What kept it from being measured.
    pub(crate) error: Option<String>,
}

/// A sentence of advice.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Advice {
    /// What it is about.
    pub(crate) about: About,
    /// The sentence.
    pub(crate) text: String,
}

/// What advice can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum About {
    /// What forbids AIO.
    Sandbox,
    /// `fs.aio-max-nr`.
    Capacity,
    /// `RLIMIT_MEMLOCK`.
    LockedMemory,
    /// The sureness of what was measured.
    Certainty,
    /// Another file system, or another way to use this.
    FileSystem,
    /// Requests in flight.
    Depth,
    /// The submit policy.
    Policy,
    /// Blocks that are allocated ahead.
    Preallocation,
    /// Offsets, lengths and addresses.
    Alignment,
}
