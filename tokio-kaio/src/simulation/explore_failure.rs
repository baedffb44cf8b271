//! [`ExploreFailure`]: a power cut that a program has not survived.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use super::{DiskImage, DiskTrace};

/// A failure that an [`Explorer`](super::Explorer) has found.
///
/// `Display` and `Debug` print the failure, the seed, the cut, the end of the trace, the files that were left, and
/// how to run the failure again.
pub struct ExploreFailure(Box<Inner>);

struct Inner {
    seed: u64,
    cut: Option<u64>,
    /// The cut that runs the failure again.
    replay: Option<u64>,
    kind: FailureKind,
    trace: DiskTrace,
    image: Option<DiskImage>,
}

/// What has failed.
pub(super) enum FailureKind {
    Workload(String),
    WorkloadPanic(String),
    WorkloadTimeout(Duration),
    Verify(String),
    VerifyPanic(String),
    VerifyTimeout(Duration),
    /// The trace of the second run.
    NotDeterministic(Box<DiskTrace>),
}

/// Events of the trace that are printed.
const PRINTED_EVENTS: usize = 100;

impl ExploreFailure {
    pub(super) fn new(
        seed: u64,
        cut: Option<u64>,
        kind: FailureKind,
        trace: DiskTrace,
    ) -> ExploreFailure {
        ExploreFailure(Box::new(Inner {
            seed,
            cut,
            replay: cut,
            kind,
            trace,
            image: None,
        }))
    }

    /// Makes a failure of a workload whose power was on, after this number of events.
    pub(super) fn without_cut(
        seed: u64,
        events: u64,
        kind: FailureKind,
        trace: DiskTrace,
    ) -> ExploreFailure {
        let mut failure = ExploreFailure::new(seed, None, kind, trace);
        // A cut after the last event would come before the failure.
        failure.0.replay = Some(events + 1);
        failure
    }

    pub(super) fn with_image(mut self, image: DiskImage) -> ExploreFailure {
        self.0.image = Some(image);
        self
    }

    /// The seed of the disk.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// The event after which the power was cut. `None`: the workload has failed while the power was on, or two
    /// runs of it without a cut have differed.
    pub fn cut(&self) -> Option<u64> {
        self.0.cut
    }

    /// What has failed, without the trace.
    pub fn message(&self) -> String {
        match &self.0.kind {
            FailureKind::Workload(text) => format!("the workload failed: {text}"),
            FailureKind::WorkloadPanic(text) => format!("the workload panicked: {text}"),
            FailureKind::WorkloadTimeout(limit) => {
                format!("the workload has not ended in {limit:?} of simulated time")
            }
            FailureKind::Verify(text) => format!("verify failed: {text}"),
            FailureKind::VerifyPanic(text) => format!("verify panicked: {text}"),
            FailureKind::VerifyTimeout(limit) => {
                format!("verify has not ended in {limit:?} of simulated time")
            }
            FailureKind::NotDeterministic(_) => {
                "two runs of the workload with the same seed have different traces: it depends on something \
                 other than the disk, such as threads, the time of day, or the order of a HashMap"
                    .to_owned()
            }
        }
    }

    /// The trace of the run.
    pub fn trace(&self) -> &DiskTrace {
        &self.0.trace
    }

    /// What the power cut has left; if the workload has failed while the power was on, what a cut after its
    /// failure has left. `None`: two runs of the workload without a cut have differed.
    pub fn image(&self) -> Option<&DiskImage> {
        self.0.image.as_ref()
    }
}

impl fmt::Display for ExploreFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            seed,
            cut,
            replay,
            kind,
            trace,
            image,
        } = &*self.0;
        writeln!(f, "{}", self.message())?;
        write!(f, "seed: {seed}")?;
        match cut {
            Some(cut) => write!(f, ", power cut after event {cut}")?,
            None => write!(f, ", without a power cut")?,
        }
        writeln!(f, ", trace hash: {:016x}", trace.hash())?;
        if let FailureKind::NotDeterministic(other) = kind {
            return write_difference(f, trace, other);
        }
        if let Some(replay) = replay {
            writeln!(
                f,
                "run it again with the environment variable KAIO_EXPLORE={seed}:{replay}"
            )?;
        }
        writeln!(f, "trace:")?;
        let text = trace.to_string();
        let lines: Vec<&str> = text.lines().collect();
        let first = lines.len().saturating_sub(PRINTED_EVENTS);
        if first > 0 {
            writeln!(f, "  ({first} earlier lines omitted)")?;
        }
        for line in &lines[first..] {
            writeln!(f, "  {line}")?;
        }
        match image {
            Some(image) => write!(f, "files that are left, with their lengths: {image:?}"),
            None => Ok(()),
        }
    }
}

/// Prints where two traces differ first.
fn write_difference(
    f: &mut fmt::Formatter<'_>,
    first: &DiskTrace,
    second: &DiskTrace,
) -> fmt::Result {
    let (first, second) = (first.to_string(), second.to_string());
    let same = first
        .lines()
        .zip(second.lines())
        .take_while(|(first, second)| first == second)
        .count();
    let line = |text: &str| text.lines().nth(same).unwrap_or("(the end)").to_owned();
    writeln!(f, "first run:  {}", line(&first))?;
    write!(f, "second run: {}", line(&second))
}

impl fmt::Debug for ExploreFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for ExploreFailure {}
