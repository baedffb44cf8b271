//! [`row_groups_to_read`]: how many row groups DataFusion has not pruned.

use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricValue, PruningMetrics};

/// Sets of more metrics are not searched, which would take too long. DataFusion adds about 40 for each file.
const LONGEST_SEARCH: usize = 20_000;

/// How many row groups of the file that a partition has opened last are left after pruning by statistics,
/// bloom filters and limit. `None`: DataFusion's metrics do not say.
///
/// The reader of a file is not given this. But when it is asked for the first data, its opener has counted
/// what it has pruned.
pub(crate) fn row_groups_to_read(
    metrics: &ExecutionPlanMetricsSet,
    partition: usize,
    location: &str,
) -> Option<usize> {
    let metrics = metrics.clone_inner();
    let metrics: Vec<_> = metrics.iter().collect();
    if metrics.len() > LONGEST_SEARCH {
        return None;
    }
    let mut of_file = metrics.iter().rev().filter_map(|metric| {
        let MetricValue::PruningMetrics {
            name,
            pruning_metrics,
        } = metric.value()
        else {
            return None;
        };
        let is_file = metric
            .labels()
            .iter()
            .any(|label| label.value() == location);
        let is_reader = metric.partition() == Some(partition) && is_file;
        is_reader.then_some((name.as_ref(), pruning_metrics))
    });
    // The opener and each reader of the file have a set of their own; only the opener counts.
    let has_counted = |pruning: &PruningMetrics| pruning.matched() + pruning.pruned() > 0;
    let (_, statistics) = of_file
        .find(|(name, pruning)| *name == "row_groups_pruned_statistics" && has_counted(pruning))?;
    // Before it, because they were registered in this order.
    let (_, limit) = of_file.find(|(name, _)| *name == "limit_pruned_row_groups")?;
    let (_, bloom_filter) = of_file.find(|(name, _)| *name == "row_groups_pruned_bloom_filter")?;
    let pruned = limit.pruned() + bloom_filter.pruned();
    Some(statistics.matched().saturating_sub(pruned))
}
