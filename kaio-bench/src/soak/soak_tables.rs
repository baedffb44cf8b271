//! The tables at the end of a run.

use std::fmt;

use crate::process_resources::ProcessResources;
use crate::work_counts::{WorkCounts, Workload};

/// A line for each workload.
pub(crate) fn work_table(counts: &WorkCounts) -> String {
    let mut table = format!(
        "{:<28}{:>14}{:>16}{:>12}{:>12}\n",
        "workload", "operations", "MiB verified", "cancelled", "errors"
    );
    for workload in Workload::ALL {
        let [operations, verified, cancelled, errors] = counts.of(workload).values();
        if operations + cancelled + errors > 0 {
            table += &format!(
                "{:<28}{operations:>14}{:>16}{cancelled:>12}{errors:>12}\n",
                workload.name(),
                verified >> 20
            );
        }
    }
    table
}

/// By how much the memory that is resident may grow after the first cycle.
///
/// The heap is counted exactly, so this is only for memory outside of it, and for memory that the allocator and
/// the C library keep: pages of two arenas that are partly free, and stacks of ended threads, of which up to
/// 40 MiB stay mapped. A context has 100 KiB or more of memory, and a run of an hour makes more than 10,000.
const RESIDENT_GROWTH: u64 = 24 << 20;

/// By how much the heap may grow. After a turn, no object of the library and no runtime exists. What stays are
/// tables of the standard library, of tokio and of the threads that end contexts.
const HEAP_GROWTH: u64 = 256 << 10;

/// By how much all mappings may grow: the stacks above, and an arena of 64 MiB.
const MAPPED_GROWTH: u64 = 128 << 20;

/// The resources of the process at three times.
///
/// Descriptors, threads, rings and locked memory are compared with the start. Memory is compared with the end
/// of the first cycle, which has used everything once.
pub(crate) struct ResourceTable {
    pub(crate) start: ProcessResources,
    pub(crate) after_cycle: ProcessResources,
    pub(crate) end: ProcessResources,
    /// `fs.aio-nr` at the start and at the end.
    pub(crate) machine: Option<(u64, u64)>,
}

struct Row {
    name: &'static str,
    values: [u64; 3],
    limit: u64,
}

impl ResourceTable {
    fn rows(&self) -> Vec<Row> {
        let row = |name, value: fn(&ProcessResources) -> u64, is_exact, growth| {
            let values = [&self.start, &self.after_cycle, &self.end].map(value);
            let limit = if is_exact {
                values[0]
            } else {
                values[1] + growth
            };
            Row {
                name,
                values,
                limit,
            }
        };
        let mut rows = vec![
            row("descriptors", |now| now.descriptors as u64, true, 0),
            row("threads", |now| now.threads as u64, true, 0),
            row("mapped rings", |now| now.rings as u64, true, 0),
            row("locked KiB", |now| now.locked >> 10, true, 0),
            row("heap KiB", |now| now.heap >> 10, false, HEAP_GROWTH >> 10),
            row(
                "resident KiB",
                |now| now.resident >> 10,
                false,
                RESIDENT_GROWTH >> 10,
            ),
            row(
                "mapped KiB",
                |now| now.mapped >> 10,
                false,
                MAPPED_GROWTH >> 10,
            ),
        ];
        rows.extend(self.machine.map(|(before, now)| Row {
            name: "fs.aio-nr",
            values: [before, before, now],
            limit: before,
        }));
        rows
    }

    /// Whether all resources are within their limits.
    pub(crate) fn is_released(&self) -> bool {
        self.rows().iter().all(|row| row.values[2] <= row.limit)
    }
}

impl fmt::Display for ResourceTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = ["start", "after a cycle", "end", "at most"];
        write!(f, "{:<16}", "resource")?;
        columns
            .iter()
            .try_for_each(|column| write!(f, "{column:>15}"))?;
        for Row {
            name,
            values,
            limit,
        } in self.rows()
        {
            let [start, after_cycle, end] = values;
            let verdict = if end > limit { "  NOT RELEASED" } else { "" };
            write!(
                f,
                "\n{name:<16}{start:>15}{after_cycle:>15}{end:>15}{limit:>15}{verdict}"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_that_was_not_released_is_named() {
        let start = ProcessResources {
            descriptors: 9,
            threads: 2,
            rings: 0,
            mapped: 80 << 20,
            locked: 0,
            resident: 8 << 20,
            heap: 64 << 10,
        };
        let table = |change: fn(&mut ProcessResources), machine| {
            let mut end = start;
            change(&mut end);
            ResourceTable {
                start,
                after_cycle: start,
                end,
                machine,
            }
        };
        let released = table(|_| (), Some((32, 32)));
        assert!(released.is_released(), "{released}");
        let changes: [fn(&mut ProcessResources); 7] = [
            |end| end.descriptors += 1,
            |end| end.threads += 1,
            |end| end.rings += 1,
            |end| end.locked += 4096,
            |end| end.heap += HEAP_GROWTH + 1024,
            |end| end.resident += RESIDENT_GROWTH + 1024,
            |end| end.mapped += MAPPED_GROWTH + 1024,
        ];
        let mut tables: Vec<_> = changes.map(|change| table(change, None)).into();
        tables.push(table(|_| (), Some((32, 33))));
        for leaks in tables {
            let text = leaks.to_string();
            assert!(!leaks.is_released(), "{text}");
            assert_eq!(text.matches("NOT RELEASED").count(), 1, "{text}");
        }
    }
}
