//! [`register_executor`].

use std::sync::Arc;

use ballista_core::RuntimeProducer;
use ballista_core::serde::BallistaPhysicalExtensionCodec;
use ballista_executor::executor_process::ExecutorProcessConfig;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use kaio_datafusion::KaioFiles;

use crate::PrefetchCodec;

/// Makes an executor read and write `file://` through `files`, and read Parquet with prefetch.
///
/// It sets `override_runtime_producer` and `override_physical_codec`. Where the configuration has its own
/// already, these are wrapped: their runtimes and plans are changed, and nothing else. So set them, and
/// `work_dir`, before this call.
///
/// All sessions and tasks of the executor share `files`: its buffers, its descriptors and its counters. Keep
/// a clone for [`KaioFiles::metrics`].
///
/// ```
/// use ballista_executor::executor_process::ExecutorProcessConfig;
/// use kaio_ballista::register_executor;
/// use kaio_datafusion::KaioFiles;
///
/// let mut config = ExecutorProcessConfig::default();
/// register_executor(&mut config, &KaioFiles::new());
/// assert!(config.override_runtime_producer.is_some());
/// ```
pub fn register_executor(config: &mut ExecutorProcessConfig, files: &KaioFiles) {
    let runtimes = config
        .override_runtime_producer
        .take()
        .unwrap_or_else(|| default_runtimes(config.work_dir.clone()));
    let store = files.clone();
    config.override_runtime_producer = Some(Arc::new(move |session| {
        let runtime = runtimes(session)?;
        store.register_runtime(&runtime);
        Ok(runtime)
    }));

    let codec = config
        .override_physical_codec
        .take()
        .unwrap_or_else(|| Arc::new(BallistaPhysicalExtensionCodec::default()));
    config.override_physical_codec = Some(Arc::new(PrefetchCodec::over(codec, files)));
}

/// The runtimes that an executor makes by default: they spill to its work directory.
fn default_runtimes(work_dir: Option<String>) -> RuntimeProducer {
    Arc::new(move |_| {
        let mut runtime = RuntimeEnvBuilder::new();
        if let Some(dir) = &work_dir {
            runtime = runtime.with_temp_file_path(dir);
        }
        runtime.build_arc()
    })
}
