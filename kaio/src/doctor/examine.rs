//! A path: what is there, what direct I/O wants there, and what its requests do.

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use kaio_bench::temp_path::TempPath;
use kaio_bench::{Disk, Place};

use super::classes::{Class, Target};
use super::measure::{effort, measure};
use super::report::{Kind, MeasuredOn, PathReport};
use super::way_out::{full, is_the_kernels, plain, unwritable};
use crate::alignment::{Learned, learn, learn_in};
use crate::output::visible;

/// What a scratch directory's name begins with.
const SCRATCH: &str = "kaio-doctor-";

/// Of a scratch file, all; of what is there already, the reads.
const CLASSES: [Class; 6] = [
    Class::Read,
    Class::Overwrite,
    Class::Hole,
    Class::Preallocated,
    Class::Extending,
    Class::Sync,
];

/// Looks at `path`, and measures there if `aio`. What goes wrong is in the report.
pub(crate) async fn examine(path: &Path, aio: bool, progress: &ProgressBar) -> PathReport {
    let mut examination = Examination {
        aio,
        progress,
        report: PathReport::new(path.into()),
    };
    if let Err(error) = examination.all().await {
        let report = &mut examination.report;
        report.error = Some(error);
        report.usable = false;
    }
    examination.report
}

struct Examination<'a> {
    aio: bool,
    progress: &'a ProgressBar,
    report: PathReport,
}

/// An error names the operation, the path and the way out.
type Done = Result<(), String>;

impl Examination<'_> {
    async fn all(&mut self) -> Done {
        let given = self.report.path.clone();
        let (path, metadata) = find(&given).map_err(|error| {
            let way_out = match error.kind() {
                ErrorKind::NotFound => "name a directory, a file or a block device that is there",
                ErrorKind::PermissionDenied => {
                    "each directory on the way has to allow for being searched (x)"
                }
                _ => "name another",
            };
            self.failed("look at", error, way_out)
        })?;
        let kind = kind(&metadata).ok_or_else(|| {
            let path = given.display();
            format!("can't examine {path}: it is neither a directory, a file nor a block device")
        })?;
        self.report.kind = Some(kind);
        self.locate(&path, kind);
        match kind {
            Kind::Directory => self.directory(&path).await,
            Kind::File => self.file(&path, &metadata).await,
            Kind::BlockDevice => self.device(&path).await,
        }
    }

    /// Tells where it is.
    fn locate(&mut self, path: &Path, kind: Kind) {
        let report = &mut self.report;
        report.device = Disk::under(path);
        // What has the name of a device is not on it.
        let place = Place::of(path).ok().filter(|_| kind != Kind::BlockDevice);
        if let Some(place) = place {
            report.file_system = Some(place.file_system);
            report.source = Some(place.source);
        }
    }

    async fn directory(&mut self, path: &Path) -> Done {
        let scratch = TempPath::dir(path, SCRATCH).map_err(|error| {
            let error = plain(&error);
            let file_system = self.report.file_system.as_deref();
            let way_out = unwritable(&error, file_system);
            if is_the_kernels(file_system) {
                self.report.direct = Some(false);
            }
            self.failed("make a scratch directory in", error, way_out)
        })?;
        let learned = learn_in(scratch.path()).await.map_err(|error| {
            let way_out = full(&error).unwrap_or("the error is the kernel's");
            self.failed("make a scratch file in", error, way_out)
        })?;
        self.take(learned);
        self.measure(Target::Scratch(scratch.path().into())).await
    }

    async fn file(&mut self, path: &Path, metadata: &Metadata) -> Done {
        self.open_itself(path).await?;
        if !self.can_measure() {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(path);
        let (scratch, why) = match TempPath::dir(parent, SCRATCH) {
            Err(error) => (
                None,
                format!("nothing can be made in its directory: {}", plain(&error)),
            ),
            // A file can be mounted over another one.
            Ok(scratch) => match fs::metadata(scratch.path()) {
                Ok(beside) if beside.dev() == metadata.dev() => (Some(scratch), String::new()),
                _ => (
                    None,
                    "its directory is on another file system than the file".into(),
                ),
            },
        };
        match scratch {
            Some(scratch) => self.measure(Target::Scratch(scratch.path().into())).await,
            None => self.only_reads(path, metadata.len(), why).await,
        }
    }

    async fn device(&mut self, path: &Path) -> Done {
        self.open_itself(path).await?;
        let size = self.report.device.as_ref().map_or(0, |disk| disk.size);
        let why = "writes are not tried on a block device".to_owned();
        self.only_reads(path, size, why).await
    }

    /// Learns from what is there already, which is opened to be read.
    async fn open_itself(&mut self, path: &Path) -> Done {
        let learned = learn(path).await.map_err(|error| {
            let way_out = match (error.kind(), self.report.kind) {
                (ErrorKind::PermissionDenied, Some(Kind::BlockDevice)) => {
                    "reading a device takes root, or its group, mostly disk"
                }
                (ErrorKind::PermissionDenied, _) => "it has to be readable for you",
                _ => "the error is the kernel's",
            };
            self.failed("open", error, way_out)
        })?;
        self.take(learned);
        Ok(())
    }

    fn take(&mut self, learned: Learned) {
        self.report.direct = Some(learned.direct);
        self.report.alignment = learned.alignment;
    }

    /// Whether there is anything to be measured.
    fn can_measure(&self) -> bool {
        self.aio && self.report.alignment.is_some()
    }

    async fn only_reads(&mut self, path: &Path, len: u64, why: String) -> Done {
        self.report.only_reads = Some(why);
        let target = Target::Existing {
            path: path.to_owned(),
            len,
        };
        self.measure(target).await
    }

    async fn measure(&mut self, target: Target) -> Done {
        let (true, Some(alignment)) = (self.can_measure(), self.report.alignment) else {
            return Ok(());
        };
        let effort = effort(&alignment);
        let (classes, on) = match target {
            Target::Scratch(_) => (&CLASSES[..], MeasuredOn::Scratch),
            Target::Existing { .. } => (&CLASSES[..1], MeasuredOn::Itself),
        };
        self.report.measured_on = Some(on);
        self.report.block = Some(effort.block);
        let path = self.report.path.display().to_string();
        let mut first_failure = None;
        for &class in classes {
            let message = format!("measuring {path}: {}", class.name());
            self.progress.set_message(visible(&message).into_owned());
            let (measured, failure) = measure(&target, class, effort).await;
            let failure = failure
                .map(|failure| format!("can't measure {} on {path}: {failure}", class.name()));
            first_failure = first_failure.or(failure);
            self.report.classes.push(measured);
        }
        self.report.usable = self.report.class(Class::Read).is_some();
        match first_failure {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    fn failed(&self, operation: &str, error: io::Error, way_out: &str) -> String {
        let path = self.report.path.display();
        // Some errors of the library name the path, and a way out of their own.
        format!("can't {operation} {path}: {error}; {way_out}")
    }
}

fn find(path: &Path) -> io::Result<(PathBuf, Metadata)> {
    // Where a link leads to is where the file has its neighbours.
    let path = path.canonicalize()?;
    let metadata = fs::metadata(&path)?;
    Ok((path, metadata))
}

/// `None`: one that has no direct I/O, and may wait for somebody when it is opened.
fn kind(metadata: &Metadata) -> Option<Kind> {
    let kind = metadata.file_type();
    if kind.is_dir() {
        Some(Kind::Directory)
    } else if kind.is_file() {
        Some(Kind::File)
    } else {
        kind.is_block_device().then_some(Kind::BlockDevice)
    }
}
