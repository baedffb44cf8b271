//! Advice about a path.

use super::super::doctor_report::{About, Advice, ClassReport, PathReport};
use super::super::request_classes::{RequestClass, Verdict, percent_of};
use super::{List, join_names};
use crate::direct_io_probe::AlignmentOrigin;

const WRITES: [RequestClass; 4] = [
    RequestClass::Overwrite,
    RequestClass::Hole,
    RequestClass::Preallocated,
    RequestClass::Extending,
];

/// Returns the advice about a path.
pub(crate) fn path_advice(path: &PathReport) -> Vec<Advice> {
    let mut list = List::default();
    if path.direct == Some(false) {
        let file_system = path.file_system.as_deref().unwrap_or("the device");
        list.add(
            About::FileSystem,
            format!(
                "{file_system} does not support direct I/O here, and without it the kernel completes \
                 requests inside io_submit: use tokio::fs, open files with aio_open_or_buffered, or \
                 move them to ext4, XFS or btrfs."
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
    if alignment.source == AlignmentOrigin::Assumed {
        list.add(
            About::Alignment,
            "The kernel does not report the alignment that direct I/O requires here: start with \
             multiples of 4096 bytes, and handle EINVAL.",
        );
    } else if alignment.offset > 4096 {
        list.add(
            About::Alignment,
            format!(
                "Direct I/O requires multiples of {} bytes here, and returns EINVAL otherwise: use \
                 blocks of that size, or File::read_bytes_at and write_bytes_at.",
                alignment.offset
            ),
        );
    }
}

/// The measured classes of reads and writes.
struct Transfers<'a> {
    path: &'a PathReport,
    all: Vec<&'a ClassReport>,
}

impl<'a> Transfers<'a> {
    fn of(path: &'a PathReport) -> Transfers<'a> {
        let transfers = [RequestClass::Read].into_iter().chain(WRITES);
        Transfers {
            path,
            all: transfers.filter_map(|class| path.class(class)).collect(),
        }
    }

    fn file_system(&self) -> &str {
        self.path.file_system.as_deref().unwrap_or("the device")
    }

    fn does(&self, class: RequestClass, verdict: Verdict) -> bool {
        let report = self.path.class(class);
        report.is_some_and(|report| report.verdict == Some(verdict))
    }

    fn blocking(&self) -> Vec<&'a ClassReport> {
        let blocks = |report: &&ClassReport| report.verdict == Some(Verdict::Blocks);
        self.all.iter().copied().filter(blocks).collect()
    }

    fn supports_nowait(&self) -> bool {
        let results = self.all.iter().filter_map(|report| report.nowait);
        results.map(|results| results.unknown).sum::<u64>() == 0
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
                "overlayfs hides features of the file system below it, such as NOWAIT: put data on a \
                 volume.",
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
                "{requests} are complete when io_submit returns, as if from memory: a depth above 1 \
                 gains nothing."
            ),
        );
        let why = match self.supports_nowait() {
            true => "nothing blocks here",
            false => {
                "nothing blocks here, and NOWAIT, which the default policy tries, is not supported"
            }
        };
        list.add(
            About::Policy,
            format!("Use SubmitPolicy::Inline: {why}, so the blocking pool would only add cost."),
        );
    }

    /// Derives the depth from the share of a read that is spent in `io_submit`.
    fn depth(&self, list: &mut List) {
        let Some(read) = self.path.class(RequestClass::Read) else {
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
                    "Reads block in io_submit ({inside} of their time), so a thread has one in flight \
                     at a time: with SubmitPolicy::Offload, as many are in flight as there are \
                     blocking_threads."
                ),
            );
        } else if read.verdict == Some(Verdict::Async) {
            let depth = (1.0 / share.max(1.0 / 64.0)).ceil().max(2.0);
            list.add(
                About::Depth,
                format!(
                    "A read takes {us:.0} µs, {inside} of it in io_submit: depth 1 gives {:.0} reads per \
                     second, and about depth {depth:.0} keeps one submitting thread busy.",
                    1e6 / us.max(1.0)
                ),
            );
        }
    }

    fn preallocation(&self, list: &mut List) {
        let extends = [RequestClass::Extending, RequestClass::Hole];
        let costly = extends.map(|class| (class, self.does(class, Verdict::Blocks)));
        let costly: Vec<_> = costly.into_iter().filter(|(_, blocks)| *blocks).collect();
        let Some(preallocated) = self.path.class(RequestClass::Preallocated) else {
            return;
        };
        if preallocated.verdict == Some(Verdict::Blocks) {
            return; // preallocation would gain nothing
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
                    "Writes {} block in io_submit ({} of their time), but writes to preallocated \
                     blocks don't: preallocate with File::allocate(Allocate::Extend, …).",
                    join_names(&names),
                    join_names(&shares)
                ),
            );
            return;
        }
        let refused = extends.map(|class| self.path.class(class).is_some_and(is_refused));
        if refused[0] && !is_refused(preallocated) {
            list.add(
                About::Preallocation,
                "Writes that extend a file don't block here, but the kernel refuses them with NOWAIT: \
                 preallocation with File::allocate(Allocate::Extend, …) avoids the refused attempts.",
            );
        }
    }

    fn policy(&self, list: &mut List) {
        let blocking = self.blocking();
        if blocking.is_empty() {
            match self.most_frequent_sleep() {
                None => self.nothing_blocks(list),
                Some(some) => list.add(
                    About::Policy,
                    format!(
                        "Most requests don't block in io_submit, but some do ({some}): with the \
                         default policy they rarely block a thread of the runtime, and with \
                         SubmitPolicy::Offload never."
                    ),
                ),
            }
            return;
        }
        let writes = WRITES.map(|class| self.does(class, Verdict::Blocks));
        if writes.iter().all(|blocks| *blocks) {
            list.add(
                About::Policy,
                "Every write blocks in io_submit: use SubmitPolicy::Offload for files that are mostly \
                 written. The default, NoWaitFirst, ends up doing the same.",
            );
            if self.file_system() == "btrfs" {
                list.add(
                    About::FileSystem,
                    "On btrfs, copy-on-write and checksums make writes block. In a new directory with \
                     chattr +C, or with the mount option nodatacow, most writes don't.",
                );
            }
            return;
        }
        let names: Vec<_> = blocking.iter().map(|report| report.class.name()).collect();
        let longest = blocking.iter().filter_map(|report| report.median_us);
        let longest = longest.fold(0.0, f64::max);
        let names = join_names(&names);
        let how = match self.supports_nowait() {
            true => "finds out with NOWAIT",
            false => "finds out by sampling (NOWAIT is not supported here)",
        };
        list.add(
            About::Policy,
            format!(
                "Some requests block ({names}): use the default policy, SubmitPolicy::NoWaitFirst, \
                 which {how} and offloads them to the blocking pool. With Inline, each blocks a thread \
                 of the runtime for about {longest:.0} µs."
            ),
        );
    }

    /// The class that sleeps most often, and its share, unless that may be chance.
    fn most_frequent_sleep(&self) -> Option<String> {
        const NEGLIGIBLE: f64 = 0.02;
        let share = |report: &ClassReport| report.share_slept.unwrap_or_default();
        let all = self.all.iter();
        let most = all.max_by(|a, b| share(a).total_cmp(&share(b)))?;
        let share = most.share_slept.filter(|share| *share >= NEGLIGIBLE)?;
        Some(format!("{} {}", percent_of(share), most.class.name()))
    }

    fn nothing_blocks(&self, list: &mut List) {
        if !self.supports_nowait() {
            list.add(
                About::Policy,
                "NOWAIT is not supported here, and no measured request blocks in io_submit: \
                 SubmitPolicy::Inline avoids the attempts with which the default policy finds that \
                 out.",
            );
            return;
        }
        let refused = self.all.iter().filter(|report| is_refused(report));
        let refused: Vec<_> = refused.map(|report| report.class.name()).collect();
        let text = match &refused[..] {
            [] => "No measured request blocks in io_submit or is refused with NOWAIT: the default \
                   policy offloads nothing here, and SubmitPolicy::Inline uses slightly less CPU."
                .to_owned(),
            names => format!(
                "No measured request blocks in io_submit, although some are refused with NOWAIT \
                 ({}): the default policy learns that after about fifteen requests of a class, and \
                 SubmitPolicy::Inline avoids the refusals.",
                join_names(names)
            ),
        };
        list.add(About::Policy, text);
    }
}

/// The phrase for writes of a class.
fn phrase(class: RequestClass) -> &'static str {
    match class {
        RequestClass::Extending => "that extend a file",
        other => other.name(),
    }
}

/// Whether most requests of a class are refused with `NOWAIT`.
fn is_refused(report: &ClassReport) -> bool {
    let results = report.nowait.unwrap_or_default();
    results.would_wait * 2 > results.all()
}
