//! [`FilesAhead`]: files that are fetched ahead, before they are opened.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::object_store::path::Path;

use crate::aborting_task::AbortingTask;
use crate::group_ahead::GroupAhead;

/// The files of a scan, in the order in which they are opened, and the first row groups of those that are
/// fetched ahead. DataFusion does not open a file before it has decoded the one before.
#[derive(Debug)]
pub(crate) struct FilesAhead {
    files: Vec<ScanFile>,
    by_location: HashMap<Path, Vec<usize>>,
    /// Whether the partitions take the files of the scan by turns, rather than each its own.
    is_shared: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct ScanFile {
    file: PartitionedFile,
    partition: usize,
}

#[derive(Debug, Default)]
struct State {
    opened: Vec<bool>,
    ahead: HashMap<usize, AheadTask>,
}

type AheadTask = AbortingTask<Option<GroupAhead>>;

impl FilesAhead {
    pub(crate) fn new(config: &FileScanConfig, is_shared: bool) -> FilesAhead {
        let partitions = config.file_groups.iter().enumerate();
        let files: Vec<_> = partitions
            .flat_map(|(partition, group)| {
                group.iter().map(move |file| ScanFile {
                    file: file.clone(),
                    partition,
                })
            })
            .collect();
        let opened = vec![false; files.len()];
        let mut by_location: HashMap<_, Vec<_>> = HashMap::new();
        for (index, file) in files.iter().enumerate() {
            let location = file.file.object_meta.location.clone();
            by_location.entry(location).or_default().push(index);
        }
        FilesAhead {
            files,
            by_location,
            is_shared,
            state: Mutex::new(State {
                opened,
                ahead: HashMap::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `file` is opened, and returns its index.
    pub(crate) fn opened(&self, file: &PartitionedFile) -> Option<usize> {
        let ranges = self.by_location.get(&file.object_meta.location)?;
        let is_it = |index: &&usize| self.files[**index].file.range == file.range;
        let index = *ranges.iter().find(is_it)?;
        let mut state = self.state();
        let mut outdated = HashMap::new();
        if state.opened[index] {
            // The plan is executed again.
            state.opened.fill(false);
            outdated = std::mem::take(&mut state.ahead);
        }
        state.opened[index] = true;
        drop(state);
        drop(outdated); // when the lock is free
        Some(index)
    }

    /// Starts to fetch the file that is opened after that with `index`, by the task that `start` makes,
    /// unless `most` files are fetched ahead already.
    pub(crate) fn fetch_after(
        &self,
        index: usize,
        most: usize,
        start: impl FnOnce(&PartitionedFile) -> AheadTask,
    ) -> bool {
        let mut state = self.state();
        if state.ahead.len() >= most {
            return false;
        }
        let partition = self.files[index].partition;
        let is_next = |&next: &usize| {
            let is_own = self.is_shared || self.files[next].partition == partition;
            is_own && !state.opened[next] && !state.ahead.contains_key(&next)
        };
        // If files are shared, others may have been opened meanwhile.
        let first = if self.is_shared { 0 } else { index + 1 };
        let Some(next) = (first..self.files.len()).find(is_next) else {
            return false;
        };
        state.ahead.insert(next, start(&self.files[next].file));
        true
    }

    /// Takes what was fetched ahead of the file with `index`.
    pub(crate) fn take(&self, index: usize) -> Option<AheadTask> {
        self.state().ahead.remove(&index)
    }

    /// Drops everything that is fetched ahead.
    pub(crate) fn clear(&self) {
        let ahead = std::mem::take(&mut self.state().ahead);
        drop(ahead); // when the lock is free
    }
}
