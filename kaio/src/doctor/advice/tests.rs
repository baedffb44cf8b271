//! What is advised of a path, by what was measured there.

use super::super::classes::{Answers, Class, Verdict};
use super::super::report::{About, ClassReport, PathReport};
use super::{listed, of_path};
use crate::alignment::{Aligned, Learnt};

const TAKEN: Answers = Answers {
    taken: 100,
    slept: 0,
    would_wait: 0,
    unknown: 0,
};

const REFUSED: Answers = Answers {
    taken: 0,
    would_wait: 100,
    ..TAKEN
};

const UNKNOWN: Answers = Answers {
    taken: 0,
    unknown: 100,
    ..TAKEN
};

const TRANSFERS: [Class; 5] = [
    Class::Read,
    Class::Overwrite,
    Class::Hole,
    Class::Preallocated,
    Class::Extending,
];

/// One where all requests do the same.
fn path(file_system: &str, verdict: Verdict, nowait: Answers) -> PathReport {
    let class = |class| ClassReport {
        class,
        verdict: Some(verdict),
        requests: 100,
        share_inside: Some(match verdict {
            Verdict::Async => 0.25,
            _ => 0.97,
        }),
        share_slept: Some(f64::from(u8::from(verdict == Verdict::Blocks))),
        median_us: Some(100.0),
        nowait: Some(nowait),
        error: None,
    };
    PathReport {
        usable: true,
        file_system: Some(file_system.into()),
        direct: Some(true),
        alignment: Some(Aligned {
            memory: 512,
            offset: 512,
            read_offset: 512,
            source: Learnt::Statx,
        }),
        classes: TRANSFERS.map(class).into(),
        ..PathReport::new(".".into())
    }
}

fn change(path: &mut PathReport, class: Class, by: impl Fn(&mut ClassReport)) {
    let report = path.classes.iter_mut().find(|one| one.class == class);
    by(report.unwrap());
}

fn blocks(report: &mut ClassReport) {
    report.verdict = Some(Verdict::Blocks);
    report.share_inside = Some(0.97);
    report.nowait = Some(REFUSED);
}

fn said(path: &PathReport, about: About) -> Option<String> {
    let advice = of_path(path);
    let one = advice.into_iter().find(|one| one.about == about)?;
    Some(one.text)
}

fn says(path: &PathReport, about: About, text: &str) {
    let said = said(path, about);
    let contains = said.as_ref().is_some_and(|said| said.contains(text));
    assert!(contains, "{text:?} of {about:?}: {said:?}");
}

#[test]
fn where_extending_waits_and_preallocated_blocks_do_not_files_are_to_be_allocated_ahead() {
    let mut ext4 = path("ext4", Verdict::Async, TAKEN);
    change(&mut ext4, Class::Extending, blocks);
    says(&ext4, About::Preallocation, "Allocate::Extend");
    says(
        &ext4,
        About::Preallocation,
        "extend a file wait in io_submit (97 %",
    );
    says(
        &ext4,
        About::Policy,
        "waits (extending) to the default policy",
    );

    change(&mut ext4, Class::Hole, blocks);
    says(&ext4, About::Preallocation, "extend a file and into a hole");

    // Where that would not help, it is not said.
    change(&mut ext4, Class::Preallocated, blocks);
    assert_eq!(said(&ext4, About::Preallocation), None);
}

#[test]
fn where_every_write_waits_all_are_to_go_from_the_pool() {
    let mut btrfs = path("btrfs", Verdict::Blocks, REFUSED);
    change(&mut btrfs, Class::Read, |read| {
        read.verdict = Some(Verdict::Async);
    });
    says(&btrfs, About::Policy, "SubmitPolicy::Offload");
    says(&btrfs, About::FileSystem, "chattr +C");
    btrfs.file_system = Some("other".into());
    assert_eq!(said(&btrfs, About::FileSystem), None);
}

#[test]
fn where_all_is_done_inline_depth_gains_nothing() {
    let tmpfs = path("tmpfs", Verdict::Inline, UNKNOWN);
    says(&tmpfs, About::Depth, "gain nothing");
    says(&tmpfs, About::Policy, "Use SubmitPolicy::Inline");
    assert_eq!(said(&tmpfs, About::Preallocation), None);
}

#[test]
fn depth_follows_from_the_share_of_a_read_that_keeps_its_thread() {
    let mut ext4 = path("ext4", Verdict::Async, TAKEN);
    says(
        &ext4,
        About::Depth,
        "one at a time makes 10000 a second, and some 4",
    );
    change(&mut ext4, Class::Read, blocks);
    says(&ext4, About::Depth, "Reads wait inside io_submit");
}

#[test]
fn refusals_of_what_does_not_wait_speak_for_inline() {
    let mut xfs = path("xfs", Verdict::Async, TAKEN);
    says(&xfs, About::Policy, "nor is refused with NOWAIT");
    for class in [Class::Hole, Class::Extending] {
        change(&mut xfs, class, |report| report.nowait = Some(REFUSED));
    }
    says(&xfs, About::Policy, "refused (into a hole and extending)");
    says(&xfs, About::Preallocation, "spares the attempts");
    let overlay = path("overlay", Verdict::Async, UNKNOWN);
    says(&overlay, About::Policy, "NOWAIT is not known here");
    says(&overlay, About::FileSystem, "on a volume");
}

#[test]
fn where_some_sleep_nobody_is_told_that_nothing_waits() {
    let mut path = path("btrfs", Verdict::Async, TAKEN);
    change(&mut path, Class::Extending, |report| {
        report.share_slept = Some(0.2);
    });
    says(&path, About::Policy, "some sleep there (20 % extending)");
}

#[test]
fn where_there_is_no_direct_io_that_is_all_that_is_said() {
    let mut ramfs = path("ramfs", Verdict::Inline, UNKNOWN);
    ramfs.direct = Some(false);
    ramfs.classes.clear();
    says(&ramfs, About::FileSystem, "aio_open_or_buffered");
    assert_eq!(of_path(&ramfs).len(), 1);
}

#[test]
fn an_alignment_that_surprises_is_told() {
    let mut path = path("other", Verdict::Async, TAKEN);
    assert_eq!(said(&path, About::Alignment), None);
    let alignment = path.alignment.as_mut().unwrap();
    alignment.offset = 16384;
    says(&path, About::Alignment, "16384 bytes is EINVAL");
    let alignment = path.alignment.as_mut().unwrap();
    alignment.source = Learnt::Assumed;
    says(&path, About::Alignment, "Nobody tells");
}

#[test]
fn names_are_listed_as_they_are_said() {
    assert_eq!(listed(&["a"]), "a");
    assert_eq!(listed(&["a", "b"]), "a and b");
    assert_eq!(listed(&["a", "b", "c"]), "a, b and c");
}
