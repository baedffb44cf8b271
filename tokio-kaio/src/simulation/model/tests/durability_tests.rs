//! What of a file survives a power cut.

use std::collections::BTreeSet;

use super::disk_fixture::{Disk, NOW, boot, small_sectors};
use crate::simulation::model::{AllocateKind, DiskConfig, RequestKind};

/// A file with a durable name and `sectors` durable sectors of zeroes.
fn file_of(config: DiskConfig, sectors: usize) -> (Disk, crate::simulation::model::Inode) {
    let mut disk = Disk::new(config);
    let file = disk.create("file");
    disk.sync_dir("");
    disk.write(file, 0, &vec![b'-'; sectors * 512]);
    disk.fsync(file);
    (disk, file)
}

/// The first byte of each sector of the file after each of many cuts.
fn outcomes(disk: &Disk) -> BTreeSet<String> {
    (0..2000)
        .map(|seed| {
            let data = disk.cut(seed).read("file").expect("its name is durable");
            for sector in data.chunks(512) {
                assert!(
                    sector.iter().all(|&byte| byte == sector[0]),
                    "a torn sector"
                );
            }
            let sectors = data.chunks(512);
            sectors
                .map(|sector| match sector[0] {
                    0 => '0',
                    byte => byte.into(),
                })
                .collect()
        })
        .collect()
}

fn set(outcomes: &[&str]) -> BTreeSet<String> {
    outcomes.iter().map(|&outcome| outcome.into()).collect()
}

#[test]
fn what_was_synced_survives() {
    let (mut disk, file) = file_of(small_sectors(), 3);
    disk.write(file, 512, &[b'a'; 1024]);
    assert_eq!(disk.run(file, RequestKind::Fdatasync), Ok(0));
    assert_eq!(outcomes(&disk), set(&["-aa"]));
}

#[test]
fn any_subset_of_the_sectors_of_a_write_survives() {
    let (mut disk, file) = file_of(small_sectors(), 3);
    disk.write(file, 0, &[b'a'; 1536]);
    let all = ["---", "--a", "-a-", "-aa", "a--", "a-a", "aa-", "aaa"];
    assert_eq!(outcomes(&disk), set(&all));
}

#[test]
fn any_subset_of_the_sectors_of_a_write_in_flight_survives() {
    let (mut disk, file) = file_of(small_sectors(), 2);
    disk.begin_write(file, 0, &[b'a'; 1024]);
    assert_eq!(outcomes(&disk), set(&["--", "-a", "a-", "aa"]));
    let config = DiskConfig {
        volatile_cache: false,
        ..small_sectors()
    };
    let (mut disk, file) = file_of(config, 2);
    disk.begin_write(file, 0, &[b'a'; 1024]);
    assert_eq!(outcomes(&disk), set(&["--", "-a", "a-", "aa"]));
}

#[test]
fn an_atomic_unit_survives_whole_or_not_at_all() {
    let config = DiskConfig {
        atomic_unit: 1024,
        ..small_sectors()
    };
    let (mut disk, file) = file_of(config, 4);
    disk.write(file, 512, &[b'a'; 1536]);
    assert_eq!(outcomes(&disk), set(&["----", "-a--", "--aa", "-aaa"]));
}

#[test]
fn each_version_of_a_sector_since_the_last_sync_may_survive() {
    let (mut disk, file) = file_of(small_sectors(), 1);
    for version in *b"abc" {
        disk.write(file, 0, &[version; 512]);
    }
    assert_eq!(outcomes(&disk), set(&["-", "a", "b", "c"]));
    disk.fsync(file);
    disk.write(file, 0, &[b'd'; 512]);
    assert_eq!(outcomes(&disk), set(&["c", "d"]));
}

#[test]
fn a_sync_makes_durable_what_was_complete_when_it_began() {
    let (mut disk, file) = file_of(small_sectors(), 2);
    disk.write(file, 0, &[b'a'; 512]);
    let sync = disk.begin(file, RequestKind::Fsync);
    disk.write(file, 512, &[b'b'; 512]);
    assert_eq!(outcomes(&disk), set(&["--", "-b", "a-", "ab"]));
    assert_eq!(disk.0.finish(NOW, sync, &mut |_, _| {}), Ok(0));
    assert_eq!(outcomes(&disk), set(&["a-", "ab"]));
}

#[test]
fn a_write_with_dsync_makes_its_own_data_durable() {
    let (mut disk, file) = file_of(small_sectors(), 3);
    disk.write(file, 0, &[b'a'; 1536]);
    disk.write_dsync(file, 512, &[b'b'; 512]);
    assert_eq!(outcomes(&disk), set(&["-b-", "-ba", "ab-", "aba"]));
}

#[test]
fn a_write_with_dsync_beyond_the_end_makes_the_length_durable() {
    let (mut disk, file) = file_of(small_sectors(), 1);
    disk.write(file, 512, &[b'a'; 512]);
    disk.write_dsync(file, 1024, &[b'b'; 512]);
    assert_eq!(outcomes(&disk), set(&["-0b", "-ab"]));
}

