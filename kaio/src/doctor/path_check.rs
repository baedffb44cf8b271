//! Checks a path: its type, direct I/O and alignment, and how requests behave there.

use std::fmt::Display;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use kaio_bench::temp_path::TempPath;
use kaio_bench::{Disk, Place};

use super::doctor_report::{BackendName, BackendReadsReport, Kind, MeasuredOn, PathReport};
use super::error_hints::{no_space_hint, unwritable_hint, without_path};
use super::measure_class::{measure_class, measure_settings};
use super::request_classes::{BACKENDS, BackendReads, MeasureTarget, RequestClass};
use crate::direct_io_probe::{DirectIoSupport, probe_direct_io, probe_direct_io_in};
use crate::paths::{cant_hold_files, is_kernel_file_system};
use crate::stdio::escape_control_chars;

/// The prefix of the name of a scratch directory.
const SCRATCH: &str = "kaio-doctor-";

/// The classes to measure: all on a scratch file, only the first on an existing file.
const CLASSES: [RequestClass; 6] = [
    RequestClass::Read,
    RequestClass::Overwrite,
    RequestClass::Hole,
    RequestClass::Preallocated,
    RequestClass::Extending,
    RequestClass::Sync,
];

/// Checks `path`, and measures there: the backends, and if `aio`, each class of requests. Errors are in the
/// report.
pub(crate) async fn check_path(path: &Path, aio: bool, progress: &ProgressBar) -> PathReport {
    let mut check = PathCheck {
        aio,
        progress,
        report: PathReport::new(path.into()),
    };
    if let Err(error) = check.run().await {
        let report = &mut check.report;
        report.error = Some(error);
        report.usable = false;
    }
    check.report
}

struct PathCheck<'a> {
    aio: bool,
    progress: &'a ProgressBar,
    report: PathReport,
}

/// The error names the operation and the path, and says what to do.
type CheckResult = Result<(), String>;

