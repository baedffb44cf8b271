//! Evicts the files of a plan from the page cache.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::object_store::local::LocalFileSystem;
use datafusion::physical_plan::ExecutionPlan;
use rustix::fs::{Advice, fadvise};

use crate::messages::print_message;

/// Evicts the local files that `plan` reads from the page cache. What has not been written to the disk is
/// written first. Failures are reported, and leave the file in the page cache.
pub(crate) fn evict_files(plan: &Arc<dyn ExecutionPlan>) {
    let mut files = BTreeSet::new();
    collect_files(plan, &mut files);
    for path in files {
        if let Err(error) = evict(&path) {
            let path = path.display();
            print_message(format_args!(
                "can't evict {path} from the page cache: {error}"
            ));
        }
    }
}

/// See [`posix_fadvise(2)`](https://man7.org/linux/man-pages/man2/posix_fadvise.2.html).
fn evict(path: &PathBuf) -> io::Result<()> {
    let file = File::open(path)?;
    file.sync_all()?; // pages that have not been written stay
    Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
}

fn collect_files(plan: &Arc<dyn ExecutionPlan>, files: &mut BTreeSet<PathBuf>) {
    let source = plan.downcast_ref::<DataSourceExec>();
    let scan = source.and_then(|source| source.data_source().downcast_ref::<FileScanConfig>());
    if let Some(scan) = scan.filter(|scan| scan.object_store_url.as_str().starts_with("file:")) {
        let local = LocalFileSystem::new();
        let parts = scan.file_groups.iter().flat_map(|group| group.files());
        let paths = parts.map(|part| local.path_to_filesystem(&part.object_meta.location));
        files.extend(paths.flatten());
    }
    for child in plan.children() {
        collect_files(child, files);
    }
}
