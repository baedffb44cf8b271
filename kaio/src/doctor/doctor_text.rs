//! Formats a [`DoctorReport`] as text.

use std::fmt::{self, Write};

use kaio_bench::Disk;

use super::doctor_report::{
    Advice, BackendReport, DoctorReport, Kind, MachineReport, MeasuredOn, PathReport, ProbeResult,
    Seccomp,
};
use super::request_classes::{NowaitResults, percent_of};
use crate::stdio::wrap;
use crate::units::format_bytes;

/// Columns of the names on the left.
const NAMES: usize = 14;

/// Formats the report in lines of at most `width` columns. The table of measurements is not wrapped.
pub(crate) fn text(report: &DoctorReport, width: usize) -> String {
    let mut out = Output {
        text: String::new(),
        width,
    };
    let written = out.machine(&report.machine).and_then(|()| {
        let known = report.paths.iter().filter(|path| path.kind.is_some());
        known.into_iter().try_for_each(|path| {
            writeln!(out.text)?;
            out.path(path, report.machine.io_setup.works)
        })
    });
    written.expect("writing to a string can't fail");
    out.text
}

struct Output {
    text: String,
    width: usize,
}

impl Output {
    fn row(&mut self, name: &str, value: impl fmt::Display) -> fmt::Result {
        let first = format!("  {name:NAMES$} ");
        self.wrapped(&first, &value.to_string())
    }

    /// Writes `text` after `first`, and indents its further lines by as much.
    fn wrapped(&mut self, first: &str, text: &str) -> fmt::Result {
        let indent = " ".repeat(first.len());
        writeln!(self.text, "{}", wrap(text, self.width, first, &indent))
    }

    fn advice(&mut self, advice: &[Advice]) -> fmt::Result {
        let mut advice = advice.iter();
        advice.try_for_each(|one| self.wrapped("  advice: ", &one.text))
    }

    fn machine(&mut self, machine: &MachineReport) -> fmt::Result {
        writeln!(self.text, "this machine")?;
        self.row("kernel", format!("Linux {}", machine.kernel))?;
        let memory = format_bytes(machine.memory);
        let mut cpu = format!(
            "{}, {} cores, {memory} of memory",
            machine.cpu, machine.cores
        );
        if let Some(share) = machine.others_busy {
            write!(cpu, "; other programs use {:.0} %", share * 100.0)?;
        }
        self.row("CPU", cpu)?;
        self.row("kernel AIO", kernel_aio(machine))?;
        self.row("fs.aio-nr", capacity(machine))?;
        self.row("RLIMIT_MEMLOCK", machine.memlock)?;
        self.row("io_uring", io_uring(machine))?;
        self.row("backend", backend(&machine.backend))?;
        self.advice(&machine.advice)
    }

    fn path(&mut self, path: &PathReport, aio: bool) -> fmt::Result {
        writeln!(self.text, "{}", path.path.display())?;
        if let Some(name) = &path.file_system {
            let source = path.source.as_deref().unwrap_or("none");
            self.row("file system", format!("{name}, mounted from {source}"))?;
        }
        if let Some(disk) = &path.device {
            self.row("device", device(disk))?;
            self.row("scheduler", &disk.scheduler)?;
        }
        self.row("AIO", usable(path, aio))?;
        if let Some(direct) = path.direct {
            self.row("direct I/O", if direct { "yes" } else { "no" })?;
        }
        if let Some(alignment) = path.alignment {
            let mut offset = alignment.offset.to_string();
            if alignment.read_offset != alignment.offset {
                write!(offset, " ({} for reads)", alignment.read_offset)?;
            }
            let (memory, source) = (alignment.memory, alignment.source);
            self.row(
                "alignment",
                format!("memory {memory}, offset and length {offset}; {source}"),
            )?;
        }
        if !path.classes.is_empty() {
            self.measurements(path)?;
        }
        if !path.backends.is_empty() {
            self.backends(path)?;
        }
        self.advice(&path.advice)
    }

