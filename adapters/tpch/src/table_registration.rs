//! [`register_tables`]: a data set as tables of a session.

use std::path::Path;

use datafusion::common::exec_datafusion_err;
use datafusion::error::Result;
use datafusion::prelude::{ParquetReadOptions, SessionContext};

use crate::TABLES;

/// Registers the tables of a data set that [`write_parquet`](crate::write_parquet) wrote to `dir`.
///
/// It reads the metadata of the files, with the object store that the session has for `file://`.
///
/// # Errors
///
/// If the files can't be read, or `dir` is not UTF-8.
///
/// # Cancel safety
///
/// If the future is dropped, some tables are registered.
pub async fn register_tables(session: &SessionContext, dir: &Path) -> Result<()> {
    for table in TABLES {
        let files = dir.join(table).join(""); // ends in a slash
        let files = files
            .to_str()
            .ok_or_else(|| exec_datafusion_err!("{} is not UTF-8", files.display()))?;
        session
            .register_parquet(table, files, ParquetReadOptions::default())
            .await?;
    }
    Ok(())
}
