//! An executor, a process of its own, that reads `file://` through [`KaioFiles`].

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::error::BallistaError;
use ballista_core::utils::create_grpc_server;
use ballista_executor::ArrowFlightServerProvider;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_executor::flight_service::BallistaFlightService;
use kaio_ballista::register_executor;
use kaio_datafusion::KaioFiles;
use tokio::net::TcpListener;
use tokio::time::interval;
use tonic::transport::server::TcpIncoming;

use crate::Result;
use crate::cluster_nodes::VCORES;
use crate::cluster_options::ExecutorOptions;
use crate::held_tasks::{Hold, HoldingEngine};
use crate::node_message::{Command, Event};
use crate::parent_pipe::{commands, report};
use crate::read_counters::ReadCounters;

/// How large a message with shuffled rows may be. As Ballista's default.
const MAX_MESSAGE: usize = 16 << 20;

pub(crate) async fn run(options: ExecutorOptions) -> Result<()> {
    let mut commands = commands(None);
    let hold = Arc::new(Hold::default());
    // The system chooses the port.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let mut config = ExecutorProcessConfig {
        executor_id: options.name,
        external_host: Some("127.0.0.1".to_owned()),
        port,
        // Where tasks are pulled, nothing listens on this port.
        grpc_port: port,
        scheduler_host: "127.0.0.1".to_owned(),
        scheduler_port: options.scheduler_port,
        scheduler_connect_timeout_seconds: 60,
        vcores: VCORES,
        task_scheduling_policy: TaskSchedulingPolicy::PullStaged,
        work_dir: Some(options.work_dir.display().to_string()),
        override_arrow_flight_service: Some(flight_service(listener)),
        override_execution_engine: Some(Arc::new(HoldingEngine::new(Arc::clone(&hold)))),
        ..ExecutorProcessConfig::default()
    };
    // These two lines are all that the executors of a cluster need.
    let files = KaioFiles::new();
    if !options.local {
        register_executor(&mut config, &files);
    }

    let health = config.health.clone();
    let executor = start_executor_process(Arc::new(config));
    tokio::pin!(executor);
    let mut ready = false;
    let mut looks = interval(Duration::from_millis(50));
    loop {
        tokio::select! {
            ended = &mut executor => {
                ended?;
                break;
            }
            _ = looks.tick(), if !ready => {
                ready = health.is_ready();
                if ready {
                    report(&Event::Ready);
                }
            }
            command = commands.recv() => match command {
                Some(Command::Count) => report(&Event::Counters(ReadCounters::new(&files, &hold))),
                Some(Command::Hold) => hold.arm(),
                Some(Command::Release) => hold.disarm(),
                // The scheduler is not told: it ends next.
                Some(Command::Stop) | None => break,
            },
        }
    }
    report(&Event::Counters(ReadCounters::new(&files, &hold)));
    Ok(())
}

/// Ballista's own service for shuffled rows, on a port that is bound already.
fn flight_service(listener: TcpListener) -> Arc<ArrowFlightServerProvider> {
    let listener = Mutex::new(Some(listener));
    Arc::new(move |work_dir, _address, mut shutdown, grpc| {
        let listener = listener.lock().unwrap().take();
        tokio::spawn(async move {
            let listener = listener.ok_or_else(|| {
                BallistaError::Internal("the service was started twice".to_owned())
            })?;
            let service = FlightServiceServer::new(BallistaFlightService::new(work_dir))
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE);
            create_grpc_server(&grpc)
                .add_service(service)
                .serve_with_incoming_shutdown(TcpIncoming::from(listener), shutdown.recv())
                .await
                .map_err(BallistaError::TonicError)
        })
    })
}
