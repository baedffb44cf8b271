//! Sessions over both stores, and files with known content.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, Date32Array, Decimal128Array, Int32Array, Int64Array, ListBuilder, RecordBatch,
    StringArray, StringBuilder, StructArray,
};
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::error::Result;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::file::properties::{EnabledStatistics, WriterProperties};
use datafusion::prelude::{SessionConfig, SessionContext};
use kaio_datafusion::KaioFiles;
use tempfile::TempDir;

/// A directory on the disk of the build.
pub(crate) fn disk_dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The path as SQL has it.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A session over `LocalFileSystem`, and one over `KaioFiles`.
pub(crate) struct Sessions {
    pub(crate) local: SessionContext,
    pub(crate) kaio: SessionContext,
    pub(crate) files: KaioFiles,
}

impl Sessions {
    pub(crate) fn new(config: SessionConfig) -> Sessions {
        Sessions::with(config, KaioFiles::new())
    }

    pub(crate) fn with(config: SessionConfig, files: KaioFiles) -> Sessions {
        let config = config.with_information_schema(true);
        let local = SessionContext::new_with_config(config.clone()).enable_url_table();
        let kaio = SessionContext::new_with_config(config).enable_url_table();
        files.register(&kaio);
        Sessions { local, kaio, files }
    }

    /// Runs a statement whose rows do not matter in both sessions.
    pub(crate) async fn run(&self, sql: &str) {
        for session in [&self.local, &self.kaio] {
            let done = rows(session, sql).await;
            done.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    }

    /// Runs a query in both sessions, and asserts that the answers are equal. Returns the rows.
    pub(crate) async fn same(&self, sql: &str) -> Vec<String> {
        let local = rows(&self.local, sql).await;
        let kaio = rows(&self.kaio, sql).await;
        match (local, kaio) {
            (Ok(local), Ok(kaio)) => {
                assert_eq!(kaio, local, "{sql}");
                kaio
            }
            (local, kaio) => panic!("{sql}:\nlocal: {local:?}\nkaio: {kaio:?}"),
        }
    }
}

/// Waits until no prefetch has memory: the runtime drops tasks that were aborted when it polls them.
pub(crate) async fn without_prefetches(files: &KaioFiles) {
    while files.metrics().prefetch.memory > 0 {
        tokio::task::yield_now().await;
    }
}

/// The rows of the answer, as text. Sorted, unless the query orders them.
pub(crate) async fn rows(session: &SessionContext, sql: &str) -> Result<Vec<String>> {
    let batches = session.sql(sql).await?.collect().await?;
    let table = pretty_format_batches(&batches)?.to_string();
    let mut rows: Vec<_> = table.lines().map(str::to_owned).collect();
    if !sql.to_lowercase().contains("order by") {
        rows.sort();
    }
    Ok(rows)
}

/// The configurations in which answers are compared.
pub(crate) fn configs() -> Vec<SessionConfig> {
    let config = |partitions: usize, pushdown: bool| {
        SessionConfig::new()
            .with_target_partitions(partitions)
            .with_repartition_file_min_size(0)
            .set_bool("datafusion.execution.parquet.pushdown_filters", pushdown)
            .set_bool("datafusion.execution.parquet.reorder_filters", pushdown)
    };
    vec![
        config(1, false),
        config(4, false),
        config(1, true),
        config(4, true),
    ]
}

/// Rows with columns of many types. `id` ascends from `first`.
pub(crate) fn batch(first: i64, rows: usize) -> RecordBatch {
    let ids = || (first..).take(rows);
    let mut words = ListBuilder::new(StringBuilder::new());
    for id in ids() {
        for word in 0..id % 4 {
            words
                .values()
                .append_value(format!("word {}", id * 7 + word));
        }
        words.append(id % 5 != 0);
    }
    let x: ArrayRef = Arc::new(Int64Array::from_iter_values(ids().map(|id| -id)));
    let y = ids().map(|id| (id % 3 != 0).then(|| format!("y{}", id % 11)));
    let y: ArrayRef = Arc::new(StringArray::from_iter(y));
    let point = StructArray::from(vec![
        (Arc::new(Field::new("x", DataType::Int64, false)), x),
        (Arc::new(Field::new("y", DataType::Utf8, true)), y),
    ]);
    let name = ids().map(|id| (id % 13 != 0).then(|| format!("name {}", id * 2_654_435_761)));
    let class = ids().map(|id| (id * 31 % 7) as i32);
    let day = ids().map(|id| (id / 10) as i32);
    let price = Decimal128Array::from_iter_values(ids().map(|id| i128::from(id * 101 % 99_991)));
    let columns: [(&str, ArrayRef); 7] = [
        ("id", Arc::new(Int64Array::from_iter_values(ids()))),
        ("class", Arc::new(Int32Array::from_iter_values(class))),
        ("name", Arc::new(StringArray::from_iter(name))),
        ("day", Arc::new(Date32Array::from_iter_values(day))),
        (
            "price",
            Arc::new(price.with_precision_and_scale(15, 2).unwrap()),
        ),
        ("words", Arc::new(words.finish())),
        ("point", Arc::new(point)),
    ];
    RecordBatch::try_from_iter_with_nullable(
        columns
            .into_iter()
            .map(|(name, column)| (name, column, true)),
    )
    .unwrap()
}

/// Properties of a file with row groups of `rows` rows, small pages, indexes and bloom filters.
pub(crate) fn row_groups_of(rows: usize) -> WriterProperties {
    WriterProperties::builder()
        .set_max_row_group_row_count(Some(rows))
        .set_data_page_row_count_limit(rows.div_ceil(8))
        .set_write_batch_size(rows.div_ceil(8))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_bloom_filter_enabled(true)
        .build()
}

pub(crate) fn write_parquet(path: &Path, batches: &[RecordBatch], properties: WriterProperties) {
    let file = File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batches[0].schema(), Some(properties)).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.close().unwrap();
}
