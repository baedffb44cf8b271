//! Advice about a path.

use super::super::classes::{Class, Verdict, percent_of};
use super::super::report::{About, Advice, ClassReport, PathReport};
use super::{List, listed};
use crate::alignment::Learnt;

const WRITES: [Class; 4] = [
    Class::Overwrite,
    Class::Hole,
    Class::Preallocated,
    Class::Extending,
];

/// What is to be done about a path.
pub(crate) fn of_path(path: &PathReport) -> Vec<Advice> {
    let mut list = List::default();
    if path.direct == Some(false) {
        let file_system = path.file_system.as_deref().unwrap_or("what is there");
        list.add(
            About::FileSystem,
            format!(
                "{file_system} has no direct I/O here, and without that the kernel does a request \
                 inside io_submit: use tokio::fs, open files with aio_open_or_buffered, or put them \
                 on ext4, XFS or btrfs."
            ),
        );
        return list.0;
    }
    alignment(path, &mut list);
    Transfers::of(path).advise(&mut list);
    list.0
}

fn alignment(path: &PathReport, list: &mut List) {
    let Some(alignment) = path.alignment else {
        return;
    };
    if alignment.source == Learnt::Assumed {
        list.add(
            About::Alignment,
            "Nobody tells what direct I/O wants here: begin with multiples of 4096 bytes, and be \
             prepared for EINVAL.",
        );
    } else if alignment.offset > 4096 {
        list.add(
            About::Alignment,
            format!(
                "A transfer that is no multiple of {} bytes is EINVAL here: use blocks of that, or \
                 File::read_bytes_at and write_bytes_at.",
                alignment.offset
            ),
        );
    }
}

/// The classes of reads and writes that were measured.
struct Transfers<'a> {
    path: &'a PathReport,
    all: Vec<&'a ClassReport>,
}

impl<'a> Transfers<'a> {
    fn of(path: &'a PathReport) -> Transfers<'a> {
        let transfers = [Class::Read].into_iter().chain(WRITES);
        Transfers {
            path,
            all: transfers.filter_map(|class| path.class(class)).collect(),
        }
    }

    fn file_system(&self) -> &str {
        self.path.file_system.as_deref().unwrap_or("the device")
    }

    fn does(&self, class: Class, verdict: Verdict) -> bool {
        let report = self.path.class(class);
        report.is_some_and(|report| report.verdict == Some(verdict))
    }

    fn blocking(&self) -> Vec<&'a ClassReport> {
        let blocks = |report: &&ClassReport| report.verdict == Some(Verdict::Blocks);
        self.all.iter().copied().filter(blocks).collect()
    }

    fn knows_nowait(&self) -> bool {
        let answers = self.all.iter().filter_map(|report| report.nowait);
        answers.map(|answers| answers.unknown).sum::<u64>() == 0
    }

    fn advise(&self, list: &mut List) {
        if self.all.is_empty() {
            return;
        }
        let inline = |report: &&ClassReport| report.verdict == Some(Verdict::Inline);
        if self.all.iter().all(inline) {
            self.all_inline(list);
            return;
        }
        self.depth(list);
        self.preallocation(list);
        self.policy(list);
        if self.file_system() == "overlay" {
            list.add(
                About::FileSystem,
                "overlayfs hides what the file system below it can do, NOWAIT for one: put data on \
                 a volume.",
            );
        }
    }

    fn all_inline(&self, list: &mut List) {
        let requests = match self.path.only_reads.is_some() {
            true => "Reads",
            false => "Requests",
        };
        list.add(
            About::Depth,
            format!(
                "{requests} are done when io_submit returns, as from memory: more of them in flight \
                 gain nothing, a depth of 1 is as good as any."
            ),
        );
        let why = match self.knows_nowait() {
            true => "nothing waits here",
            false => "nothing waits, and NOWAIT, which the default policy tries, is not known here",
        };
        list.add(
            About::Policy,
            format!("Use SubmitPolicy::Inline: {why}, so that the blocking pool only costs."),
        );
    }

    /// From the time that a read spends where it keeps its thread.
    fn depth(&self, list: &mut List) {
        let Some(read) = self.path.class(Class::Read) else {
            return;
        };
        let (Some(share), Some(us)) = (read.share_inside, read.median_us) else {
            return;
        };
        let inside = percent_of(share);
        if read.verdict == Some(Verdict::Blocks) {
            list.add(
                About::Depth,
                format!(
                    "Reads wait inside io_submit ({inside} of their time), so a thread has one in \
                     flight at a time: SubmitPolicy::Offload has as many as there are \
                     blocking_threads."
                ),
            );
        } else if read.verdict == Some(Verdict::Async) {
            let depth = (1.0 / share.max(1.0 / 64.0)).ceil().max(2.0);
            list.add(
                About::Depth,
                format!(
                    "A read takes {us:.0} µs, {inside} of that in io_submit: one at a time makes {:.0} \
                     a second, and some {depth:.0} in flight keep one submitting thread busy.",
                    1e6 / us.max(1.0)
                ),
            );
        }
    }

