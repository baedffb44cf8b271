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

/// Removes a directory in which other processes that end now may still create files.
fn remove(dir: &Path) {
    let mut absent = 0;
    for _ in 0..100 {
        let _ = fs::remove_dir_all(dir);
        absent = if dir.exists() { 0 } else { absent + 1 };
        if absent == 5 {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Sends an event to the parent. If it has gone, [`commands`] ends the process.
pub(crate) fn report(event: &Event) {
    let mut line = serde_json::to_vec(event).expect("an event has no keys other than strings");
    line.push(b'\n');
    let mut out = io::stdout().lock();
    let _ = out.write_all(&line).and_then(|()| out.flush());
}
