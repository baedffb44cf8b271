//! Faults: what they do, and when.

use std::time::Duration;

use super::disk_fixture::{CREATE, Disk, NOW, small_sectors, write};
use crate::simulation::model::{DiskConfig, Inode, Now, Request, RequestKind};
use crate::simulation::{Fault, FaultPlan, Operations};

/// A disk with this fault, and a file of 8 durable sectors.
fn faulty(fault: Fault) -> (Disk, Inode) {
    let mut disk = Disk::new(small_sectors());
    let file = disk.create("dir-file");
    disk.sync_dir("");
    disk.write(file, 0, &[b'-'; 4096]);
    disk.fsync(file);
    disk.0.add_fault(fault);
    (disk, file)
}

fn write_sectors(disk: &mut Disk, file: Inode, count: usize) -> Result<usize, i32> {
    disk.run(file, write(0, &[&vec![b'a'; count * 512]]))
}

/// The first byte of each sector.
fn sectors(data: &[u8]) -> String {
    data.chunks(512)
        .map(|sector| char::from(sector[0]))
        .collect()
}

#[test]
fn operations_fail_with_the_error_of_the_fault() {
    let (mut disk, file) = faulty(Fault::io_error(Operations::WRITE));
    assert_eq!(write_sectors(&mut disk, file, 1), Err(libc::EIO));
    assert_eq!(sectors(&disk.read_inode(file)), "--------");
    disk.0.clear_faults();
    assert_eq!(write_sectors(&mut disk, file, 1), Ok(512));

    disk.0.add_fault(Fault::no_space());
    assert_eq!(write_sectors(&mut disk, file, 1), Err(libc::ENOSPC));
    assert_eq!(disk.0.open(NOW, "new", CREATE), Err(libc::ENOSPC));
    disk.fsync(file);

    disk.0.clear_faults();
    disk.0
        .add_fault(Fault::error(Operations::SYNC, libc::EDQUOT));
    assert_eq!(disk.run(file, RequestKind::Fsync), Err(libc::EDQUOT));
}

#[test]
fn a_failed_sync_without_a_loss_can_be_repeated() {
    let (mut disk, file) = faulty(Fault::io_error(Operations::SYNC).nth(1));
    write_sectors(&mut disk, file, 1).unwrap();
    assert_eq!(disk.run(file, RequestKind::Fsync), Err(libc::EIO));
    disk.fsync(file);
    for seed in 0..50 {
        assert_eq!(sectors(&disk.cut(seed).read_inode(file)), "a-------");
    }
}

#[test]
fn a_failed_sync_loses_the_data_and_the_next_one_succeeds() {
    let (mut disk, file) = faulty(Fault::failed_sync().nth(1));
    write_sectors(&mut disk, file, 2).unwrap();
    assert_eq!(disk.run(file, RequestKind::Fsync), Err(libc::EIO));
    disk.fsync(file);
    assert_eq!(sectors(&disk.read_inode(file)), "aa------");
    disk.write(file, 512, &[b'b'; 512]);
    disk.fsync(file);
    for seed in 0..50 {
        assert_eq!(sectors(&disk.cut(seed).read_inode(file)), "-b------");
    }
}

#[test]
fn an_ignored_flush_makes_nothing_durable() {
    let (mut disk, file) = faulty(Fault::ignored_flush().at_most(2));
    disk.write_dsync(file, 0, &[b'a'; 512]);
    disk.fsync(file);
    let losses = |disk: &Disk| {
        let lost = (0..100).filter(|&seed| sectors(&disk.cut(seed).read_inode(file)) == "--------");
        lost.count()
    };
    assert!((10..90).contains(&losses(&disk)));
    disk.fsync(file);
    assert_eq!(losses(&disk), 0);
}

#[test]
fn short_transfers_have_whole_sectors() {
    let (mut disk, file) = faulty(Fault::short(Operations::READ | Operations::WRITE));
    for _ in 0..20 {
        let written = write_sectors(&mut disk, file, 4).unwrap();
        assert!([512, 1024, 1536].contains(&written), "{written}");
        let read = RequestKind::Read {
            offset: 0,
            len: 2048,
        };
        let read = disk.run(file, read).unwrap();
        assert!([512, 1024, 1536].contains(&read), "{read}");
    }
    assert_eq!(
        write_sectors(&mut disk, file, 1),
        Ok(512),
        "one sector is whole"
    );
}

#[test]
fn a_torn_write_fails_and_has_written_some_atomic_units() {
    let mut patterns = std::collections::BTreeSet::new();
    let (mut disk, file) = faulty(Fault::torn_write());
    for _ in 0..200 {
        assert_eq!(write_sectors(&mut disk, file, 3), Err(libc::EIO));
        patterns.insert(sectors(&disk.read_inode(file)));
        disk.0.clear_faults();
        disk.write(file, 0, &[b'-'; 2048]);
        disk.0.add_fault(Fault::torn_write());
    }
    assert_eq!(patterns.len(), 8, "{patterns:?}");
    assert!(patterns.contains("--a-----"), "the tail without the head");
}

