//! [`SqlSession`]: a session of DataFusion, and how its results are shown.

use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect, dialect_from_str};
use kaio_datafusion::{KaioFiles, KaioFilesMetrics, Prefetch};

use crate::failure::Failure;
use crate::known_names::KnownNames;
use crate::sql_options::{CommandLine, OutputFormat, RowLimit};

/// A session of DataFusion, and how its results are shown.
pub(crate) struct SqlSession {
    /// The session.
    pub(crate) context: SessionContext,
    /// How results are shown.
    pub(crate) settings: DisplaySettings,
    /// Names for completion.
    pub(crate) names: KnownNames,
    /// What reads and writes the files. `None`: `LocalFileSystem` does.
    files: Option<KaioFiles>,
}

/// How statements are run and their results shown. Commands change it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DisplaySettings {
    pub(crate) format: OutputFormat,
    pub(crate) max_rows: RowLimit,
    /// Prints a report after each statement.
    pub(crate) reports: bool,
    /// Prints the plan of each statement.
    pub(crate) explain: bool,
    /// Evicts the files of each statement from the page cache.
    pub(crate) cold: bool,
}

impl SqlSession {
    /// Starts a session.
    ///
    /// # Errors
    ///
    /// [`Failure::Usage`]: DataFusion refuses a setting.
    pub(crate) async fn new(options: &CommandLine) -> Result<SqlSession, Failure> {
        let config = SessionConfig::from_env()
            .map_err(|error| Failure::Usage(format!("environment: {}", error.strip_backtrace())))?;
        let mut config = config.with_information_schema(true);
        if let Some(partitions) = options.partitions {
            config = config.with_target_partitions(partitions.get());
        }
        let mut runtime = RuntimeEnvBuilder::new();
        if let Some(bytes) = options.memory_limit {
            runtime = runtime.with_memory_limit(bytes, 1.0);
        }
        let context = SessionContext::new_with_config_rt(config, runtime.build_arc()?);
        let context = context.enable_url_table();
        for (key, value) in &options.settings {
            set(&context, key, value).await?;
        }
        let files = (!options.local).then(|| match options.no_prefetch {
            true => KaioFiles::new().with_prefetch(Prefetch::off()),
            false => KaioFiles::new(),
        });
        if let Some(files) = &files {
            files.register(&context);
        }
        Ok(SqlSession {
            context,
            settings: DisplaySettings {
                format: options.format,
                max_rows: options.max_rows,
                reports: !options.quiet,
                explain: options.explain,
                cold: options.cold,
            },
            names: KnownNames::default(),
            files,
        })
    }

    /// How files were read and written so far. `None` with `LocalFileSystem`.
    pub(crate) fn file_metrics(&self) -> Option<KaioFilesMetrics> {
        self.files.as_ref().map(KaioFiles::metrics)
    }

    /// The dialect of SQL, which `datafusion.sql_parser.dialect` sets.
    pub(crate) fn dialect(&self) -> Box<dyn Dialect> {
        dialect_of(&self.context)
    }
}

/// The dialect of SQL in a session.
pub(crate) fn dialect_of(context: &SessionContext) -> Box<dyn Dialect> {
    let state = context.state_ref();
    let dialect = state.read().config_options().sql_parser.dialect;
    dialect_from_str(dialect).unwrap_or_else(|| Box::new(GenericDialect))
}

/// Sets an option of DataFusion.
async fn set(context: &SessionContext, key: &str, value: &str) -> Result<(), Failure> {
    let quoted = value.replace('\'', "''");
    let result = context.sql(&format!("SET {key} = '{quoted}'")).await;
    result.map(drop).map_err(|error| {
        let error = error.strip_backtrace();
        Failure::Usage(format!("--set {key}={value}: {}", error.trim_end()))
    })
}
