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
    cuts: Vec<u64>,
    /// The cuts of a run that has the failure again. `None`: no run has it for certain.
    replay: Option<Vec<u64>>,
    kind: FailureKind,
    traces: Vec<DiskTrace>,
    image: Option<DiskImage>,
}

/// What has failed.
#[derive(Debug)]
pub(super) enum FailureKind {
    Error(Phase, String),
    Panic(Phase, String),
    Timeout(Phase, Duration),
    /// The trace of the second run.
    NotDeterministic(Box<DiskTrace>),
}

/// The two functions of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Workload,
    Verify,
}

/// Events of a trace that are printed.
const PRINTED_EVENTS: usize = 100;

impl FailureKind {
    /// `None`: the traces of two runs differ.
    pub(super) fn phase(&self) -> Option<Phase> {
        match self {
            FailureKind::Error(phase, _)
            | FailureKind::Panic(phase, _)
            | FailureKind::Timeout(phase, _) => Some(*phase),
            FailureKind::NotDeterministic(_) => None,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Workload => "the workload",
            Phase::Verify => "verify",
        })
    }
}

impl ExploreFailure {
    /// Verify does not accept `image`, which the last one of `cuts` has left.
    pub(super) fn of_verification(
        seed: u64,
        cuts: &[u64],
        kind: FailureKind,
        traces: Vec<DiskTrace>,
        image: DiskImage,
    ) -> ExploreFailure {
        ExploreFailure(Box::new(Inner {
            seed,
            cuts: cuts.to_vec(),
            replay: Some(cuts.to_vec()),
            kind,
            traces,
            image: Some(image),
        }))
    }

    /// The workload has failed while the power was on, when the disk had had this number of events.
    pub(super) fn of_workload(
        seed: u64,
        cuts: &[u64],
        events: u64,
        kind: FailureKind,
        traces: Vec<DiskTrace>,
        image: DiskImage,
    ) -> ExploreFailure {
        // A cut after the last event would come before the failure.
        let replay = cuts.iter().copied().chain([events + 1]).collect();
        let mut failure = ExploreFailure::of_verification(seed, cuts, kind, traces, image);
        failure.0.replay = Some(replay);
        failure
    }

    pub(super) fn not_deterministic(
        seed: u64,
        first: DiskTrace,
        second: DiskTrace,
    ) -> ExploreFailure {
        ExploreFailure(Box::new(Inner {
            seed,
            cuts: Vec::new(),
            replay: None,
            kind: FailureKind::NotDeterministic(Box::new(second)),
            traces: vec![first],
            image: None,
        }))
    }

    /// The seed of the disk.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// The events after which the power was cut: the first on the first disk, the next one on the disk that
    /// has booted then. Empty: the workload has failed before a cut, or two runs of it without a cut have
    /// differed.
    pub fn cuts(&self) -> &[u64] {
        &self.0.cuts
    }

    /// The value of the environment variable `KAIO_EXPLORE` that runs the failure again: `SEED:CUT`, or
    /// `SEED:CUT:CUT` with two cuts. `None`: two runs of the workload without a cut have differed.
    pub fn replay(&self) -> Option<String> {
        let cuts = self.0.replay.as_ref()?.iter();
        let numbers = [&self.0.seed].into_iter().chain(cuts);
        let numbers: Vec<String> = numbers.map(u64::to_string).collect();
        Some(numbers.join(":"))
    }

    /// What has failed, without the trace.
    pub fn message(&self) -> String {
        match &self.0.kind {
            FailureKind::Error(phase, text) => format!("{phase} failed: {text}"),
            FailureKind::Panic(phase, text) => format!("{phase} panicked: {text}"),
            FailureKind::Timeout(phase, limit) => {
                format!("{phase} has not ended in {limit:?} of simulated time")
            }
            FailureKind::NotDeterministic(_) => {
                "two runs of the workload with the same seed have different traces: it depends on something \
                 other than the disk, such as threads, the time of day, or the order of a HashMap"
                    .to_owned()
            }
        }
    }

    /// The traces of the disks of the run, one for each disk that the workload has used.
    pub fn traces(&self) -> &[DiskTrace] {
        &self.0.traces
    }

    /// What the last power cut has left; if the workload has failed while the power was on, what a cut after
    /// its failure has left. `None`: two runs of the workload without a cut have differed.
    pub fn image(&self) -> Option<&DiskImage> {
        self.0.image.as_ref()
    }
}

impl fmt::Display for ExploreFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            seed,
            cuts,
            kind,
            traces,
            image,
            ..
        } = &*self.0;
        writeln!(f, "{}", self.message())?;
        write!(f, "seed: {seed}")?;
        match &cuts[..] {
            [] => write!(f, ", without a power cut")?,
            [cut] => write!(f, ", power cut after event {cut}")?,
            [first, later @ ..] => {
                write!(f, ", power cuts after event {first}")?;
                for (cut, number) in later.iter().zip(2..) {
                    write!(f, " and after event {cut} of disk {number}")?;
                }
            }
        }
        for trace in traces {
            write!(f, ", trace hash: {:016x}", trace.hash())?;
        }
        writeln!(f)?;
        if let FailureKind::NotDeterministic(second) = kind {
            return traces
                .iter()
                .try_for_each(|first| write_difference(f, first, second));
        }
        if let Some(run) = self.replay() {
            writeln!(
                f,
                "run it again with the environment variable KAIO_EXPLORE={run}"
            )?;
        }
        for (trace, number) in traces.iter().zip(1..) {
            match traces.len() {
                1 => writeln!(f, "trace:")?,
                _ => writeln!(f, "trace of disk {number}:")?,
            }
            write_trace(f, trace)?;
        }
        match image {
            Some(image) => write!(f, "files that are left, with their lengths: {image:?}"),
            None => Ok(()),
        }
    }
}

/// Prints the end of a trace.
fn write_trace(f: &mut fmt::Formatter<'_>, trace: &DiskTrace) -> fmt::Result {
    let text = trace.to_string();
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(PRINTED_EVENTS);
    if first > 0 {
        writeln!(f, "  ({first} earlier lines omitted)")?;
    }
    lines[first..]
        .iter()
        .try_for_each(|line| writeln!(f, "  {line}"))
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
