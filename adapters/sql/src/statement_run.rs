//! Runs one statement.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures_util::StreamExt;

use crate::failure::Failure;
use crate::file_eviction::evict_files;
use crate::messages::print_message;
use crate::process_usage::ProcessUsage;
use crate::query_report::{QueryReport, ResultSize, files_since};
use crate::result_writer::ResultWriter;
use crate::sql_session::SqlSession;

/// Runs one statement, writes its result to standard output, and prints what the session has switched on:
/// the plan, and the report.
///
/// # Errors
///
/// [`Failure::Statement`], [`Failure::Output`].
///
/// # Cancel safety
///
/// The statement ends. What it has written to standard output stays; a file that `COPY` has not completed
/// does not.
pub(crate) async fn run_statement(session: &mut SqlSession, sql: &str) -> Result<(), Failure> {
    let before = (Instant::now(), ProcessUsage::now());
    let files_before = session.file_metrics();

    let plan = session.context.state().create_logical_plan(sql).await?;
    session.names.remember_columns_of(&plan);
    let frame = session.context.execute_logical_plan(plan).await?;
    let has_result = !frame.schema().fields().is_empty();
    let task = Arc::new(frame.task_ctx());
    let plan = frame.create_physical_plan().await?;
    let planning = before.0.elapsed();

    let not_counted = match session.settings.cold {
        true => evict_uncounted(&plan),
        false => (Duration::ZERO, Duration::ZERO),
    };

    let mut stream = execute_stream(plan.clone(), task)?;
    let settings = session.settings;
    let mut writer = ResultWriter::new(settings.format, stream.schema(), settings.max_rows.0);
    let mut size = ResultSize::default();
    let mut out = Vec::new();
    while let Some(batch) = stream.next().await {
        let batch = batch?;
        size.rows += batch.num_rows() as u64;
        size.bytes += batch_bytes(&batch);
        writer.write(&batch, &mut out)?;
        print(&mut out)?;
    }
    drop(stream); // the rest of the work, if there is a limit
    writer.finish(&mut out)?;

    let mut usage = ProcessUsage::now().since(&before.1);
    usage.cpu = usage.cpu.saturating_sub(not_counted.1);
    let report = QueryReport {
        result: has_result.then_some(size),
        wall: before.0.elapsed().saturating_sub(not_counted.0),
        planning,
        usage,
        files: session
            .file_metrics()
            .zip(files_before)
            .map(|(now, then)| files_since(now, &then)),
    };
    print(&mut out)?;
    io::stdout().flush().map_err(Failure::Output)?;
    if settings.explain {
        print_message(DisplayableExecutionPlan::with_metrics(plan.as_ref()).indent(false));
    }
    if settings.reports {
        print_message(report);
    }
    Ok(())
}

/// Evicts the files of a plan. Returns the time and CPU time of that.
fn evict_uncounted(plan: &Arc<dyn ExecutionPlan>) -> (Duration, Duration) {
    let before = (Instant::now(), ProcessUsage::now());
    evict_files(plan);
    (before.0.elapsed(), ProcessUsage::now().since(&before.1).cpu)
}

/// Writes `out` to standard output, and clears it.
fn print(out: &mut Vec<u8>) -> Result<(), Failure> {
    io::stdout().write_all(out).map_err(Failure::Output)?;
    out.clear();
    Ok(())
}

/// The bytes of the rows of a batch.
fn batch_bytes(batch: &RecordBatch) -> u64 {
    batch.columns().iter().map(array_bytes).sum()
}

/// The bytes of an array, without those that other slices of its buffers have.
fn array_bytes(array: &Arc<dyn Array>) -> u64 {
    let Ok(bytes) = array.to_data().get_slice_memory_size() else {
        return array.get_array_memory_size() as u64;
    };
    let long_values = match array.data_type() {
        DataType::Utf8View => array.as_string_view().total_buffer_bytes_used(),
        DataType::BinaryView => array.as_binary_view().total_buffer_bytes_used(),
        _ => 0,
    };
    (bytes + long_values) as u64
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array, StringArray, StringViewArray};

    use super::*;

    #[test]
    fn a_slice_counts_its_own_bytes_only() {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
        let batch = RecordBatch::try_from_iter([("a", numbers)]).unwrap();
        assert_eq!(batch_bytes(&batch), 8000);
        assert_eq!(batch_bytes(&batch.slice(10, 5)), 40);
    }

    #[test]
    fn texts_count_their_characters() {
        let short_and_long = ["a", "a text of more than twelve bytes"];
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(short_and_long));
        let batch = RecordBatch::try_from_iter([("a", texts)]).unwrap();
        assert_eq!(batch_bytes(&batch), 3 * 4 + 33);
        let views: ArrayRef = Arc::new(StringViewArray::from_iter_values(short_and_long));
        let batch = RecordBatch::try_from_iter([("a", views)]).unwrap();
        assert_eq!(batch_bytes(&batch), 2 * 16 + 32);
    }
}
