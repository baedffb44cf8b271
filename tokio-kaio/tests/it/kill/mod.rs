//! A process that writes is killed at random moments: nothing that it has acknowledged as durable is missing
//! or torn, and a file that it replaces has its old or its new content.
//!
//! `KAIO_KILLS` is the number of kills on each backend, 16 by default. The caches of the kernel survive a kill.
//! So this tests when the library acknowledges, and which memory it writes, not what reaches the disk.
#![allow(unsafe_code)]

mod log_records;
mod writer_process;

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_kaio::{AioContextBuilder, Backend};

use crate::common::{BACKENDS, HANG, current_thread, disk_dir};
use log_records::{Log, record, replay, whole_record};
use writer_process::{WriterSettings, content_of, write_until_killed};

/// Kills of processes that go on with the same logs. The next process begins with empty ones.
const KILLS_OF_A_LOG: usize = 8;

/// The most reports that are awaited before a kill.
const MAX_REPORTS: usize = 80;

fn kills() -> usize {
    let kills = std::env::var("KAIO_KILLS").ok();
    kills.map_or(16, |kills| kills.parse().expect("KAIO_KILLS is a number"))
}

/// The last record of each log that was acknowledged.
type Acknowledged = [u64; Log::ALL.len()];

/// A process that writes all logs.
struct WriterProcess {
    child: Child,
    reports: UnixStream,
}

impl WriterProcess {
    /// Starts the test of this name again, in a process that calls [`write_until_killed`].
    fn start(settings: &WriterSettings, test: &str) -> WriterProcess {
        let (reports, of_child) = UnixStream::pair().unwrap();
        reports.set_read_timeout(Some(HANG)).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args([
                &format!("kill::{test}"),
                "--exact",
                "--nocapture",
                "--test-threads=1",
            ])
            .envs(settings.as_env())
            .stdin(OwnedFd::from(of_child))
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        WriterProcess { child, reports }
    }

    /// The next report, if the process makes another one.
    fn next_report(&mut self) -> Option<(Log, u64)> {
        let mut report = [0; 9];
        match self.reports.read_exact(&mut report) {
            Ok(()) => {
                let number = u64::from_le_bytes(report[1..].try_into().unwrap());
                Some((Log::ALL[report[0] as usize], number))
            }
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => None,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => {
                let _ = self.child.kill();
                panic!("no report: {error}");
            }
        }
    }

    /// Kills the process when `is_enough` says so for a report or before the first one (`None`), and then
    /// `delay`. Adds what it has acknowledged. Returns the number of reports.
    fn kill(
        mut self,
        acknowledged: &mut Acknowledged,
        mut is_enough: impl FnMut(Option<Log>, &Acknowledged) -> bool,
        delay: Duration,
    ) -> usize {
        let mut reports = 0;
        let mut add = |(log, number): (Log, u64), acknowledged: &mut Acknowledged| {
            let last = &mut acknowledged[log as usize];
            *last = number.max(*last);
            reports += 1;
        };
        let mut enough = is_enough(None, acknowledged);
        while !enough {
            let Some(report) = self.next_report() else {
                break;
            };
            add(report, acknowledged);
            enough = is_enough(Some(report.0), acknowledged);
        }
        thread::sleep(delay);
        self.child.kill().unwrap();
        // What it has said before is acknowledged too.
        while let Some(report) = self.next_report() {
            add(report, acknowledged);
        }
        let output = self.child.wait_with_output().unwrap();
        assert_eq!(
            output.status.signal(),
            Some(libc::SIGKILL),
            "the process ended by itself: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        reports
    }
}

/// Checks that the files in `dir` have everything that was acknowledged.
fn find_loss(dir: &Path, acknowledged: &Acknowledged) -> Result<(), String> {
    for log in Log::ALL {
        let last = acknowledged[log as usize];
        let content = content_of(&dir.join(log.file_name()));
        let found = match log {
            // The next content may be there, but is not acknowledged.
            Log::Staged if content.is_empty() => 0,
            Log::Staged => whole_record(log, &content)
                .ok_or_else(|| format!("{log:?}: {} bytes are no whole content", content.len()))?,
            _ => replay(log, &content).last,
        };
        if found < last {
            return Err(format!(
                "{log:?}: {last} was acknowledged, but {found} is the last"
            ));
        }
    }
    Ok(())
}

/// Removes the temporary files of a killed process. Panics if there are other files.
fn remove_temporary_files(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with(".staged.kaio-") {
            fs::remove_file(dir.join(name)).unwrap();
        } else {
            assert!(Log::ALL.iter().any(|log| log.file_name() == name), "{name}");
        }
    }
}

