//! [`Cluster`]: the processes.

use std::ffi::OsString;
use std::path::Path;

use crate::Result;
use crate::cluster_options::ClusterOptions;
use crate::node_message::{Command, Event};
use crate::node_process::NodeProcess;
use crate::read_counters::ReadCounters;

/// Tasks that an executor runs at a time.
pub(crate) const VCORES: usize = 2;

/// A scheduler and executors. They end with [`end`](Cluster::end). If the cluster is dropped, they are killed.
pub(crate) struct Cluster {
    scheduler: Option<NodeProcess>,
    port: u16,
    executors: Vec<NodeProcess>,
}

impl Cluster {
    /// A cluster without processes.
    pub(crate) fn new() -> Cluster {
        Cluster {
            scheduler: None,
            port: 0,
            executors: Vec::new(),
        }
    }

    /// Starts the processes, and waits until the scheduler knows all executors. Their work directories are in
    /// `root`.
    pub(crate) async fn start(&mut self, options: &ClusterOptions, root: &Path) -> Result<()> {
        let mut args: Vec<OsString> = vec!["scheduler".into(), "--root".into(), root.into()];
        if options.local {
            args.push("--local".into());
        }
        let scheduler = self
            .scheduler
            .insert(NodeProcess::start("scheduler", args)?);
        self.port = scheduler
            .expect("port", |event| match event {
                Event::Listening { port } => Some(port),
                _ => None,
            })
            .await?;
        println!(
            "scheduler: process {}, port {}",
            scheduler.process_id(),
            self.port
        );

        for number in 1..=options.executors {
            let name = format!("executor-{number}");
            let work_dir = root.join(&name);
            std::fs::create_dir(&work_dir)?;
            let mut args: Vec<OsString> = vec![
                "executor".into(),
                "--name".into(),
                name.clone().into(),
                "--scheduler-port".into(),
                self.port.to_string().into(),
                "--work-dir".into(),
                work_dir.into(),
            ];
            if options.local {
                args.push("--local".into());
            }
            self.executors.push(NodeProcess::start(&name, args)?);
        }
        for executor in &mut self.executors {
            executor
                .expect("registration", |event| {
                    matches!(event, Event::Ready).then_some(())
                })
                .await?;
            println!(
                "{}: process {}, ready",
                executor.name(),
                executor.process_id()
            );
        }
        Ok(())
    }

    /// The port of the scheduler.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What each executor has read, with its name.
    pub(crate) async fn counters(&mut self) -> Result<Vec<(String, ReadCounters)>> {
        let mut counters = Vec::new();
        for executor in &mut self.executors {
            executor.send(&Command::Count).await?;
            let counted = executor.expect("counters", |event| match event {
                Event::Counters(counters) => Some(counters),
                _ => None,
            });
            let counted = counted.await?;
            counters.push((executor.name().to_owned(), counted));
        }
        Ok(counters)
    }

    /// The first executor.
    pub(crate) fn first_executor(&mut self) -> &mut NodeProcess {
        &mut self.executors[0]
    }

    /// Forgets the first executor, which has ended.
    pub(crate) fn remove_first_executor(&mut self) {
        self.executors.remove(0);
    }

    /// Ends all processes, the scheduler last. Returns the first error.
    pub(crate) async fn end(self) -> Result<()> {
        let mut result = Ok(());
        for node in self.executors.into_iter().chain(self.scheduler) {
            result = result.and(node.stop().await);
        }
        result
    }
}
