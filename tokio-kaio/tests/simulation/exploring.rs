//! [`Explorer`]: cuts the power after every event, and finds the earliest cut that loses something.

use std::cell::{Cell, RefCell};
use std::env;
use std::io;
use std::process::Command;
use std::time::Duration;

use tokio_kaio::simulation::{
    ExploreFailure, Explored, Explorer, Fault, Operations, SimDisk, explore,
};
use tokio_kaio::{
    AioContextBuilder, AioContextHandle, File, WriteFlags, create_dir, read_dir, rename, sync_dir,
    try_exists,
};

use crate::support::{BLOCK, open};

/// The blocks of a log that were acknowledged.
type Acknowledged = RefCell<Vec<u8>>;

/// Appends blocks to a log, with these steps left out.
struct Log {
    syncs_data: bool,
    syncs_dir: bool,
}

const COMPLETE: Log = Log {
    syncs_data: true,
    syncs_dir: true,
};

type AnyError = Box<dyn std::error::Error>;

impl Log {
    async fn append(&self, disk: SimDisk, acknowledged: &Acknowledged) -> Result<(), AnyError> {
        let (_context, handle) = AioContextBuilder::new(8).simulated(&disk).build()?;
        let log = File::create(disk.path().join("log"), false).await?;
        if self.syncs_dir {
            sync_dir(disk.path()).await?;
        }
        let flags = match self.syncs_data {
            true => WriteFlags::DSYNC,
            false => WriteFlags::empty(),
        };
        for block in 1..6 {
            let data = [block; 4096];
            let offset = u64::from(block - 1) * 4096;
            log.write_bytes_at(&handle, offset, &data, flags).await?;
            acknowledged.borrow_mut().push(block);
        }
        Ok(())
    }
}

async fn verify(disk: SimDisk, acknowledged: &Acknowledged) -> Result<(), AnyError> {
    let acknowledged = acknowledged.borrow().clone();
    if acknowledged.is_empty() {
        return Ok(());
    }
    let (_context, handle) = AioContextBuilder::new(8).simulated(&disk).build()?;
    let log = File::open(disk.path().join("log"), false).await?;
    for block in acknowledged {
        let mut data = vec![0; 4096];
        let offset = u64::from(block - 1) * 4096;
        log.read_bytes_at(&handle, offset, &mut data, Default::default())
            .await?;
        if data != [block; 4096] {
            return Err(format!("block {block} is lost").into());
        }
    }
    Ok(())
}

#[test]
fn a_log_that_syncs_all_it_needs_survives_every_cut() {
    let explored = explore(
        0..5,
        async |disk, of: &_| COMPLETE.append(disk, of).await,
        verify,
    );
    let explored = explored.unwrap();
    assert_eq!(explored.seeds(), 5);
    // Two opens are one event each; the sync and five writes are two each.
    assert_eq!(explored.events(), 5 * 14);
    assert_eq!(explored.cuts(), 5 * 15, "also before the first event");
    let text = explored.to_string();
    assert_eq!(text, "power cuts: 75, seeds: 5, failures: 0");
}

#[test]
fn a_log_that_omits_a_sync_loses_something() {
    let no_data_sync = Log {
        syncs_data: false,
        ..COMPLETE
    };
    let no_dir_sync = Log {
        syncs_dir: false,
        ..COMPLETE
    };
    for (log, text) in [(no_data_sync, "is lost"), (no_dir_sync, "log")] {
        let run = |explorer: Explorer| {
            let failure = explorer.run(async |disk, of: &_| log.append(disk, of).await, verify);
            failure.unwrap_err()
        };
        let failure = run(Explorer::new().seeds(0..100));
        let message = failure.message();
        assert!(message.starts_with("verify failed: "), "{message}");
        assert!(message.contains(text), "{message}");
        let [cut] = failure.cuts() else {
            panic!("{failure}");
        };
        let printed = failure.to_string();
        let replay = format!("KAIO_EXPLORE={}:{cut}", failure.seed());
        for part in [&replay, "open \"", "power cut\n"] {
            assert!(printed.contains(part), "{part} in {printed}");
        }

        // Random cuts are shrunk to the same one.
        let seed = failure.seed();
        let shrunk = run(Explorer::new().seeds([seed]).random_cuts(1000));
        assert_eq!(shrunk.cuts(), [*cut]);
        assert_eq!(shrunk.traces(), failure.traces());
        let again = run(Explorer::new().seeds([seed]).cut_after(*cut));
        assert_eq!(again.traces(), failure.traces());
        assert_eq!(
            format!("{:?}", again.image()),
            format!("{:?}", failure.image())
        );
    }
}

