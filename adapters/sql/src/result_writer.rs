//! [`ResultWriter`]: encodes the rows of a result.

use std::io::Write;

use datafusion::arrow::csv;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json;
use datafusion::arrow::json::writer::{JsonArray, LineDelimited};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches_with_schema;

use crate::sql_options::OutputFormat;

/// Encodes the rows of a result. Formats other than the table keep no rows.
#[derive(Debug)]
pub(crate) struct ResultWriter {
    schema: SchemaRef,
    encoder: Encoder,
}

#[derive(Debug)]
enum Encoder {
    /// The result has no columns, as that of `CREATE TABLE`.
    Nothing,
    Table(TableRows),
    Json(json::Writer<Vec<u8>, JsonArray>),
    Ndjson(json::Writer<Vec<u8>, LineDelimited>),
    Separated {
        separator: u8,
        has_header: bool,
    },
}

/// The rows of a table that will be shown.
#[derive(Debug)]
struct TableRows {
    batches: Vec<RecordBatch>,
    /// How many more rows will be shown.
    room: usize,
    not_shown: usize,
}

impl ResultWriter {
    /// Prepares a result with the columns of `schema`. A table shows at most `max_rows`.
    pub(crate) fn new(format: OutputFormat, schema: SchemaRef, max_rows: usize) -> ResultWriter {
        let json = json::WriterBuilder::new().with_explicit_nulls(true);
        let separated = |separator| Encoder::Separated {
            separator,
            has_header: false,
        };
        let encoder = match format {
            _ if schema.fields().is_empty() => Encoder::Nothing,
            OutputFormat::Table => Encoder::Table(TableRows {
                batches: Vec::new(),
                room: max_rows,
                not_shown: 0,
            }),
            OutputFormat::Json => Encoder::Json(json.build(Vec::new())),
            OutputFormat::Ndjson => Encoder::Ndjson(json.build(Vec::new())),
            OutputFormat::Csv => separated(b','),
            OutputFormat::Tsv => separated(b'\t'),
        };
        ResultWriter { schema, encoder }
    }

    /// Appends `batch` to `out`, encoded. A table is appended at the end.
    ///
    /// # Errors
    ///
    /// The format has no form for a type: CSV has none for lists and structs.
    pub(crate) fn write(
        &mut self,
        batch: &RecordBatch,
        out: &mut Vec<u8>,
    ) -> Result<(), ArrowError> {
        match &mut self.encoder {
            Encoder::Nothing => Ok(()),
            Encoder::Table(rows) => {
                rows.add(batch);
                Ok(())
            }
            Encoder::Json(writer) => {
                writer.write(batch)?;
                out.append(writer.get_mut());
                Ok(())
            }
            Encoder::Ndjson(writer) => {
                writer.write(batch)?;
                out.append(writer.get_mut());
                Ok(())
            }
            Encoder::Separated {
                separator,
                has_header,
            } => {
                let header = !std::mem::replace(has_header, true);
                let builder = csv::WriterBuilder::new().with_delimiter(*separator);
                builder.with_header(header).build(out).write(batch)
            }
        }
    }

    /// Appends the end of the result to `out`.
    ///
    /// # Errors
    ///
    /// A value can't be formatted.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        match &mut self.encoder {
            Encoder::Nothing => Ok(()),
            Encoder::Table(rows) => rows.finish(&self.schema, out),
            Encoder::Json(writer) => {
                writer.finish()?;
                out.append(writer.get_mut());
                out.push(b'\n');
                Ok(())
            }
            Encoder::Ndjson(_) => Ok(()),
            Encoder::Separated { has_header, .. } if *has_header => Ok(()),
            Encoder::Separated { .. } => {
                self.write(&RecordBatch::new_empty(self.schema.clone()), out) // the header
            }
        }
    }
}

impl TableRows {
    fn add(&mut self, batch: &RecordBatch) {
        let shown = batch.num_rows().min(self.room);
        self.room -= shown;
        self.not_shown += batch.num_rows() - shown;
        if shown > 0 {
            self.batches.push(batch.slice(0, shown));
        }
    }

    fn finish(&self, schema: &SchemaRef, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        let table = pretty_format_batches_with_schema(schema.clone(), &self.batches)?;
        writeln!(out, "{table}")?;
        match self.not_shown {
            0 => (),
            1 => writeln!(out, "(1 more row)")?,
            rows => writeln!(out, "({rows} more rows)")?,
        }
        Ok(())
    }
}