    fn measurements(&mut self, path: &PathReport) -> fmt::Result {
        let block = format_bytes(path.block.unwrap_or_default());
        let on = match (path.measured_on, path.kind) {
            (Some(MeasuredOn::Itself), Some(Kind::BlockDevice)) => "reads of the device itself",
            (Some(MeasuredOn::Itself), _) => "reads of the file itself",
            (_, Some(Kind::File)) => "a scratch file next to the file, now removed",
            _ => "a scratch file, now removed",
        };
        let mut on = format!("{on}; {block} per request, one request at a time");
        if let Some(why) = &path.only_reads {
            write!(on, "; {why}")?;
        }
        self.row("measured on", on)?;
        writeln!(
            self.text,
            "\n  {:NAMES$} {:10}  {:>12}  {:>6}  {:>9}  with NOWAIT",
            "request", "submission", "in io_submit", "slept", "median"
        )?;
        for class in &path.classes {
            let name = class.class.name();
            let Some(verdict) = class.verdict else {
                self.row(name, class.error.as_deref().unwrap_or("not measured"))?;
                continue;
            };
            let share = |share: Option<f64>| match share {
                None => "–".into(),
                Some(0.0) => "0".into(),
                Some(1.0) => "100 %".into(),
                Some(share) => percent_of(share),
            };
            writeln!(
                self.text,
                "  {name:NAMES$} {verdict:10}  {:>12}  {:>6}  {:>9}  {}",
                share(class.share_inside),
                share(class.share_slept),
                format!("{:.0} µs", class.median_us.unwrap_or_default()),
                nowait_results(class.nowait),
            )?;
        }
        writeln!(self.text)
    }

    fn backends(&mut self, path: &PathReport) -> fmt::Result {
        writeln!(
            self.text,
            "  {:17}  {:>9}  {:>11}",
            "8 reads at a time", "reads/s", "CPU µs/read"
        )?;
        for reads in &path.backends {
            let (name, per_second) = (reads.backend.text(), reads.reads_per_second);
            writeln!(
                self.text,
                "  {name:17}  {per_second:>9.0}  {:>11.1}",
                reads.cpu_us
            )?;
        }
        writeln!(self.text)
    }
}

fn kernel_aio(machine: &MachineReport) -> String {
    let filter = match machine.seccomp {
        Some(Seccomp::Filter) => "; a seccomp filter is active",
        _ => "",
    };
    let ring = match machine.user_space_ring {
        Some(true) => "; completions are reaped from the ring in user space",
        Some(false) => "; completions are reaped by system call",
        None => "",
    };
    match &machine.io_setup {
        ProbeResult { works: true, .. } => format!("io_setup works{ring}{filter}"),
        failed => format!("does not work: {}{filter}", why(failed)),
    }
}

fn why(result: &ProbeResult) -> &str {
    result.error.as_deref().unwrap_or("unknown reason")
}

fn capacity(machine: &MachineReport) -> String {
    match (machine.aio_nr, machine.aio_max_nr) {
        (Some(used), Some(limit)) => format!("{used} in use; the limit, fs.aio-max-nr, is {limit}"),
        _ => "unknown: /proc/sys/fs can't be read".into(),
    }
}

fn io_uring(machine: &MachineReport) -> String {
    let sysctl = match machine.io_uring_disabled {
        Some(value @ 1..) => format!("; kernel.io_uring_disabled is {value}"),
        _ => String::new(),
    };
    match &machine.io_uring {
        ProbeResult { works: true, .. } => format!("allowed{sysctl}"),
        failed => format!("not available: {}{sysctl}", why(failed)),
    }
}

/// The backend of a context that may use any, and why it is not an earlier one.
fn backend(report: &BackendReport) -> String {
    let Some(chosen) = report.chosen else {
        return "none: a context can't be created".into();
    };
    let order = "the first that is available of io_uring, kernel AIO and the thread pool \
                 (AioContextBuilder::backends; the default is kernel AIO)";
    let mut text = format!("{}, {order}", chosen.text());
    for refused in &report.refused {
        text += &format!("; {}", refused.error);
    }
    text
}

fn device(disk: &Disk) -> String {
    let mut text = disk.name.clone();
    if disk.whole != disk.name {
        text += &format!(" of {}", disk.whole);
    }
    if let Some(model) = &disk.model {
        text += &format!(", {model}");
    }
    let rotates = match disk.rotational {
        true => "rotational",
        false => "not rotational",
    };
    let (size, block) = (format_bytes(disk.size), disk.logical_block);
    text + &format!(", {size}, logical blocks of {block} bytes, {rotates}")
}

fn usable(path: &PathReport, aio: bool) -> &'static str {
    match path.direct {
        _ if path.usable => "usable",
        Some(false) => "not usable: direct I/O is not supported",
        _ if !aio => "not usable: io_setup does not work",
        _ => "unknown: see the error",
    }
}

fn nowait_results(results: Option<NowaitResults>) -> String {
    results.unwrap_or_default().to_string().replace('`', "")
}
