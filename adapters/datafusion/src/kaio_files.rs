//! [`KaioFiles`]: local files for DataFusion.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use kaio_object_store::v0_13::KaioFileSystem;

use crate::kaio_files_metrics::KaioFilesMetrics;
use crate::prefetch::Prefetch;
use crate::prefetch_rule::PrefetchRule;
use crate::prefetcher::Prefetcher;
use crate::session_store::SessionStore;

/// Lets DataFusion read and write local files with Linux kernel AIO.
///
/// It serves the URLs `file://` by a [`KaioFileSystem`], and fetches row groups of Parquet files ahead. Clones
/// are cheap, and share the store, the memory for prefetches and the counters. It can be used in several
/// sessions and runtimes, and kept in a `static`.
///
/// ```
/// use datafusion::prelude::*;
/// use kaio_datafusion::KaioFiles;
///
/// # #[tokio::main]
/// # async fn main() -> datafusion::error::Result<()> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("numbers.parquet");
/// # let path = path.to_str().unwrap();
/// let context = SessionContext::new();
/// let files = KaioFiles::new();
/// files.register(&context);
///
/// # let numbers = context.sql("select * from generate_series(1, 1000) t(n)").await?;
/// # numbers.write_parquet(path, Default::default(), None).await?;
/// let numbers = context.read_parquet(path, ParquetReadOptions::default()).await?;
/// assert_eq!(numbers.count().await?, 1000);
/// println!("{}", files.metrics());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct KaioFiles {
    store: Arc<KaioFileSystem>,
    prefetcher: Arc<Prefetcher>,
}

impl KaioFiles {
    /// Makes a store with its default settings, and prefetching with its default settings.
    pub fn new() -> KaioFiles {
        KaioFiles::with_store(Arc::new(KaioFileSystem::new()))
    }

    /// Uses `store`, whose paths must begin at the root directory, as those of URLs do.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use kaio_datafusion::KaioFiles;
    /// use kaio_object_store::v0_13::KaioFileSystem;
    ///
    /// // Files that DataFusion writes are durable when a query ends.
    /// let store = KaioFileSystem::new().with_fsync(true);
    /// let files = KaioFiles::with_store(Arc::new(store));
    /// # assert_eq!(files.metrics().store.direct.count, 0);
    /// ```
    pub fn with_store(store: Arc<KaioFileSystem>) -> KaioFiles {
        KaioFiles {
            store,
            prefetcher: Arc::new(Prefetcher::new(Prefetch::default())),
        }
    }

    /// Sets how far row groups are fetched ahead. Sessions and plans that were registered or changed before
    /// keep their settings.
    #[must_use = "this returns the changed settings"]
    pub fn with_prefetch(mut self, prefetch: Prefetch) -> KaioFiles {
        self.prefetcher = Arc::new(Prefetcher::new(prefetch));
        self
    }

    /// Makes a session read and write `file://` through the store, and fetch row groups of Parquet files
    /// ahead.
    ///
    /// Tables that were registered before are read so, too; results that are being read, and [`DataFrame`]s
    /// that were made before, may not fetch ahead. A second call replaces the first one. A
    /// [`ParquetFileReaderFactory`] of your own stays in place, and then nothing is fetched ahead.
    ///
    /// Prepared statements of the session are lost: register first, prepare afterwards.
    ///
    /// The sessions that share the [`RuntimeEnv`] of this one read through the store, too.
    ///
    /// [`DataFrame`]: datafusion::dataframe::DataFrame
    /// [`ParquetFileReaderFactory`]: datafusion::datasource::physical_plan::ParquetFileReaderFactory
    pub fn register(&self, context: &SessionContext) {
        let state = context.state_ref();
        let mut state = state.write();
        let creates_catalog = state.config().create_default_catalog_and_schema();
        let builder = SessionStateBuilder::new_from_existing(state.clone())
            .with_session_id(state.session_id().to_owned());
        let mut registered = self.session_state(builder).build();
        // The builder switches it off, because there is a catalog already.
        let catalog = &mut registered.config_mut().options_mut().catalog;
        catalog.create_default_catalog_and_schema = creates_catalog;
        *state = registered;
    }

    /// Makes a runtime serve `file://` through the store. Nothing is fetched ahead, unless the plans are
    /// changed by [`with_prefetch_in`](KaioFiles::with_prefetch_in).
    ///
    /// This is for programs without a session, such as executors of Ballista.
    pub fn register_runtime(&self, runtime: &RuntimeEnv) {
        let url = ObjectStoreUrl::local_filesystem();
        let store = Arc::new(SessionStore::new(&self.store));
        runtime.register_object_store(url.as_ref(), store);
    }

    /// Does the same as [`register`](KaioFiles::register) for a session that is built. Its runtime, or a new
    /// one, gets the store.
    ///
    /// ```
    /// use datafusion::execution::SessionStateBuilder;
    /// use datafusion::prelude::SessionContext;
    /// use kaio_datafusion::KaioFiles;
    ///
    /// let builder = SessionStateBuilder::new_with_default_features();
    /// let state = KaioFiles::new().session_state(builder).build();
    /// let context = SessionContext::new_with_state(state);
    /// # assert_eq!(context.state().physical_optimizers().last().unwrap().name(), "kaio_prefetch");
    /// ```
    pub fn session_state(&self, mut builder: SessionStateBuilder) -> SessionStateBuilder {
        let runtime = builder.runtime_env().get_or_insert_default();
        self.register_runtime(runtime);
        let optimizer = builder.physical_optimizers();
        let rules = optimizer.get_or_insert_with(PhysicalOptimizer::new);
        let is_prefetch = |rule: &Arc<dyn PhysicalOptimizerRule + Send + Sync>| {
            let rule: &dyn Any = rule.as_ref();
            rule.is::<PrefetchRule>()
        };
        rules.rules.retain(|rule| !is_prefetch(rule));
        if let Some(added) = builder.physical_optimizer_rules() {
            added.retain(|rule| !is_prefetch(rule));
        }
        if self.prefetcher.settings().is_off() {
            return builder;
        }
        builder.with_physical_optimizer_rule(Arc::new(self.rule()))
    }

    /// Makes the scans of local Parquet files in `plan` fetch row groups ahead. Sessions that are
    /// [registered](KaioFiles::register) do so with each plan; this is for plans that were made elsewhere,
    /// such as those that an executor of Ballista receives.
    ///
    /// Scans with a reader factory of the user's own, or of another `KaioFiles`, are left as they are.
    ///
    /// # Errors
    ///
    /// A node of the plan does not accept its changed inputs.
    pub fn with_prefetch_in(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        self.rule().rewrite(plan, true)
    }

    /// Returns the store.
    pub fn store(&self) -> &Arc<KaioFileSystem> {
        &self.store
    }

    /// Returns how files were read and written so far, by all clones.
    pub fn metrics(&self) -> KaioFilesMetrics {
        KaioFilesMetrics {
            store: self.store.metrics(),
            prefetch: self.prefetcher.metrics(),
        }
    }

    fn rule(&self) -> PrefetchRule {
        PrefetchRule::new(&self.store, &self.prefetcher)
    }
}

impl Default for KaioFiles {
    fn default() -> KaioFiles {
        KaioFiles::new()
    }
}

impl fmt::Debug for KaioFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KaioFiles")
            .field("store", &self.store)
            .field("prefetch", self.prefetcher.settings())
            .finish_non_exhaustive()
    }
}
