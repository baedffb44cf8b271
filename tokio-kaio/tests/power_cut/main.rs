//! Programs on simulated disks whose power is cut: the log of the example `wal`, `StagedFile`, `FileWriter`,
//! the replacement of files as `kaio cp` does it, and a log-structured merge tree.

mod programs;
mod simulated_cuts;

use programs::{Job, Omit, Program};
use simulated_cuts::{any_disk, cut_power, explorer, journaled_disk};
use tokio_kaio::simulation::{ExploreFailure, SimDiskBuilder};

/// Power cuts of a program that has to lose nothing.
const CUTS: u64 = 200;
/// Power cuts after which a broken program must have lost something.
const CUTS_OF_BROKEN: u64 = 2000;

fn job(program: Program, omit: Option<Omit>) -> Job {
    Job {
        program,
        omit,
        seed: 1,
        operations: 60,
        kaio: None,
    }
}

fn loses_nothing(program: Program) {
    let explored = cut_power(&job(program, None), &explorer(1, CUTS, any_disk));
    match explored {
        Ok(explored) => assert_eq!(explored.cuts(), CUTS),
        Err(loss) => panic!("{program}: {loss}"),
    }
}

/// What the program loses.
fn loss(program: Program, omit: Omit, disks: fn(u64) -> SimDiskBuilder) -> ExploreFailure {
    match cut_power(
        &job(program, Some(omit)),
        &explorer(1, CUTS_OF_BROKEN, disks),
    ) {
        Ok(_) => panic!("{program} with {omit} has lost nothing"),
        Err(loss) => loss,
    }
}

#[test]
fn a_log_with_group_commit_loses_nothing() {
    loses_nothing(Program::Log);
}

#[test]
fn staged_files_are_the_old_or_the_new_file() {
    loses_nothing(Program::Objects);
}

#[test]
fn a_file_writer_loses_nothing_that_was_synced() {
    loses_nothing(Program::Stream);
}

#[test]
fn a_copy_replaces_a_file_with_a_whole_one() {
    loses_nothing(Program::Copy);
}

#[test]
fn a_merge_tree_loses_no_batch() {
    loses_nothing(Program::Lsm);
}

#[test]
fn a_program_that_does_not_sync_loses_data() {
    for program in Program::ALL {
        let loss = loss(program, Omit::Sync, any_disk);
        println!("{program}: {}", loss.message());
    }
}

#[test]
fn a_program_that_does_not_sync_directories_loses_files() {
    for program in Program::ALL {
        let loss = loss(program, Omit::DirSync, any_disk);
        println!("{program}: {}", loss.message());
    }
}

#[test]
fn a_program_without_checksums_takes_what_was_torn() {
    for program in Program::ALL {
        if Omit::Checksum.applies_to(program) {
            let loss = loss(program, Omit::Checksum, any_disk);
            println!("{program}: {}", loss.message());
        }
    }
}

/// Each of these was lost by ext4 or XFS under `tests/power-cuts.sh`.
#[test]
fn a_journaled_disk_without_a_cache_loses_what_ext4_and_xfs_lose() {
    let lost = [
        (Program::Log, Omit::Sync),
        (Program::Log, Omit::DirSync),
        (Program::Objects, Omit::Sync),
        (Program::Objects, Omit::DirSync),
        (Program::Stream, Omit::Sync),
        (Program::Copy, Omit::DirSync),
        (Program::Lsm, Omit::Sync),
        (Program::Lsm, Omit::DirSync),
    ];
    for (program, omit) in lost {
        let loss = loss(program, omit, journaled_disk);
        println!("{program}, {omit}: {}", loss.message());
    }
}

#[test]
fn the_same_seed_and_cuts_have_the_same_loss() {
    fn disk(seed: u64) -> SimDiskBuilder {
        any_disk(seed).name("same-loss")
    }
    let first = loss(Program::Log, Omit::Sync, disk).to_string();
    let again = loss(Program::Log, Omit::Sync, disk).to_string();
    assert_eq!(again, first);
}
