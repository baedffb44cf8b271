//! Programs on simulated disks whose power is cut: the log of the example `wal`, `StagedFile`, `FileWriter`,
//! the replacement of files as `kaio cp` does it, and a log-structured merge tree.

mod programs;
mod simulated_cuts;

use programs::{Job, Omit, Program};
use simulated_cuts::{SimulatedCuts, any_disk, journaled_disk};

/// Power cuts of a program that has to lose nothing.
const CUTS: u64 = 200;
/// Power cuts after which a broken program must have lost something.
const CUTS_OF_BROKEN: u64 = 2000;

fn cuts(program: Program, omit: Option<Omit>) -> SimulatedCuts {
    let job = Job {
        program,
        omit,
        seed: 1,
        operations: 60,
        kaio: None,
    };
    SimulatedCuts {
        job,
        seed: 1,
        disk: any_disk,
    }
}

fn loses_nothing(program: Program) {
    if let Err(loss) = cuts(program, None).run(CUTS).unwrap() {
        panic!("{program}: {loss}");
    }
}

/// What the program loses, without the numbers.
fn loses(program: Program, omit: Omit) -> String {
    match cuts(program, Some(omit)).run(CUTS_OF_BROKEN).unwrap() {
        Ok(()) => panic!("{program} with {omit} has lost nothing"),
        Err(loss) => loss.what,
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
        let loss = loses(program, Omit::Sync);
        println!("{program}: {loss}");
    }
}

#[test]
fn a_program_that_does_not_sync_directories_loses_files() {
    for program in Program::ALL {
        let loss = loses(program, Omit::DirSync);
        println!("{program}: {loss}");
    }
}

#[test]
fn a_program_without_checksums_takes_what_was_torn() {
    for program in Program::ALL {
        if Omit::Checksum.applies_to(program) {
            let loss = loses(program, Omit::Checksum);
            println!("{program}: {loss}");
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
        let cuts = SimulatedCuts {
            disk: journaled_disk,
            ..cuts(program, Some(omit))
        };
        match cuts.run(CUTS_OF_BROKEN).unwrap() {
            Ok(()) => panic!("{program} with {omit} has lost nothing"),
            Err(loss) => println!("{program}, {omit}: {}", loss.what),
        }
    }
}

#[test]
fn the_same_seed_and_cut_have_the_same_loss() {
    let cuts = cuts(Program::Log, Some(Omit::Sync));
    let Err(loss) = cuts.run(CUTS_OF_BROKEN).unwrap() else {
        panic!("the log has lost nothing without syncs");
    };
    let (_, again) = cuts.cut(loss.seed, loss.cut).unwrap();
    assert_eq!(again.unwrap().to_string(), loss.to_string());
}
