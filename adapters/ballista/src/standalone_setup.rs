//! [`register_standalone`].

use std::sync::Arc;

use ballista_core::extension::SessionConfigExt;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::SessionConfig;
use kaio_datafusion::KaioFiles;

use crate::PrefetchCodec;

/// Makes the session of a cluster in one process read and write `file://` through `files`, and read Parquet
/// with prefetch.
///
/// The state that is built is for `SessionContext::standalone_with_state`, whose scheduler and executor share
/// its runtime. A physical codec that its configuration has is wrapped.
///
/// ```
/// use ballista::prelude::{SessionConfigExt, SessionContextExt};
/// use datafusion::execution::SessionStateBuilder;
/// use datafusion::prelude::{SessionConfig, SessionContext};
/// use kaio_ballista::register_standalone;
/// use kaio_datafusion::KaioFiles;
///
/// # #[tokio::main]
/// # async fn main() -> datafusion::error::Result<()> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("table.parquet");
/// # let path = path.to_str().unwrap();
/// # let copy = format!("COPY (VALUES (1), (2)) TO '{path}' STORED AS PARQUET");
/// # SessionContext::new().sql(&copy).await?.collect().await?;
/// let files = KaioFiles::new();
/// let state = SessionStateBuilder::new()
///     .with_config(SessionConfig::new_with_ballista())
///     .with_default_features();
/// let state = register_standalone(state, &files).build();
/// let ctx = SessionContext::standalone_with_state(state).await?;
/// ctx.register_parquet("t", path, Default::default()).await?;
/// let rows = ctx.sql("SELECT * FROM t").await?.collect().await?;
/// # assert_eq!(rows.iter().map(|batch| batch.num_rows()).sum::<usize>(), 2);
/// println!("{}", files.metrics());
/// # Ok(())
/// # }
/// ```
pub fn register_standalone(state: SessionStateBuilder, files: &KaioFiles) -> SessionStateBuilder {
    let mut state = files.session_state(state);
    let config = state.config().take();
    let config = config.unwrap_or_else(SessionConfig::new_with_ballista);
    let codec = PrefetchCodec::over(config.ballista_physical_extension_codec(), files);
    state.with_config(config.with_ballista_physical_extension_codec(Arc::new(codec)))
}
