//! [`BenchSession`]: a session of DataFusion over one of the stores.

use std::path::Path;

use datafusion::prelude::{SessionConfig, SessionContext};
use futures_util::StreamExt;
use kaio_datafusion::{KaioFiles, Prefetch};
use tokio::runtime::Runtime;

use crate::Result;
use crate::query_work::Work;
use crate::results::Store;
use crate::row_digest::RowDigest;
use crate::run_usage::{Usage, UsageAt};

/// A session, which is kept for all runs, with its tables.
pub(crate) struct BenchSession {
    pub(crate) store: Store,
    session: SessionContext,
}

/// A run of a work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) usage: Usage,
    pub(crate) rows: u64,
}

impl BenchSession {
    /// Opens a session over `store`: `files` without prefetching if the store is the one without, and
    /// LocalFileSystem if it is that.
    pub(crate) fn open(
        runtime: &Runtime,
        store: Store,
        files: &KaioFiles,
        data: &Path,
        partitions: usize,
    ) -> Result<BenchSession> {
        let config = SessionConfig::new().with_target_partitions(partitions);
        let session = SessionContext::new_with_config(config);
        match store {
            Store::Local => {}
            Store::Kaio => files.register(&session),
            Store::KaioWithoutPrefetch => files
                .clone()
                .with_prefetch(Prefetch::off())
                .register(&session),
        }
        runtime.block_on(kaio_tpch::register_tables(&session, data))?;
        Ok(BenchSession { store, session })
    }

    /// Plans and executes a work. The rows are counted and dropped as they come.
    pub(crate) fn run(&self, runtime: &Runtime, work: &Work) -> Result<Run> {
        let (session, sql) = (self.session.clone(), work.sql);
        let start = UsageAt::now()?;
        let task = runtime.spawn(async move {
            let mut batches = session.sql(sql).await?.execute_stream().await?;
            let mut rows = 0;
            while let Some(batch) = batches.next().await {
                rows += batch?.num_rows() as u64;
            }
            Ok::<_, datafusion::error::DataFusionError>(rows)
        });
        let rows = runtime.block_on(task)??;
        Ok(Run {
            usage: start.elapsed()?,
            rows,
        })
    }

    /// The digest of the answer.
    pub(crate) fn answer(&self, runtime: &Runtime, work: &Work) -> Result<RowDigest> {
        let (session, sql) = (self.session.clone(), work.sql);
        let task = runtime.spawn(async move {
            let mut batches = session.sql(sql).await?.execute_stream().await?;
            let mut digest = RowDigest::default();
            while let Some(batch) = batches.next().await {
                digest.add(&batch?)?;
            }
            Result::Ok(digest)
        });
        runtime.block_on(task)?
    }
}
