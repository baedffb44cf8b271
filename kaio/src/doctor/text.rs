//! A [`Report`] for people.

use std::fmt::{self, Write};

use kaio_bench::Disk;

use super::classes::{Answers, percent_of};
use super::report::{Advice, Asked, Kind, MachineReport, MeasuredOn, PathReport, Report, Seccomp};
use crate::units::bytes;

/// Of the left column.
const WIDTH: usize = 14;

/// All of it.
pub(crate) fn text(report: &Report) -> String {
    let mut text = String::new();
    let written = machine(&mut text, &report.machine).and_then(|()| {
        let known = report.paths.iter().filter(|path| path.kind.is_some());
        known.into_iter().try_for_each(|one| {
            text.push('\n');
            path(&mut text, one, report.machine.io_setup.works)
        })
    });
    written.expect("a string takes all");
    text
}

fn row(text: &mut String, name: &str, value: impl fmt::Display) -> fmt::Result {
    writeln!(text, "  {name:WIDTH$} {value}")
}

fn machine(text: &mut String, machine: &MachineReport) -> fmt::Result {
    writeln!(text, "this machine")?;
    row(text, "kernel", format!("Linux {}", machine.kernel))?;
    let memory = bytes(machine.memory);
    let mut cpu = format!(
        "{}, {} cores, {memory} of memory",
        machine.cpu, machine.cores
    );
    if let Some(share) = machine.others_busy {
        write!(cpu, "; others keep {:.0} % busy", share * 100.0)?;
    }
    row(text, "CPU", cpu)?;
    row(text, "kernel AIO", kernel_aio(machine))?;
    row(text, "fs.aio-nr", capacity(machine))?;
    row(text, "RLIMIT_MEMLOCK", machine.memlock)?;
    row(text, "io_uring", io_uring(machine))?;
    advice(text, &machine.advice)
}

fn kernel_aio(machine: &MachineReport) -> String {
    let filter = match machine.seccomp {
        Some(Seccomp::Filter) => "; a seccomp filter is in force",
        _ => "",
    };
    let ring = match machine.user_space_ring {
        Some(true) => ", and completions are reaped from a ring in user space",
        Some(false) => ", and completions are reaped by system call",
        None => "",
    };
    match &machine.io_setup {
        Asked { works: true, .. } => format!("io_setup works{ring}{filter}"),
        failed => format!("does not work: {}{filter}", why(failed)),
    }
}

fn why(asked: &Asked) -> &str {
    asked.error.as_deref().unwrap_or("for no known reason")
}

fn capacity(machine: &MachineReport) -> String {
    match (machine.aio_nr, machine.aio_max_nr) {
        (Some(used), Some(limit)) => format!("{used} in use, of at most {limit} (fs.aio-max-nr)"),
        _ => "not known: /proc/sys/fs can't be read".into(),
    }
}

fn io_uring(machine: &MachineReport) -> String {
    let sysctl = match machine.io_uring_disabled {
        Some(value @ 1..) => format!("; kernel.io_uring_disabled is {value}"),
        _ => String::new(),
    };
    match &machine.io_uring {
        Asked { works: true, .. } => format!("allowed{sysctl}"),
        failed => format!("not to be had: {}{sysctl}", why(failed)),
    }
}

fn path(text: &mut String, path: &PathReport, aio: bool) -> fmt::Result {
    writeln!(text, "{}", path.path.display())?;
    if let Some(name) = &path.file_system {
        let source = path.source.as_deref().unwrap_or("none");
        row(
            text,
            "file system",
            format!("{name}, mounted from {source}"),
        )?;
    }
    if let Some(disk) = &path.device {
        row(text, "device", device(disk))?;
        row(text, "scheduler", &disk.scheduler)?;
    }
    row(text, "AIO", usable(path, aio))?;
    if let Some(direct) = path.direct {
        row(text, "direct I/O", if direct { "yes" } else { "no" })?;
    }
    if let Some(alignment) = path.alignment {
        let mut offset = alignment.offset.to_string();
        if alignment.read_offset != alignment.offset {
            write!(offset, " ({} of reads)", alignment.read_offset)?;
        }
        let (memory, source) = (alignment.memory, alignment.source);
        row(
            text,
            "alignment",
            format!("memory {memory}, offset and length {offset}; {source}"),
        )?;
    }
    if !path.classes.is_empty() {
        measured(text, path)?;
    }
    advice(text, &path.advice)
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
        true => "says that it rotates",
        false => "does not rotate",
    };
    let (size, block) = (bytes(disk.size), disk.logical_block);
    text + &format!(", {size} in blocks of {block}, {rotates}")
}

fn usable(path: &PathReport, aio: bool) -> &'static str {
    match path.direct {
        _ if path.usable => "usable",
        Some(false) => "not usable: there is no direct I/O",
        _ if !aio => "not usable: io_setup does not work",
        _ => "not known to be usable: see the error",
    }
}

fn measured(text: &mut String, path: &PathReport) -> fmt::Result {
    let block = bytes(path.block.unwrap_or_default());
    let on = match (path.measured_on, path.kind) {
        (Some(MeasuredOn::Itself), Some(Kind::BlockDevice)) => "reads of the device itself",
        (Some(MeasuredOn::Itself), _) => "reads of the file itself",
        (_, Some(Kind::File)) => "a scratch file beside it, which is removed",
        _ => "a scratch file, which is removed",
    };
    let mut on = format!("{on}; {block} at a time, one after another");
    if let Some(why) = &path.only_reads {
        write!(on, "; {why}")?;
    }
    row(text, "measured on", on)?;
    writeln!(
        text,
        "\n  {:WIDTH$} {:10}  {:>12}  {:>6}  {:>9}  with NOWAIT",
        "request", "submission", "in io_submit", "slept", "median"
    )?;
    for class in &path.classes {
        let name = class.class.name();
        let Some(verdict) = class.verdict else {
            let why = class.error.as_deref().unwrap_or("not measured");
            writeln!(text, "  {name:WIDTH$} {why}")?;
            continue;
        };
        let share = |share: Option<f64>| match share {
            None => "–".into(),
            Some(0.0) => "0".into(),
            Some(1.0) => "100 %".into(),
            Some(share) => percent_of(share),
        };
        writeln!(
            text,
            "  {name:WIDTH$} {verdict:10}  {:>12}  {:>6}  {:>9}  {}",
            share(class.share_inside),
            share(class.share_slept),
            format!("{:.0} µs", class.median_us.unwrap_or_default()),
            answers(class.nowait),
        )?;
    }
    writeln!(text)
}

fn answers(answers: Option<Answers>) -> String {
    answers.unwrap_or_default().to_string().replace('`', "")
}

fn advice(text: &mut String, advice: &[Advice]) -> fmt::Result {
    const INDENT: &str = "  advice: ";
    let below = " ".repeat(INDENT.len());
    let lines = textwrap::Options::new(100)
        .initial_indent(INDENT)
        .subsequent_indent(&below)
        .break_words(false);
    let mut advice = advice.iter();
    advice.try_for_each(|one| writeln!(text, "{}", textwrap::fill(&one.text, &lines)))
}
