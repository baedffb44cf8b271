//! A Ballista cluster on this machine whose executors read local files with Linux kernel AIO.
//!
//! It starts its own executable as a scheduler and as executors, generates TPC-H data, runs queries on the
//! cluster, compares their answers with those of one process over `LocalFileSystem`, kills an executor in the
//! middle of a query, and ends all processes. Its exit code is 0 if everything that it checked held.
//!
//! ```sh
//! cargo run --release --example cluster
//! cargo run --release --example cluster -- --queries 1,6,12 --scale 0.1 --executors 3
//! ```
//!
//! Start from `executor_node.rs` for an executor of your own.

mod answer;
mod cluster_nodes;
mod cluster_options;
mod cluster_tables;
mod executor_loss;
mod executor_node;
mod held_tasks;
mod node_message;
mod node_process;
mod parent_pipe;
mod read_counters;
mod scheduler_node;

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ballista::prelude::{SessionConfigExt, SessionContextExt};
use clap::Parser;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use kaio_datafusion::KaioFiles;
use tokio::signal::unix::{SignalKind, signal};

use answer::Answer;
use cluster_nodes::{Cluster, VCORES};
use cluster_options::{ClusterOptions, Role};
use cluster_tables::TableData;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let options = ClusterOptions::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no tokio runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = match options.role {
        Some(Role::Scheduler(scheduler)) => runtime
            .block_on(scheduler_node::run(scheduler))
            .map(|()| ExitCode::SUCCESS),
        Some(Role::Executor(executor)) => runtime
            .block_on(executor_node::run(executor))
            .map(|()| ExitCode::SUCCESS),
        None => runtime.block_on(run(&options)),
    };
    // A node may have tasks on the blocking pool that nobody waits for.
    runtime.shutdown_background();
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

/// Runs everything between the start and the end of the cluster, and ends it also if something fails, or if
/// the process is interrupted.
async fn run(options: &ClusterOptions) -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let root = options.temp_dir()?;
    let mut cluster = Cluster::new();
    let done = tokio::select! {
        done = use_cluster(options, root.path(), &mut cluster) => Some(done),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    let ended = cluster.end().await;
    let removed = root.close();
    match done {
        None => {
            eprintln!("interrupted");
            Ok(ExitCode::from(130))
        }
        Some(done) => {
            done?;
            ended?;
            removed?;
            println!("all checks held");
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn use_cluster(
    options: &ClusterOptions,
    root: &std::path::Path,
    cluster: &mut Cluster,
) -> Result<()> {
    let data = TableData::generate(options, root).await?;
    println!("data: {data}");

    let kill = options.kills_executor();
    let mut numbers = options.queries.clone();
    if kill && !numbers.contains(&options.kill_query) {
        numbers.push(options.kill_query);
    }
    let local = SessionContext::new();
    data.register(&local).await?;
    let mut expected = BTreeMap::new();
    for &number in &numbers {
        let started = Instant::now();
        let answer = Answer::of(&local, number).await;
        let answer = answer.map_err(|error| format!("query {number} in one process: {error}"))?;
        expected.insert(number, (answer, started.elapsed()));
    }
    let cold = data.needs_direct_reads()?;

    cluster.start(options, root).await?;
    let session = session(cluster, options.executors).await?;
    if !options.local {
        // For the footers, as in the scheduler. Queries do not need it.
        KaioFiles::new().register_runtime(&session.runtime_env());
    }
    data.register(&session).await?;
    for &number in &options.queries {
        let (expected, alone) = &expected[&number];
        data.evict()?;
        let started = Instant::now();
        let answer = Answer::within(options.time_limit(), &session, number).await?;
        answer.check(number, expected)?;
        println!(
            "query {number:2}: equal, {} {}, {} (one process: {})",
            expected.rows(),
            if expected.rows() == 1 { "row" } else { "rows" },
            Seconds(started.elapsed()),
            Seconds(*alone),
        );
    }

    let counters = cluster.counters().await?;
    for (name, counters) in &counters {
        println!("{name}: {counters}");
    }
    if !options.local {
        read_counters::check(counters.iter().map(|(_, counters)| counters), cold)?;
    }

    if kill {
        let (answer, _) = &expected[&options.kill_query];
        executor_loss::survive(options, cluster, &session, answer).await?;
        let number = options.queries[0];
        let answer = Answer::within(options.time_limit(), &session, number).await?;
        answer.check(number, &expected[&number].0)?;
        println!("query {number:2} on the executors that are left: equal");
    }
    Ok(())
}

/// A session whose queries run on the cluster.
async fn session(cluster: &Cluster, executors: usize) -> Result<SessionContext> {
    let config = SessionConfig::new_with_ballista()
        .with_target_partitions(executors * VCORES)
        // The adaptive planner of Ballista 55.0 waits for ever if the output of a finished stage is lost.
        .with_ballista_adaptive_query_planner(false);
    let state = SessionStateBuilder::new()
        .with_config(config)
        .with_default_features()
        .build();
    let url = format!("df://127.0.0.1:{}", cluster.port());
    Ok(SessionContext::remote_with_state(&url, state).await?)
}

/// `0.25 s`.
struct Seconds(Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} s", self.0.as_secs_f64())
    }
}