#[test]
fn a_bit_flip_changes_one_bit() {
    let bits = |data: &[u8]| -> u32 { data.iter().map(|byte| (byte ^ b'-').count_ones()).sum() };
    let (mut disk, file) = faulty(Fault::bit_flip(Operations::READ));
    for _ in 0..20 {
        assert_eq!(bits(&disk.read_inode(file)), 1);
    }
    disk.0.clear_faults();
    assert_eq!(bits(&disk.read_inode(file)), 0, "the medium is as it was");
    disk.0.add_fault(Fault::bit_flip(Operations::WRITE));
    disk.write(file, 0, &[b'-'; 4096]);
    disk.0.clear_faults();
    disk.fsync(file);
    assert_eq!(bits(&disk.read_inode(file)), 1);
    assert_eq!(bits(&disk.cut(1).read_inode(file)), 1);
}

#[test]
fn a_lost_write_reports_success() {
    let (mut disk, file) = faulty(Fault::lost_write());
    assert_eq!(write_sectors(&mut disk, file, 2), Ok(1024));
    assert_eq!(sectors(&disk.read_inode(file)), "--------");
}

#[test]
fn a_misdirected_write_changes_another_block() {
    let (mut disk, file) = faulty(Fault::misdirected_write().file("dir-file"));
    let other = disk.create("other");
    disk.write(other, 0, &[b'.'; 8192]);
    disk.write(file, 0, &[b'a'; 512]);
    assert_eq!(sectors(&disk.read_inode(file)), "--------");
    let damaged = sectors(&disk.read_inode(other));
    assert_eq!(damaged.matches('a').count(), 1, "{damaged}");
}

#[test]
fn slow_and_stuck_requests_are_due_later_or_never() {
    let (mut disk, file) = faulty(Fault::slow(Operations::WRITE, Duration::from_secs(5)).nth(1));
    disk.0.add_fault(Fault::stuck(Operations::WRITE).nth(2));
    let data = [b'a'; 512];
    let data = [&data[..]];
    let mut begin = || {
        let request = Request {
            inode: file,
            direct: true,
            kind: write(0, &data),
        };
        disk.0.begin(Now(Duration::from_secs(1)), request)
    };
    assert_eq!(begin().due, Some(Duration::from_secs(6)));
    let stuck = begin();
    assert_eq!(stuck.due, None);
    assert_eq!(begin().due, Some(Duration::from_secs(1)));
    assert!(disk.0.cancel(NOW, stuck.id));
    assert!(!disk.0.cancel(NOW, stuck.id), "it is not in flight");
    assert_eq!(
        disk.0.finish(NOW, stuck.id, &mut |_, _| {}),
        Err(libc::EINVAL)
    );
}

#[test]
fn faults_are_limited_to_files_ranges_times_and_counts() {
    let mut disk = Disk::new(small_sectors());
    disk.0.create_dir(NOW, "dir").unwrap();
    let (inside, outside) = (disk.create("dir/a"), disk.create("dira"));
    let error = || Fault::io_error(Operations::WRITE);
    let writes = |disk: &mut Disk, file: Inode, times: usize| -> Vec<bool> {
        let failed = |_| write_sectors(disk, file, 1).is_err();
        (0..times).map(failed).collect()
    };
    disk.0.add_fault(error().file("/dir/"));
    assert_eq!(writes(&mut disk, inside, 1), [true]);
    assert_eq!(writes(&mut disk, outside, 1), [false]);
    disk.rename("dir/a", "b");
    assert_eq!(writes(&mut disk, inside, 1), [false], "it has another path");

    disk.0.clear_faults();
    disk.0.add_fault(error().nth(2));
    assert_eq!(writes(&mut disk, inside, 4), [false, true, false, false]);
    disk.0.clear_faults();
    disk.0.add_fault(error().at_most(2));
    assert_eq!(writes(&mut disk, inside, 4), [true, true, false, false]);
    disk.0.clear_faults();
    disk.0.add_fault(error().range(512..1024));
    assert_eq!(write_sectors(&mut disk, inside, 1), Ok(512));
    assert_eq!(write_sectors(&mut disk, inside, 2), Err(libc::EIO));
    disk.0.clear_faults();
    disk.0
        .add_fault(error().during(Duration::from_secs(1)..Duration::from_secs(2)));
    assert_eq!(writes(&mut disk, inside, 1), [false], "it is too early");
}

#[test]
fn faults_at_a_rate_follow_from_the_seed() {
    let failures = |seed, rate| -> Vec<bool> {
        let faults = FaultPlan::from(Fault::io_error(Operations::WRITE).rate(rate));
        let mut disk = Disk::new(DiskConfig {
            seed,
            faults,
            ..small_sectors()
        });
        let file = disk.create("file");
        let failed = |_| write_sectors(&mut disk, file, 1).is_err();
        (0..1000).map(failed).collect()
    };
    let count = |failures: &[bool]| failures.iter().filter(|&&failed| failed).count();
    assert_eq!(failures(1, 0.1), failures(1, 0.1));
    assert_ne!(failures(1, 0.1), failures(2, 0.1));
    assert!((50..200).contains(&count(&failures(1, 0.1))));
    assert_eq!(count(&failures(1, 0.0)), 0);
    assert_eq!(count(&failures(1, 1.0)), 1000);
}
