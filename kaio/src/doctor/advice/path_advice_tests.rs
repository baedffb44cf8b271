//! Tests of the advice about a path.

use super::super::doctor_report::{About, ClassReport, PathReport};
use super::super::request_classes::{NowaitResults, RequestClass, Verdict};
use super::{join_names, path_advice};
use crate::direct_io_probe::{AlignmentOrigin, DirectIoAlignment};

const TAKEN: NowaitResults = NowaitResults {
    taken: 100,
    slept: 0,
    would_wait: 0,
    unknown: 0,
};

const REFUSED: NowaitResults = NowaitResults {
    taken: 0,
    would_wait: 100,
    ..TAKEN
};

const UNKNOWN: NowaitResults = NowaitResults {
    taken: 0,
    unknown: 100,
    ..TAKEN
};

const TRANSFERS: [RequestClass; 5] = [
    RequestClass::Read,
    RequestClass::Overwrite,
    RequestClass::Hole,
    RequestClass::Preallocated,
    RequestClass::Extending,
];

/// A path on which all requests behave the same.
fn path(file_system: &str, verdict: Verdict, nowait: NowaitResults) -> PathReport {
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
        alignment: Some(DirectIoAlignment {
            memory: 512,
            offset: 512,
            read_offset: 512,
            source: AlignmentOrigin::Statx,
        }),
        classes: TRANSFERS.map(class).into(),
        ..PathReport::new(".".into())
    }
}

fn change(path: &mut PathReport, class: RequestClass, by: impl Fn(&mut ClassReport)) {
    let report = path.classes.iter_mut().find(|one| one.class == class);
    by(report.unwrap());
}

fn blocks(report: &mut ClassReport) {
    report.verdict = Some(Verdict::Blocks);
    report.share_inside = Some(0.97);
    report.nowait = Some(REFUSED);
}

fn advice_about(path: &PathReport, about: About) -> Option<String> {
    let advice = path_advice(path);
    let one = advice.into_iter().find(|one| one.about == about)?;
    Some(one.text)
}

fn assert_advice(path: &PathReport, about: About, text: &str) {
    let advice = advice_about(path, about);
    let contains = advice.as_ref().is_some_and(|advice| advice.contains(text));
    assert!(contains, "{text:?} of {about:?}: {advice:?}");
}

#[test]
fn preallocation_is_advised_if_only_writes_to_unallocated_blocks_block() {
    let mut ext4 = path("ext4", Verdict::Async, TAKEN);
    change(&mut ext4, RequestClass::Extending, blocks);
    assert_advice(&ext4, About::Preallocation, "Allocate::Extend");
    assert_advice(
        &ext4,
        About::Preallocation,
        "extend a file block in io_submit (97 %",
    );
    assert_advice(
        &ext4,
        About::Policy,
        "block (extending): use the default policy",
    );

    change(&mut ext4, RequestClass::Hole, blocks);
    assert_advice(&ext4, About::Preallocation, "extend a file and into a hole");

    // If preallocation would not help, it is not advised.
    change(&mut ext4, RequestClass::Preallocated, blocks);
    assert_eq!(advice_about(&ext4, About::Preallocation), None);
}

#[test]
fn offload_is_advised_if_every_write_blocks() {
    let mut btrfs = path("btrfs", Verdict::Blocks, REFUSED);
    change(&mut btrfs, RequestClass::Read, |read| {
        read.verdict = Some(Verdict::Async);
    });
    assert_advice(&btrfs, About::Policy, "SubmitPolicy::Offload");
    assert_advice(&btrfs, About::FileSystem, "chattr +C");
    btrfs.file_system = Some("other".into());
    assert_eq!(advice_about(&btrfs, About::FileSystem), None);
}

#[test]
fn depth_gains_nothing_if_everything_completes_inline() {
    let tmpfs = path("tmpfs", Verdict::Inline, UNKNOWN);
    assert_advice(&tmpfs, About::Depth, "gains nothing");
    assert_advice(&tmpfs, About::Policy, "Use SubmitPolicy::Inline");
    assert_eq!(advice_about(&tmpfs, About::Preallocation), None);
}

#[test]
fn the_depth_follows_from_the_share_of_a_read_in_io_submit() {
    let mut ext4 = path("ext4", Verdict::Async, TAKEN);
    assert_advice(
        &ext4,
        About::Depth,
        "depth 1 gives 10000 reads per second, and about depth 4",
    );
    change(&mut ext4, RequestClass::Read, blocks);
    assert_advice(&ext4, About::Depth, "Reads block in io_submit");
}

#[test]
fn refusals_of_requests_that_do_not_block_speak_for_inline() {
    let mut xfs = path("xfs", Verdict::Async, TAKEN);
    assert_advice(&xfs, About::Policy, "or is refused with NOWAIT");
    for class in [RequestClass::Hole, RequestClass::Extending] {
        change(&mut xfs, class, |report| report.nowait = Some(REFUSED));
    }
    assert_advice(
        &xfs,
        About::Policy,
        "refused with NOWAIT (into a hole and extending)",
    );
    assert_advice(&xfs, About::Preallocation, "avoids the refused attempts");
    let overlay = path("overlay", Verdict::Async, UNKNOWN);
    assert_advice(&overlay, About::Policy, "NOWAIT is not supported here");
    assert_advice(&overlay, About::FileSystem, "on a volume");
}

#[test]
fn requests_that_sometimes_sleep_are_mentioned() {
    let mut path = path("btrfs", Verdict::Async, TAKEN);
    change(&mut path, RequestClass::Extending, |report| {
        report.share_slept = Some(0.2);
    });
    assert_advice(&path, About::Policy, "some do (20 % extending)");
}

#[test]
fn without_direct_io_there_is_no_other_advice() {
    let mut ramfs = path("ramfs", Verdict::Inline, UNKNOWN);
    ramfs.direct = Some(false);
    ramfs.classes.clear();
    assert_advice(&ramfs, About::FileSystem, "aio_open_or_buffered");
    assert_eq!(path_advice(&ramfs).len(), 1);
}

#[test]
fn an_unusual_alignment_is_mentioned() {
    let mut path = path("other", Verdict::Async, TAKEN);
    assert_eq!(advice_about(&path, About::Alignment), None);
    let alignment = path.alignment.as_mut().unwrap();
    alignment.offset = 16384;
    assert_advice(&path, About::Alignment, "multiples of 16384 bytes");
    let alignment = path.alignment.as_mut().unwrap();
    alignment.source = AlignmentOrigin::Assumed;
    assert_advice(&path, About::Alignment, "does not report the alignment");
}

#[test]
fn names_are_joined_with_commas_and_and() {
    assert_eq!(join_names(&["a"]), "a");
    assert_eq!(join_names(&["a", "b"]), "a and b");
    assert_eq!(join_names(&["a", "b", "c"]), "a, b and c");
}