impl PathCheck<'_> {
    async fn run(&mut self) -> CheckResult {
        let given = self.report.path.clone();
        let (path, metadata) = find(&given).map_err(|error| {
            let hint = match error.kind() {
                ErrorKind::NotFound => "name an existing directory, file or block device",
                ErrorKind::PermissionDenied => {
                    "each directory of the path must be searchable (permission x)"
                }
                _ => "name another path",
            };
            self.failed("examine", error, Some(hint))
        })?;
        let kind = kind(&metadata).ok_or_else(|| {
            let path = given.display();
            format!("can't examine {path}: it is not a directory, a regular file or a block device")
        })?;
        self.report.kind = Some(kind);
        self.locate(&path, kind);
        match kind {
            Kind::Directory => self.check_directory(&path).await,
            Kind::File => self.check_file(&path, &metadata).await,
            Kind::BlockDevice => self.check_device(&path).await,
        }
    }

    /// Finds the file system and the device.
    fn locate(&mut self, path: &Path, kind: Kind) {
        let report = &mut self.report;
        report.device = Disk::under(path);
        // The file system of a device file is not on the device.
        let place = Place::of(path).ok().filter(|_| kind != Kind::BlockDevice);
        if let Some(place) = place {
            report.file_system = Some(place.file_system);
            report.source = Some(place.source);
        }
    }

    async fn check_directory(&mut self, path: &Path) -> CheckResult {
        let scratch = TempPath::dir(path, SCRATCH).map_err(|error| {
            const CREATE: &str = "create a scratch directory in";
            let error = without_path(&error);
            let file_system = self.report.file_system.as_deref();
            let hint = unwritable_hint(&error, file_system);
            match file_system.filter(|name| is_kernel_file_system(name)) {
                Some(name) => {
                    let why = cant_hold_files(name);
                    self.report.direct = Some(false);
                    self.failed(CREATE, why, Some(hint))
                }
                None => self.failed(CREATE, error, Some(hint)),
            }
        })?;
        let support = probe_direct_io_in(scratch.path()).await.map_err(|error| {
            let hint = no_space_hint(&error);
            self.failed("create a scratch file in", error, hint)
        })?;
        self.set_support(support);
        self.measure(MeasureTarget::Scratch(scratch.path().into()))
            .await
    }

    async fn check_file(&mut self, path: &Path, metadata: &Metadata) -> CheckResult {
        self.probe_itself(path).await?;
        if !self.can_measure() {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(path);
        let (scratch, why) = match TempPath::dir(parent, SCRATCH) {
            Err(error) => (
                None,
                format!(
                    "no file can be created in its directory: {}",
                    without_path(&error)
                ),
            ),
            // A file can be a mount point.
            Ok(scratch) => match fs::metadata(scratch.path()) {
                Ok(beside) if beside.dev() == metadata.dev() => (Some(scratch), String::new()),
                _ => (None, "its directory is on another file system".into()),
            },
        };
        match scratch {
            Some(scratch) => {
                self.measure(MeasureTarget::Scratch(scratch.path().into()))
                    .await
            }
            None => self.measure_reads(path, metadata.len(), why).await,
        }
    }

    async fn check_device(&mut self, path: &Path) -> CheckResult {
        self.probe_itself(path).await?;
        let size = self.report.device.as_ref().map_or(0, |disk| disk.size);
        let why = "writes are not measured on a block device".to_owned();
        self.measure_reads(path, size, why).await
    }

    /// Probes the existing file or device.
    async fn probe_itself(&mut self, path: &Path) -> CheckResult {
        let support = probe_direct_io(path).await.map_err(|error| {
            let hint = match (error.kind(), self.report.kind) {
                (ErrorKind::PermissionDenied, Some(Kind::BlockDevice)) => {
                    Some("reading a device requires root or membership in its group, usually disk")
                }
                (ErrorKind::PermissionDenied, _) => Some("you need read permission"),
                _ => None,
            };
            self.failed("open", error, hint)
        })?;
        self.set_support(support);
        Ok(())
    }

    fn set_support(&mut self, support: DirectIoSupport) {
        self.report.direct = Some(support.direct);
        self.report.alignment = support.alignment;
    }

    /// Whether requests can be measured: those of kernel AIO, or those of other backends.
    fn can_measure(&self) -> bool {
        self.report.alignment.is_some()
    }

    async fn measure_reads(&mut self, path: &Path, len: u64, why: String) -> CheckResult {
        self.report.only_reads = Some(why);
        let target = MeasureTarget::Existing {
            path: path.to_owned(),
            len,
        };
        self.measure(target).await
    }

    async fn measure(&mut self, target: MeasureTarget) -> CheckResult {
        let Some(alignment) = self.report.alignment else {
            return Ok(());
        };
        let settings = measure_settings(&alignment);
        let (classes, on) = match target {
            MeasureTarget::Scratch(_) => (&CLASSES[..], MeasuredOn::Scratch),
            MeasureTarget::Existing { .. } => (&CLASSES[..1], MeasuredOn::Itself),
        };
        self.report.measured_on = Some(on);
        self.report.block = Some(settings.block);
        let path = self.report.path.display().to_string();
        let mut first_error = None;
        for &class in classes.iter().filter(|_| self.aio) {
            let message = format!("measuring {path}: {}", class.name());
            self.progress
                .set_message(escape_control_chars(&message).into_owned());
            let (measured, error) = measure_class(&target, class, settings).await;
            let error =
                error.map(|error| format!("can't measure {} on {path}: {error}", class.name()));
            first_error = first_error.or(error);
            self.report.classes.push(measured);
        }
        self.report.usable = self.report.class(RequestClass::Read).is_some();
        self.progress
            .set_message(escape_control_chars(&format!("measuring {path}: backends")).into_owned());
        match BackendReads::measure(&target, &BACKENDS, settings).await {
            Ok(measured) => {
                self.report.backends = measured.iter().filter_map(reads_report).collect()
            }
            Err(error) => {
                let error = format!("can't measure the backends on {path}: {error}");
                first_error = first_error.or(Some(error));
            }
        }
        match first_error {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn failed(&self, operation: &str, error: impl Display, hint: Option<&str>) -> String {
        let path = self.report.path.display();
        // Some errors of the library name the path and have a hint, too.
        let hint = hint.map_or(String::new(), |hint| format!("; {hint}"));
        format!("can't {operation} {path}: {error}{hint}")
    }
}

fn reads_report(reads: &BackendReads) -> Option<BackendReadsReport> {
    Some(BackendReadsReport {
        backend: BackendName::of(reads.backend)?,
        reads_per_second: reads.per_second,
        cpu_us: reads.cpu.as_secs_f64() * 1e6,
    })
}

fn find(path: &Path) -> io::Result<(PathBuf, Metadata)> {
    // The scratch file belongs next to the file that a link points to.
    let path = path.canonicalize()?;
    let metadata = fs::metadata(&path)?;
    Ok((path, metadata))
}

/// The kind of a file. `None`: it has no direct I/O, and opening it may wait for another process.
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