#[test]
fn a_replacement_is_old_or_new_after_every_cut() {
    let explored = explore(
        0..20,
        async |disk, acknowledged: &Cell<u32>| {
            let (_context, handle) = AioContextBuilder::new(8).simulated(&disk).build()?;
            let path = |name| disk.path().join(name);
            for (name, content) in [("file", b"old"), ("new", b"new")] {
                let file = File::create(path(name), false).await?;
                file.write_bytes_at(&handle, 0, content, WriteFlags::empty())
                    .await?;
                file.sync_all(&handle).await?;
                if name == "file" {
                    sync_dir(disk.path()).await?;
                    acknowledged.set(1);
                }
            }
            rename(path("new"), path("file")).await?;
            sync_dir(disk.path()).await?;
            acknowledged.set(2);
            Ok::<(), AnyError>(())
        },
        async |disk, acknowledged: &Cell<u32>| {
            if acknowledged.get() == 0 {
                return Ok::<(), AnyError>(());
            }
            let (_context, handle) = AioContextBuilder::new(8).simulated(&disk).build()?;
            let file = File::open(disk.path().join("file"), false).await?;
            let mut content = [0; 3];
            file.read_bytes_at(&handle, 0, &mut content, Default::default())
                .await?;
            match &content {
                b"new" => Ok(()),
                b"old" if acknowledged.get() == 1 => Ok(()),
                _ => Err(format!("{content:?}").into()),
            }
        },
    );
    explored.unwrap();
}

/// A verification that finds nothing.
async fn no_verify(_: SimDisk, _: &()) -> io::Result<()> {
    Ok(())
}

#[test]
fn errors_and_panics_of_the_workload_are_failures_while_the_power_is_on() {
    let explorer = Explorer::new().seeds([3]);
    let workload = async |disk: SimDisk, _: &()| {
        create_dir(disk.path().join("none/dir")).await // ENOENT
    };
    let failure = explorer.run(workload, no_verify).unwrap_err();
    assert!(failure.message().starts_with("the workload failed: "));
    assert_eq!((failure.seed(), failure.cuts()), (3, &[][..]));

    let workload = async |_: SimDisk, _: &()| -> io::Result<()> { panic!("a bug") };
    let failure = explorer.run(workload, no_verify).unwrap_err();
    assert_eq!(failure.message(), "the workload panicked: a bug");

    let verify = async |_: SimDisk, _: &()| -> io::Result<()> { panic!("a loss") };
    let workload = async |disk: SimDisk, _: &()| create_dir(disk.path().join("dir")).await;
    let failure = explorer.run(workload, verify).unwrap_err();
    assert_eq!(failure.message(), "verify panicked: a loss");
    assert_eq!(explorer.run(workload, no_verify).unwrap().cuts(), 2);
}

/// Prints a failure of the test `name`, and runs it again in a process of its own, which prints the same.
fn run_again(name: &str, failure: &ExploreFailure) {
    println!("{failure}");
    if env::var_os("KAIO_EXPLORE").is_some() {
        return; // this is the second run
    }
    let again = Command::new(env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env("KAIO_EXPLORE", failure.replay().unwrap())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&again.stdout);
    assert!(printed.contains(&failure.to_string()), "{printed}");
}

#[test]
fn a_failure_without_a_power_cut_says_so_and_can_be_run_again() {
    let workload = async |disk: SimDisk, _: &()| {
        create_dir(disk.path().join("dir")).await?;
        Err(io::Error::other("a wrong answer"))
    };
    let failure = explore([3], workload, no_verify).unwrap_err();
    assert!(failure.cuts().is_empty());
    run_again(
        "exploring::a_failure_without_a_power_cut_says_so_and_can_be_run_again",
        &failure,
    );
}

/// A log whose recovery truncates the file, and then writes the records that it has read again.
struct RewritingLog {
    /// Whether recovery writes a new file instead, which a rename puts in place of the old one.
    replaces: bool,
}

