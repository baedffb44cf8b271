//! `register_executor`.

use std::sync::Arc;

use ballista_executor::executor_process::ExecutorProcessConfig;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::prelude::SessionConfig;
use kaio_ballista::register_executor;
use kaio_datafusion::KaioFiles;

use crate::files_on_disk::disk_dir;

fn runtime_of(config: &ExecutorProcessConfig) -> Arc<RuntimeEnv> {
    let producer = config.override_runtime_producer.as_ref().unwrap();
    producer(&SessionConfig::new()).unwrap()
}

fn store_of(runtime: &RuntimeEnv) -> String {
    let url = ObjectStoreUrl::parse("file://").unwrap();
    runtime.object_store(url).unwrap().to_string()
}

#[test]
fn each_runtime_of_an_executor_reads_local_files_through_the_store() {
    let mut config = ExecutorProcessConfig::default();
    let files = KaioFiles::new();
    register_executor(&mut config, &files);
    for _ in 0..2 {
        assert_eq!(store_of(&runtime_of(&config)), files.store().to_string());
    }
}

#[test]
fn default_runtimes_spill_to_the_work_directory() {
    let dir = disk_dir();
    let mut config = ExecutorProcessConfig {
        work_dir: Some(dir.path().to_str().unwrap().to_owned()),
        ..ExecutorProcessConfig::default()
    };
    register_executor(&mut config, &KaioFiles::new());
    let runtime = runtime_of(&config);
    let spilled = runtime.disk_manager.create_tmp_file("test").unwrap();
    let path = spilled.path().expect("a spill file has a path");
    assert!(path.starts_with(dir.path()), "{path:?}");
}

#[test]
fn an_own_runtime_producer_is_called_and_its_runtime_used() {
    let own = RuntimeEnvBuilder::new().build_arc().unwrap();
    let produced = Arc::clone(&own);
    let mut config = ExecutorProcessConfig {
        override_runtime_producer: Some(Arc::new(move |_| Ok(Arc::clone(&produced)))),
        ..ExecutorProcessConfig::default()
    };
    let before = store_of(&own);
    assert!(before.contains("LocalFileSystem"), "{before}");
    register_executor(&mut config, &KaioFiles::new());
    assert!(Arc::ptr_eq(&runtime_of(&config), &own));
    let after = store_of(&own);
    assert!(after.contains("KaioFileSystem"), "{after}");
}