#[test]
fn a_write_with_dsync_after_a_truncation_makes_the_length_durable() {
    let (mut disk, file) = file_of(small_sectors(), 3);
    disk.0.set_len(NOW, file, 0).unwrap();
    disk.write_dsync(file, 0, &[b'a'; 512]);
    assert_eq!(outcomes(&disk), set(&["a"]));
}

#[test]
fn without_a_volatile_cache_complete_direct_writes_are_durable() {
    let config = DiskConfig {
        volatile_cache: false,
        ..small_sectors()
    };
    let (mut disk, file) = file_of(config, 2);
    disk.write_direct(file, 0, &[b'a'; 1024]);
    assert_eq!(outcomes(&disk), set(&["aa"]));
    // The length needs a sync.
    disk.write_direct(file, 1024, &[b'a'; 512]);
    assert_eq!(outcomes(&disk), set(&["aa", "aaa"]));
    // The page cache is volatile.
    disk.write(file, 0, &[b'b'; 512]);
    assert_eq!(outcomes(&disk), set(&["aa", "aaa", "ba", "baa"]));
}

#[test]
fn without_reordering_later_writes_survive_with_earlier_ones_only() {
    let config = DiskConfig {
        reorder: false,
        ..small_sectors()
    };
    let (mut disk, file) = file_of(config, 3);
    for (sector, version) in [b'a', b'b', b'c'].into_iter().enumerate() {
        disk.write(file, sector as u64 * 512, &[version; 512]);
    }
    assert_eq!(outcomes(&disk), set(&["---", "a--", "ab-", "abc"]));
}

#[test]
fn a_file_that_grows_has_its_old_length_its_new_one_or_one_in_between() {
    let (mut disk, file) = file_of(small_sectors(), 1);
    disk.write(file, 512, &[b'a'; 1024]);
    let lengths: BTreeSet<usize> = outcomes(&disk).iter().map(String::len).collect();
    assert_eq!(lengths, BTreeSet::from([1, 2, 3]));
    let outcomes = outcomes(&disk);
    assert!(outcomes.contains("-00"), "{outcomes:?}");
    assert!(outcomes.contains("-0a"), "{outcomes:?}");
}

#[test]
fn a_truncation_survives_with_the_length() {
    let (mut disk, file) = file_of(small_sectors(), 2);
    disk.0.set_len(NOW, file, 0).unwrap();
    assert_eq!(outcomes(&disk), set(&["", "--"]));
    disk.fsync(file);
    assert_eq!(outcomes(&disk), set(&[""]));
    disk.0.set_len(NOW, file, 1024).unwrap();
    disk.fsync(file);
    assert_eq!(outcomes(&disk), set(&["00"]), "the old data is gone");
}

#[test]
fn a_punched_hole_reads_as_zeroes_and_survives_like_a_write() {
    let (mut disk, file) = file_of(small_sectors(), 16);
    let allocated = disk.0.stat_inode(file).unwrap().allocated;
    assert_eq!(allocated, 8192);
    disk.0
        .allocate(NOW, file, AllocateKind::PunchHole, 0, 4096)
        .unwrap();
    assert_eq!(disk.0.stat_inode(file).unwrap().allocated, 4096);
    let read = disk.read("file").unwrap();
    assert_eq!(read[..4096], [0; 4096]);
    assert_eq!(read[4096..], [b'-'; 4096]);
    let outcomes = outcomes(&disk);
    assert!(outcomes.contains("----------------"));
    assert!(outcomes.contains("00000000--------"));
    assert!(outcomes.len() > 100, "any subset: {}", outcomes.len());
}

#[test]
fn a_booted_disk_goes_on_and_is_cut_again() {
    let (mut disk, file) = file_of(small_sectors(), 1);
    disk.write(file, 0, &[b'a'; 512]);
    disk.fsync(file);
    let image = disk.0.power_cut(NOW);
    assert_eq!(disk.0.stat("file"), Err(libc::EIO), "the power is off");
    assert_eq!(disk.run(file, RequestKind::Fsync), Err(libc::EIO));

    let mut disk = boot(&image);
    let file = disk.create("file");
    disk.write(file, 512, &[b'b'; 512]);
    assert_eq!(outcomes(&disk), set(&["a", "a0", "ab"]));
    disk.fsync(file);
    assert_eq!(outcomes(&disk), set(&["ab"]));
}

#[test]
fn the_same_seed_leaves_the_same_image() {
    let image = |seed| {
        let (mut disk, file) = file_of(small_sectors(), 8);
        disk.write(file, 0, &[b'a'; 8192]);
        disk.cut(seed).read("file")
    };
    for seed in 0..20 {
        assert_eq!(image(seed), image(seed));
    }
    let different: BTreeSet<_> = (0..20).map(image).collect();
    assert!(different.len() > 10);
}

#[test]
fn a_block_that_is_written_often_keeps_few_versions_and_loses_nothing_durable() {
    let (mut disk, file) = file_of(small_sectors(), 1);
    for version in 0..1000u32 {
        disk.write(file, 0, &[version as u8; 512]);
    }
    disk.fsync(file);
    disk.write(file, 0, &[b'z'; 512]);
    let last = 999u32 as u8 as char;
    assert_eq!(
        outcomes(&disk),
        BTreeSet::from([last.to_string(), "z".into()])
    );
}
