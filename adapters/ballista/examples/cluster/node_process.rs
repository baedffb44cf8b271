//! [`NodeProcess`]: a node of the cluster, as its parent sees it.

use std::ffi::OsStr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::Result;
use crate::node_message::{Command, Event};

/// How long a node may take to start or to answer. It usually takes much less, but the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a node that was told to stop may finish its work, before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// A child process. Dropping it kills it.
pub(crate) struct NodeProcess {
    name: String,
    child: Child,
    commands: ChildStdin,
    events: mpsc::UnboundedReceiver<Event>,
}

impl NodeProcess {
    /// Starts this executable with other arguments.
    pub(crate) fn start(
        name: &str,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<NodeProcess> {
        let mut child = tokio::process::Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C on a terminal is for the parent, which ends its nodes.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{name} can't be started: {error}"))?;
        let commands = child.stdin.take().expect("it is piped");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let (sender, events) = mpsc::unbounded_channel();
        let node = name.to_owned();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                match serde_json::from_str(&line) {
                    Ok(event) => drop(sender.send(event)),
                    Err(_) => eprintln!("{node}: {line}"),
                }
            }
        });
        let (name, child) = (name.to_owned(), child);
        Ok(NodeProcess {
            name,
            child,
            commands,
            events,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    pub(crate) async fn send(&mut self, command: &Command) -> Result<()> {
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        match self.commands.write_all(&line).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.has_ended().await),
        }
    }

    /// Waits for an event. An error if the process has ended.
    pub(crate) async fn event(&mut self) -> Result<Event> {
        match self.events.recv().await {
            Some(event) => Ok(event),
            None => Err(self.has_ended().await),
        }
    }

    /// Waits for an event that `pick` takes, and ignores others. An error if it takes too long.
    pub(crate) async fn expect<T>(
        &mut self,
        what: &str,
        pick: impl Fn(Event) -> Option<T>,
    ) -> Result<T> {
        let picked = async {
            loop {
                if let Some(picked) = pick(self.event().await?) {
                    return Ok(picked);
                }
            }
        };
        let picked = timeout(PATIENCE, picked).await;
        picked
            .unwrap_or_else(|_| Err(format!("{}: no {what} within {PATIENCE:?}", self.name).into()))
    }

    async fn has_ended(&mut self) -> Box<dyn std::error::Error + Send + Sync> {
        match timeout(PATIENCE, self.child.wait()).await {
            Ok(Ok(status)) => format!("{} has ended: {status}", self.name).into(),
            _ => format!("{} closed its standard output, but does not end", self.name).into(),
        }
    }

    /// Kills the process with SIGKILL, and waits for its end.
    pub(crate) async fn kill(&mut self) -> Result<ExitStatus> {
        self.child.start_kill()?;
        Ok(self.child.wait().await?)
    }

    /// Asks the process to stop, kills it if it does not, and waits for its end.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let asked = self.send(&Command::Stop).await;
        let status = match timeout(STOP_PATIENCE, self.child.wait()).await {
            Ok(status) => status?,
            Err(_) => {
                let status = self.kill().await?;
                println!("{}: did not stop, killed ({status})", self.name);
                return Ok(());
            }
        };
        asked?;
        if !status.success() {
            return Err(format!("{} has failed: {status}", self.name).into());
        }
        println!("{}: stopped", self.name);
        Ok(())
    }
}
