//! [`MemoryLimit`]: a limit of the memory of this process, the page cache that it fills included.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A control group of this process, which is removed when this is dropped.
///
/// It is made below the group of the process, so all other limits stay. Memory that the process has allocated
/// before does not count.
#[derive(Debug)]
pub(crate) struct MemoryLimit {
    /// The group, and the one that the process returns to. `None`: the group of the process has a limit
    /// already.
    group: Option<(PathBuf, PathBuf)>,
    pub(crate) bytes: u64,
}

impl MemoryLimit {
    /// Limits the memory of this process to `bytes`, or uses the limit that its group has already.
    ///
    /// # Errors
    ///
    /// The user is not root, or the system gives the group no limit of memory.
    pub(crate) fn set(bytes: u64) -> Result<MemoryLimit, Box<dyn Error + Send + Sync>> {
        let (own, limit) = own_group()?;
        if let Some(bytes) = read_limit(&own.join(limit)).filter(|own| *own <= bytes) {
            return Ok(MemoryLimit { group: None, bytes });
        }
        let way_out = format!(
            "; run it as root, or with a limit: systemd-run --scope -p MemoryMax={bytes} COMMAND"
        );
        let name = format!("kaio-object-store-bench-{}", std::process::id());
        let group = own.join(name);
        let refused = |error: io::Error| format!("{}: {error}{way_out}", group.display());
        fs::create_dir(&group).map_err(refused)?;
        let limited = MemoryLimit {
            group: Some((group.clone(), own)),
            bytes,
        };
        fs::write(group.join(limit), bytes.to_string()).map_err(refused)?;
        fs::write(group.join(PROCESSES), "0").map_err(refused)?;
        Ok(limited)
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let Some((group, own)) = &self.group else {
            return;
        };
        let left = fs::write(own.join(PROCESSES), "0").and_then(|()| fs::remove_dir(group));
        if let Err(error) = left {
            eprintln!(
                "{}: the group can't be removed: {error}; remove it with rmdir",
                group.display()
            );
        }
    }
}

const PROCESSES: &str = "cgroup.procs";

/// The group of this process, and the file in it that has its limit. See `cgroups(7)`.
fn own_group() -> Result<(PathBuf, &'static str), Box<dyn Error + Send + Sync>> {
    const ROOT: &str = "/sys/fs/cgroup";
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let mut unified = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let below = |root: &str| Path::new(root).join(path.trim_start_matches('/'));
        if controllers.split(',').any(|name| name == "memory") {
            let group = below(&format!("{ROOT}/memory")); // version 1
            return Ok((group, "memory.limit_in_bytes"));
        }
        if controllers.is_empty() {
            unified = Some(below(ROOT));
        }
    }
    let group = unified.ok_or("/proc/self/cgroup has no control group with a limit of memory")?;
    Ok((group, "memory.max"))
}

/// The limit in bytes. `None`: there is none, or it is not known.
fn read_limit(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}