impl RewritingLog {
    /// Opens the log. Returns the number of its blocks.
    async fn recover(&self, disk: &SimDisk, handle: &AioContextHandle) -> Result<u64, AnyError> {
        let path = disk.path().join("log");
        if !try_exists(&path).await? {
            File::create(&path, false).await?;
            sync_dir(disk.path()).await?;
        }
        let log = open(disk, "log").await?;
        let blocks = log.metadata().await?.len() / BLOCK;
        let mut records = vec![0; (blocks * BLOCK) as usize];
        log.read_bytes_at(handle, 0, &mut records, Default::default())
            .await?;
        let (name, rewritten) = match self.replaces {
            true => ("new", open(disk, "new").await?),
            false => ("log", log),
        };
        rewritten.set_len(0).await?;
        rewritten
            .write_bytes_at(handle, 0, &records, WriteFlags::empty())
            .await?;
        rewritten.sync_all(handle).await?;
        if self.replaces {
            rename(disk.path().join(name), &path).await?;
            sync_dir(disk.path()).await?;
        }
        Ok(blocks)
    }

    /// Appends blocks until there are four. `acknowledged`: the number of durable blocks.
    async fn append(&self, disk: SimDisk, acknowledged: &Cell<u64>) -> Result<(), AnyError> {
        let (_context, handle) = AioContextBuilder::new(8).simulated(&disk).build()?;
        for block in self.recover(&disk, &handle).await?..4 {
            let log = open(&disk, "log").await?;
            log.write_bytes_at(
                &handle,
                block * BLOCK,
                &[7; BLOCK as usize],
                WriteFlags::DSYNC,
            )
            .await?;
            acknowledged.set(block + 1);
        }
        Ok(())
    }

    async fn verify(&self, disk: SimDisk, acknowledged: &Cell<u64>) -> Result<(), AnyError> {
        let (_context, handle) = AioContextBuilder::new(8).simulated(&disk).build()?;
        let (found, needed) = (self.recover(&disk, &handle).await?, acknowledged.get());
        match found >= needed {
            true => Ok(()),
            false => Err(format!("{found} blocks of {needed}").into()),
        }
    }

    fn explore(&self, explorer: Explorer) -> Result<Explored, ExploreFailure> {
        explorer.seeds(0..20).run(
            async |disk, acknowledged: &_| self.append(disk, acknowledged).await,
            async |disk, acknowledged: &_| self.verify(disk, acknowledged).await,
        )
    }
}

#[test]
fn a_recovery_that_is_not_atomic_fails_with_a_second_cut_only() {
    let log = RewritingLog { replaces: false };
    let failure = log.explore(Explorer::new().cuts_per_run(2)).unwrap_err();
    let (&[first, second], seed) = (failure.cuts(), failure.seed()) else {
        panic!("{failure}");
    };
    assert!(failure.message().contains("blocks of"), "{failure}");
    let text = failure.to_string();
    let cuts =
        format!("seed: {seed}, power cuts after event {first} and after event {second} of disk 2");
    assert!(text.contains(&cuts), "{text}");
    assert_eq!(failure.traces().len(), 2, "each disk has a trace");
    assert_eq!(
        failure.traces()[1].events(),
        second + 1,
        "it ends with the power cut"
    );
    run_again(
        "exploring::a_recovery_that_is_not_atomic_fails_with_a_second_cut_only",
        &failure,
    );

    // One cut finds nothing: the workload recovers an empty log.
    let explored = log.explore(Explorer::new()).unwrap();
    assert_eq!(explored.seeds(), 20);

    // Random cuts are shrunk to the earliest ones of the seed.
    let random = Explorer::new().cuts_per_run(2).random_cuts(200);
    let shrunk = log.explore(random).unwrap_err();
    assert_eq!(shrunk.seed(), seed);
    assert!(shrunk.cuts() <= &[first, second][..], "{shrunk}");
}

#[test]
fn a_recovery_that_is_atomic_survives_cuts_in_it() {
    let log = RewritingLog { replaces: true };
    let explored = log.explore(Explorer::new().cuts_per_run(3)).unwrap();
    assert_eq!(explored.cuts(), 3 * (explored.events() + 20));
}

