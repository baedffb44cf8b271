//! A node's end of the pipes to the process that started it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::node_message::{Command, Event};

/// Receives the commands of the parent. If the pipe ends before [`Command::Stop`], the parent has gone: this
/// removes `orphaned`, and ends the process.
pub(crate) fn commands(orphaned: Option<PathBuf>) -> mpsc::UnboundedReceiver<Command> {
    let (sender, receiver) = mpsc::unbounded_channel();
    // A thread of its own, so that the process ends also if its runtime is stuck.
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            let command = match serde_json::from_str(&line) {
                Ok(command) => command,
                Err(error) => {
                    eprintln!("not a command: {line:?}: {error}");
                    continue;
                }
            };
            let stop = matches!(command, Command::Stop);
            if sender.send(command).is_err() || stop {
                return;
            }
        }
        if let Some(dir) = orphaned {
            remove(&dir);
        }
        process::exit(1);
    });
    receiver
}

/// Removes a directory in which other processes that end now may still create files: waits for them first, for a
/// minute at most.
fn remove(dir: &Path) {
    for _ in 0..600 {
        if !is_used(dir) {
            let _ = fs::remove_dir_all(dir);
            if !dir.exists() {
                return;
            }
        }
        thread::sleep(Duration::from_millis(100));
    }
    // Executors have ended by now. The path may be in the arguments of any other process.
    let _ = fs::remove_dir_all(dir);
}

/// Whether another process has `dir` in its arguments, as each executor has its work directory.
fn is_used(dir: &Path) -> bool {
    let dir = dir.as_os_str().as_encoded_bytes();
    let Ok(entries) = fs::read_dir("/proc") else {
        return false;
    };
    let mut others = entries.flatten().filter(|entry| {
        let id = entry.file_name().to_str().and_then(|id| id.parse().ok());
        id.is_some_and(|id: u32| id != process::id())
    });
    others.any(|other| {
        let arguments = fs::read(other.path().join("cmdline")).unwrap_or_default();
        arguments.windows(dir.len()).any(|part| part == dir)
    })
}

/// Sends an event to the parent. If it has gone, [`commands`] ends the process.
pub(crate) fn report(event: &Event) {
    let mut line = serde_json::to_vec(event).expect("an event has no keys other than strings");
    line.push(b'\n');
    let mut out = io::stdout().lock();
    let _ = out.write_all(&line).and_then(|()| out.flush());
}
