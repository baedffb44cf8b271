//! [`Answer`]: the rows of a query.

use std::time::Duration;

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::prelude::SessionContext;
use tokio::time::timeout;

use crate::Result;

/// The rows of a query as text, sorted: some queries leave the order of equal rows open.
pub(crate) struct Answer {
    rows: Vec<String>,
}

impl Answer {
    /// Runs a query of TPC-H.
    pub(crate) async fn of(session: &SessionContext, number: u8) -> Result<Answer> {
        let (_, text) = kaio_tpch::queries()
            .iter()
            .find(|(known, _)| *known == number)
            .ok_or_else(|| format!("TPC-H has no query {number}"))?;
        let batches = session.sql(text).await?.collect().await?;
        let mut rows = Vec::new();
        for batch in &batches {
            rows_of(batch, &mut rows)?;
        }
        rows.sort();
        Ok(Answer { rows })
    }

    /// Runs a query, and fails if it takes longer than `limit`.
    pub(crate) async fn within(
        limit: Duration,
        session: &SessionContext,
        number: u8,
    ) -> Result<Answer> {
        match timeout(limit, Answer::of(session, number)).await {
            Ok(answer) => answer.map_err(|error| format!("query {number}: {error}").into()),
            Err(_) => Err(format!(
                "query {number}: no answer within {} s; raise --time-limit",
                limit.as_secs(),
            )
            .into()),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Fails if the rows are not those of `expected`.
    pub(crate) fn check(&self, number: u8, expected: &Answer) -> Result<()> {
        if self.rows == expected.rows {
            return Ok(());
        }
        let differing = self.rows.iter().zip(&expected.rows).find(|(a, b)| a != b);
        let (cluster, alone) = match differing {
            Some((cluster, alone)) => (cluster.as_str(), alone.as_str()),
            None => ("", ""),
        };
        Err(format!(
            "query {number}: {} rows on the cluster, {} in one process; the first rows that differ:\n{cluster}\n{alone}",
            self.rows(),
            expected.rows(),
        )
        .into())
    }
}

fn rows_of(batch: &RecordBatch, rows: &mut Vec<String>) -> Result<()> {
    let options = FormatOptions::default().with_null("NULL");
    let columns = batch.columns().iter();
    let columns: Vec<_> = columns
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
        .collect::<std::result::Result<_, _>>()?;
    for row in 0..batch.num_rows() {
        let cells = columns
            .iter()
            .map(|column| column.value(row).try_to_string());
        let cells: Vec<_> = cells.collect::<std::result::Result<_, _>>()?;
        rows.push(cells.join(" | "));
    }
    Ok(())
}