    fn preallocation(&self, list: &mut List) {
        let extends = [Class::Extending, Class::Hole];
        let costly = extends.map(|class| (class, self.does(class, Verdict::Blocks)));
        let costly: Vec<_> = costly.into_iter().filter(|(_, blocks)| *blocks).collect();
        let Some(preallocated) = self.path.class(Class::Preallocated) else {
            return;
        };
        if preallocated.verdict == Some(Verdict::Blocks) {
            return; // would gain nothing
        }
        if !costly.is_empty() {
            let names = costly.iter().map(|(class, _)| phrase(*class));
            let shares = costly.iter().filter_map(|(class, _)| {
                let share = self.path.class(*class)?.share_inside?;
                Some(percent_of(share))
            });
            let (names, shares): (Vec<_>, Vec<_>) = (names.collect(), shares.collect());
            let shares: Vec<_> = shares.iter().map(String::as_str).collect();
            list.add(
                About::Preallocation,
                format!(
                    "Writes {} wait in io_submit ({} of their time), and those to preallocated \
                     blocks don't: allocate ahead with File::allocate(Allocate::Extend, …).",
                    listed(&names),
                    listed(&shares)
                ),
            );
            return;
        }
        let refused = extends.map(|class| self.path.class(class).is_some_and(is_refused));
        if refused[0] && !is_refused(preallocated) {
            list.add(
                About::Preallocation,
                "Writes that extend a file don't wait here, and NOWAIT is refused for them all the \
                 same: File::allocate(Allocate::Extend, …) ahead of them spares the attempts.",
            );
        }
    }

    fn policy(&self, list: &mut List) {
        let blocking = self.blocking();
        if blocking.is_empty() {
            match self.some_sleep() {
                None => self.nothing_waits(list),
                Some(some) => list.add(
                    About::Policy,
                    format!(
                        "Most requests don't wait in io_submit, but some sleep there ({some}): the \
                         default policy keeps these rare on a thread of the runtime, and where there \
                         may be none, SubmitPolicy::Offload does."
                    ),
                ),
            }
            return;
        }
        let writes = WRITES.map(|class| self.does(class, Verdict::Blocks));
        if writes.iter().all(|blocks| *blocks) {
            list.add(
                About::Policy,
                "Every write waits in io_submit: use SubmitPolicy::Offload for files that are mostly \
                 written; it is what the default, NoWaitFirst, comes to.",
            );
            if self.file_system() == "btrfs" {
                list.add(
                    About::FileSystem,
                    "On btrfs copy on write and checksums make writes wait: in a new directory with \
                     chattr +C, or with the mount option nodatacow, most of them don't.",
                );
            }
            return;
        }
        let names: Vec<_> = blocking.iter().map(|report| report.class.name()).collect();
        let longest = blocking.iter().filter_map(|report| report.median_us);
        let longest = longest.fold(0.0, f64::max);
        let names = listed(&names);
        let how = match self.knows_nowait() {
            true => "has it refused with NOWAIT",
            false => "learns of it by samples (NOWAIT is not known here)",
        };
        list.add(
            About::Policy,
            format!(
                "Leave what waits ({names}) to the default policy, SubmitPolicy::NoWaitFirst, which \
                 {how} and sends it from the blocking pool: with Inline each holds up a thread of the \
                 runtime, for some {longest:.0} µs."
            ),
        );
    }

    /// Which, and how many of them, where they are more than chance.
    fn some_sleep(&self) -> Option<String> {
        const CHANCE: f64 = 0.02;
        let share = |report: &ClassReport| report.share_slept.unwrap_or_default();
        let all = self.all.iter();
        let most = all.max_by(|a, b| share(a).total_cmp(&share(b)))?;
        let share = most.share_slept.filter(|share| *share >= CHANCE)?;
        Some(format!("{} {}", percent_of(share), most.class.name()))
    }

    fn nothing_waits(&self, list: &mut List) {
        if !self.knows_nowait() {
            list.add(
                About::Policy,
                "NOWAIT is not known here, and nothing that was measured waits in io_submit: \
                 SubmitPolicy::Inline spares the attempts and detours by which the default finds \
                 that out.",
            );
            return;
        }
        let refused = self.all.iter().filter(|report| is_refused(report));
        let refused: Vec<_> = refused.map(|report| report.class.name()).collect();
        let text = match &refused[..] {
            [] => "Nothing that was measured waits in io_submit, nor is refused with NOWAIT: \
                   the default policy costs no detours here, and SubmitPolicy::Inline takes a little \
                   less CPU."
                .to_owned(),
            names => format!(
                "Nothing that was measured waits in io_submit, though NOWAIT is refused ({}): the \
                 default policy finds out after some fifteen requests of a kind, \
                 SubmitPolicy::Inline has it so from the start.",
                listed(names)
            ),
        };
        list.add(About::Policy, text);
    }
}

/// How such writes are spoken of.
fn phrase(class: Class) -> &'static str {
    match class {
        Class::Extending => "that extend a file",
        other => other.name(),
    }
}

/// Whether most of it is refused with `NOWAIT`.
fn is_refused(report: &ClassReport) -> bool {
    let answers = report.nowait.unwrap_or_default();
    answers.would_wait * 2 > answers.all()
}
