//! TPC-H for tests and benchmarks with DataFusion: data as Parquet files, and the 22 queries.
//!
//! TPC-H is a benchmark of decision support with eight tables about orders of parts. Its *scale* is the
//! size of the data: 1 has six million lines of orders, which are about 250 MB as Parquet. Data is the same
//! each time it is generated. See [tpc.org](https://www.tpc.org/tpch/). Figures of these queries are no TPC
//! results: they lack its refresh functions, its rules and its audit.
//!
//! # Example
//!
//! ```
//! use datafusion::prelude::SessionContext;
//! use kaio_tpch::ParquetOptions;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> datafusion::error::Result<()> {
//! let dir = tempfile::tempdir()?;
//! kaio_tpch::write_parquet(dir.path(), 0.001, ParquetOptions::default())?;
//!
//! let session = SessionContext::new();
//! kaio_tpch::register_tables(&session, dir.path()).await?;
//! let (number, text) = kaio_tpch::queries()[5];
//! assert_eq!(number, 6);
//! let batches = session.sql(text).await?.collect().await?;
//! assert_eq!(batches[0].num_rows(), 1);
//! # Ok(())
//! # }
//! ```

mod parquet_files;
mod parquet_options;
mod query_texts;
mod table_data;
mod table_registration;

pub use parquet_files::{data_set, write_parquet};
pub use parquet_options::{Codec, ParquetOptions};
pub use query_texts::queries;
pub use table_registration::register_tables;

/// Names of the tables.
pub const TABLES: [&str; 8] = [
    "nation", "region", "part", "supplier", "partsupp", "customer", "orders", "lineitem",
];
