//! The scheduler, a process of its own.

use std::sync::Arc;

use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::utils::default_session_builder;
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::{create_scheduler, start_grpc_service_with_listener};
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use kaio_datafusion::KaioFiles;
use tokio::net::TcpListener;

use crate::Result;
use crate::cluster_options::SchedulerOptions;
use crate::node_message::{Command, Event};
use crate::parent_pipe::{commands, report};

/// Seconds without a poll after which an executor is given up. Executors poll every 50 ms, and every 5 s at
/// least.
const EXECUTOR_TIMEOUT: u64 = 15;

pub(crate) async fn run(options: SchedulerOptions) -> Result<()> {
    let mut commands = commands(Some(options.root));
    // The system chooses the port.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let mut config = SchedulerConfig {
        external_host: "127.0.0.1".to_owned(),
        bind_port: port,
        // Executors ask for tasks: they need no second port, and only they know whether they are alive.
        scheduling_policy: TaskSchedulingPolicy::PullStaged,
        executor_timeout_seconds: EXECUTOR_TIMEOUT,
        expire_dead_executor_interval_seconds: 1,
        no_executors_grace_period_seconds: EXECUTOR_TIMEOUT,
        ..SchedulerConfig::default()
    };
    // The scheduler reads footers. It needs no store for that, but through the page cache the kernel may read
    // whole small files ahead.
    if !options.local {
        let files = KaioFiles::new();
        config.override_session_builder = Some(Arc::new(move |session| {
            let state = default_session_builder(session)?;
            files.register_runtime(state.runtime_env());
            Ok(state)
        }));
    }
    let config = Arc::new(config);
    let cluster = BallistaCluster::new_from_config(&config).await?;
    let scheduler = create_scheduler::<LogicalPlanNode, PhysicalPlanNode>(cluster, config).await?;
    report(&Event::Listening { port });
    let served = start_grpc_service_with_listener(listener, scheduler);
    let stopped = async {
        while let Some(command) = commands.recv().await {
            if let Command::Stop = command {
                return;
            }
        }
    };
    tokio::select! {
        served = served => Ok(served?),
        () = stopped => Ok(()),
    }
}
