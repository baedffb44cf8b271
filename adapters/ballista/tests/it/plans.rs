//! `PrefetchCodec`.

use std::path::Path;
use std::sync::Arc;

use ballista_core::execution_plans::ShuffleWriterExec;
use ballista_core::serde::BallistaPhysicalExtensionCodec;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::physical_plan::ParquetSource;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::prelude::SessionContext;
use datafusion_proto::physical_plan::{AsExecutionPlan, PhysicalExtensionCodec};
use datafusion_proto::protobuf::PhysicalPlanNode;
use kaio_ballista::PrefetchCodec;
use kaio_datafusion::KaioFiles;

use crate::files_on_disk::{disk_dir, write_tables};

/// The plan of a stage that scans two tables, as a scheduler makes it.
async fn stage(session: &SessionContext, dir: &Path) -> Arc<dyn ExecutionPlan> {
    kaio_tpch::register_tables(session, dir).await.unwrap();
    let joined = "SELECT o_orderkey, l_tax FROM orders JOIN lineitem ON o_orderkey = l_orderkey";
    let joined = session.sql(joined).await.unwrap();
    let plan = joined.create_physical_plan().await.unwrap();
    Arc::new(ShuffleWriterExec::try_new("job".into(), 1, plan, String::new()).unwrap())
}

fn encode(plan: &Arc<dyn ExecutionPlan>, codec: &dyn PhysicalExtensionCodec) -> PhysicalPlanNode {
    PhysicalPlanNode::try_from_physical_plan(Arc::clone(plan), codec).unwrap()
}

/// For each Parquet scan, whether its reader is the one that DataFusion chooses when it decodes a plan.
fn has_default_readers(plan: &Arc<dyn ExecutionPlan>) -> Vec<bool> {
    let mut default = Vec::new();
    plan.apply(|node| {
        if let Some(scan) = node.downcast_ref::<DataSourceExec>()
            && let Some((_, source)) = scan.downcast_to_file_source::<ParquetSource>()
        {
            let factory = source.parquet_file_reader_factory().unwrap();
            let factory = format!("{factory:?}");
            default.push(factory.starts_with("CachedParquetFileReaderFactory"));
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .unwrap();
    default
}

#[tokio::test]
async fn scans_of_a_decoded_plan_read_with_prefetch() {
    let dir = disk_dir();
    write_tables(dir.path());
    let session = SessionContext::new();
    let ballista = Arc::new(BallistaPhysicalExtensionCodec::default());
    let message = encode(&stage(&session, dir.path()).await, &*ballista);

    let decode = |codec: &dyn PhysicalExtensionCodec| {
        let context = session.task_ctx();
        message.try_into_physical_plan(&context, codec).unwrap()
    };
    let plain = decode(&*ballista);
    assert_eq!(has_default_readers(&plain), [true, true]);
    let codec = PrefetchCodec::over(Arc::clone(&ballista) as _, &KaioFiles::new());
    let prefetching = decode(&codec);
    assert_eq!(has_default_readers(&prefetching), [false, false]);
    // The rest of the plan is the same.
    let text = |plan: &Arc<dyn ExecutionPlan>| displayable(plan.as_ref()).indent(true).to_string();
    assert_eq!(text(&prefetching), text(&plain));
}

#[tokio::test]
async fn the_codec_encodes_as_the_one_that_it_wraps() {
    let dir = disk_dir();
    write_tables(dir.path());
    let session = SessionContext::new();
    let plan = stage(&session, dir.path()).await;
    let ballista = Arc::new(BallistaPhysicalExtensionCodec::default());
    let codec = PrefetchCodec::over(Arc::clone(&ballista) as _, &KaioFiles::new());
    assert_eq!(encode(&plan, &codec), encode(&plan, &*ballista));
}