#[test]
fn a_failure_of_one_cut_is_found_with_that_cut_alone() {
    let no_dir_sync = Log {
        syncs_dir: false,
        ..COMPLETE
    };
    let append =
        async |disk: SimDisk, of: &Acknowledged| match try_exists(disk.path().join("log")).await? {
            true => Ok(()),
            false => no_dir_sync.append(disk, of).await,
        };
    // The message has the path of the log.
    let explorer = Explorer::new().disk(SimDisk::builder().name("lost-with-one-cut"));
    let one = explorer.run(append, verify).unwrap_err().to_string();
    let several = explorer.cuts_per_run(4);
    let failure = several.run(append, verify).unwrap_err();
    assert_eq!(failure.to_string(), one);
    drop(failure); // has the name

    // A first cut that is given stays.
    let given = several.cut_after(0).run(append, verify).unwrap_err();
    assert_eq!(given.cuts()[0], 0, "{given}");
}

#[test]
fn a_workload_that_waits_for_ever_is_a_failure() {
    let disk = SimDisk::builder().faults(Fault::stuck(Operations::SYNC_DIR).into());
    let explorer = Explorer::new()
        .disk(disk)
        .time_limit(Duration::from_secs(3600));
    let workload = async |disk: SimDisk, _: &()| sync_dir(disk.path()).await;
    let failure = explorer.run(workload, no_verify).unwrap_err();
    let text = "the workload has not ended in 3600s of simulated time";
    assert_eq!(failure.message(), text);
}

#[test]
fn a_workload_that_is_not_deterministic_is_a_failure() {
    let runs = Cell::new(0);
    let workload = async |disk: SimDisk, _: &()| {
        runs.set(runs.get() + 1);
        create_dir(disk.path().join(format!("run-{}", runs.get()))).await
    };
    let failure = Explorer::new().run(workload, no_verify).unwrap_err();
    let text = failure.to_string();
    assert!(text.contains("different traces"), "{text}");
    assert!(text.contains("create_dir \"run-2\""), "{text}");
    assert!(failure.cuts().is_empty());
}

#[test]
fn tasks_of_the_workload_end_with_it() {
    let explored = explore(
        0..3,
        async |disk: SimDisk, _: &()| {
            let dir = disk.path().to_owned();
            let task = tokio::spawn(async move {
                for number in 0..5 {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    create_dir(dir.join(number.to_string())).await?;
                }
                Ok::<(), io::Error>(())
            });
            task.await.unwrap()
        },
        async |disk: SimDisk, _: &()| {
            assert!(read_dir(disk.path()).await?.len() <= 5);
            Ok::<(), io::Error>(())
        },
    );
    assert_eq!(explored.unwrap().cuts(), 3 * 6);
}

#[test]
#[should_panic(expected = "there are no seeds to explore")]
fn exploring_without_a_seed_panics() {
    let workload = async |_: SimDisk, _: &()| Ok::<(), String>(());
    let _ = explore(7..7, workload, no_verify);
}

#[test]
#[should_panic(expected = "at least one cut")]
fn exploring_with_no_random_cut_panics() {
    let workload = async |_: SimDisk, _: &()| Ok::<(), String>(());
    let _ = Explorer::new().random_cuts(0).run(workload, no_verify);
}

#[test]
#[should_panic(expected = "at least one cut for each run")]
fn exploring_with_no_cut_per_run_panics() {
    let workload = async |_: SimDisk, _: &()| Ok::<(), String>(());
    let _ = Explorer::new().cuts_per_run(0).run(workload, no_verify);
}

#[tokio::test]
#[should_panic(expected = "use #[test], not #[tokio::test]")]
async fn exploring_inside_of_a_runtime_panics() {
    let workload = async |_: SimDisk, _: &()| Ok::<(), String>(());
    let _ = explore(0..1, workload, no_verify);
}

#[test]
fn each_seed_may_have_a_disk_of_its_own() {
    let explorer = Explorer::new().seeds(3..7).disks(|seed| match seed {
        3 | 5 => SimDisk::builder().sector(512),
        _ => SimDisk::builder(),
    });
    let workload = async |disk: SimDisk, _: &()| {
        let sector = open(&disk, "file").await?.alignment_blocking()?.offset;
        assert_eq!(sector, if disk.seed() % 2 == 1 { 512 } else { 4096 });
        Ok::<(), io::Error>(())
    };
    assert_eq!(explorer.run(workload, no_verify).unwrap().seeds(), 4);
}