/// The backends that are available here.
fn backends() -> Vec<Backend> {
    let mut backends = BACKENDS.to_vec();
    if cfg!(feature = "io-uring") && !backends.contains(&Backend::IoUring) && BACKENDS.len() > 1 {
        let builder = AioContextBuilder::new(16).backend(Backend::IoUring);
        match current_thread().block_on(async { builder.build() }) {
            Ok(_) => backends.push(Backend::IoUring),
            Err(error) => eprintln!("skipped on io_uring: {error}"),
        }
    }
    backends
}

fn nothing_is_lost_on(backend: Backend, test: &str) {
    let mut random = StdRng::seed_from_u64(backend as u64);
    let mut all_reports = 0;
    let mut kills_left = kills();
    while kills_left > 0 {
        let dir = disk_dir();
        let mut acknowledged = Acknowledged::default();
        for kill in 0..KILLS_OF_A_LOG.min(kills_left) {
            let settings = WriterSettings {
                dir: dir.path().to_owned(),
                backend,
                is_multi_threaded: random.random(),
                acknowledges_too_early: false,
            };
            let process = WriterProcess::start(&settings, test);
            let delay = Duration::from_micros(random.random_range(0..4000));
            let mut reports_left = random.random_range(0..MAX_REPORTS);
            let is_enough = |log: Option<Log>, acknowledged: &Acknowledged| match kill {
                // Once, every log has something to lose.
                0 => acknowledged.iter().all(|&last| last > 0),
                _ => {
                    reports_left -= usize::from(log.is_some());
                    reports_left == 0
                }
            };
            all_reports += process.kill(&mut acknowledged, is_enough, delay);
            if let Err(loss) = find_loss(dir.path(), &acknowledged) {
                panic!("{backend}, kill {kill} of {settings:?}: {loss}");
            }
            remove_temporary_files(dir.path());
        }
        kills_left = kills_left.saturating_sub(KILLS_OF_A_LOG);
    }
    println!(
        "{backend}: {} kills, {all_reports} acknowledged, 0 lost",
        kills()
    );
}

/// Runs on each backend. `test` is the test that calls this.
fn nothing_is_lost(test: &str) {
    match WriterSettings::from_env() {
        Some(settings) => write_until_killed(&settings),
        None => backends()
            .into_iter()
            .for_each(|backend| nothing_is_lost_on(backend, test)),
    }
}

#[test]
fn a_killed_process_has_lost_nothing_that_was_acknowledged() {
    nothing_is_lost("a_killed_process_has_lost_nothing_that_was_acknowledged");
}

/// The check of the test above fails if a record is acknowledged before it is written.
#[test]
fn a_record_that_is_acknowledged_too_early_is_found_missing() {
    if let Some(settings) = WriterSettings::from_env() {
        return write_until_killed(&settings);
    }
    let dir = disk_dir();
    let settings = WriterSettings {
        dir: dir.path().to_owned(),
        backend: BACKENDS[0],
        is_multi_threaded: false,
        acknowledges_too_early: true,
    };
    let test = "a_record_that_is_acknowledged_too_early_is_found_missing";
    let process = WriterProcess::start(&settings, test);
    let mut acknowledged = Acknowledged::default();
    process.kill(&mut acknowledged, |log, _| log.is_some(), Duration::ZERO);
    assert_eq!(acknowledged[Log::Direct as usize], 1);
    let loss = find_loss(dir.path(), &acknowledged).unwrap_err();
    assert_eq!(loss, "Direct: 1 was acknowledged, but 0 is the last");
}

/// The check finds records and contents that are torn, and none behind them.
#[test]
fn torn_records_are_found() {
    let log = Log::GroupCommit;
    let mut bytes: Vec<u8> = (1..=3).flat_map(|number| record(log, number)).collect();
    assert_eq!(
        (replay(log, &bytes).last, replay(log, &bytes).end),
        (3, bytes.len())
    );
    let first = record(log, 1).len();
    for at in [0, 5, 17, first - 1] {
        bytes[at] ^= 1;
        assert_eq!(replay(log, &bytes).last, 0);
        bytes[at] ^= 1;
    }
    bytes[first + 30] ^= 1;
    assert_eq!(replay(log, &bytes).last, 1);

    let content = record(Log::Staged, 9);
    assert_eq!(whole_record(Log::Staged, &content), Some(9));
    assert_eq!(
        whole_record(Log::Staged, &content[..content.len() - 1]),
        None
    );
}
