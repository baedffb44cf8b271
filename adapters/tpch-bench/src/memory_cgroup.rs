//! [`MemoryCgroup`]: a limit of memory, page cache included.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;

use crate::Result;

/// A cgroup with a limit of memory. It is removed when dropped.
#[derive(Debug)]
pub(crate) struct MemoryCgroup {
    dir: PathBuf,
}

/// Memory of a cgroup.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CgroupMemory {
    /// Page cache.
    pub(crate) cached_bytes: u64,
    /// Memory of its processes.
    pub(crate) process_bytes: u64,
}

impl MemoryCgroup {
    /// Creates a cgroup: of version 2, or of version 1 where the controller of memory is still there.
    ///
    /// Fails without the permission (of root), or without the controller.
    pub(crate) fn create(limit: u64) -> Result<MemoryCgroup> {
        let (parent, limit_file) = parent()?;
        let dir = parent.join(format!("kaio-tpch-bench-{}", process::id()));
        fs::create_dir(&dir).map_err(|error| format!("can't create {}: {error}", dir.display()))?;
        let cgroup = MemoryCgroup { dir };
        write(&cgroup.dir.join(limit_file), limit)?;
        Ok(cgroup)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.dir) {
            eprintln!("can't remove {}: {error}", self.dir.display());
        }
    }
}

/// Moves this process into a cgroup.
pub(crate) fn join(dir: &Path) -> Result<()> {
    write(&dir.join("cgroup.procs"), process::id().into())
}

/// The memory of a cgroup now.
pub(crate) fn memory(dir: &Path) -> Result<CgroupMemory> {
    let path = dir.join("memory.stat");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    // Version 2, or version 1.
    let value = |names: [&str; 2]| {
        let is_wanted = |line: &str| {
            let (name, value) = line.split_once(' ')?;
            names.contains(&name).then(|| value.parse::<u64>().ok())?
        };
        let value = text.lines().find_map(is_wanted);
        value.ok_or_else(|| format!("{} has neither {names:?}", path.display()))
    };
    Ok(CgroupMemory {
        cached_bytes: value(["file", "cache"])?,
        process_bytes: value(["anon", "rss"])?,
    })
}

/// The directory to create cgroups in, and the file of their limit.
fn parent() -> Result<(PathBuf, &'static str)> {
    const ROOT: &str = "/sys/fs/cgroup";
    let controllers = fs::read_to_string(format!("{ROOT}/cgroup.subtree_control"));
    if controllers.is_ok_and(|names| names.split_whitespace().any(|name| name == "memory")) {
        return Ok((ROOT.into(), "memory.max"));
    }
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let of_memory = own.lines().find_map(|line| {
        let (_, line) = line.split_once(':')?;
        let (controllers, path) = line.split_once(':')?;
        controllers
            .split(',')
            .any(|name| name == "memory")
            .then_some(path)
    });
    let path = of_memory.ok_or("there is no cgroup controller of memory")?;
    // Below the own one, whose limit then holds, too.
    let dir = PathBuf::from(format!("{ROOT}/memory{path}"));
    match dir.is_dir() {
        true => Ok((dir, "memory.limit_in_bytes")),
        false => Err(format!("{} is missing", dir.display()).into()),
    }
}

fn write(path: &Path, value: u64) -> Result<()> {
    let written: io::Result<()> = fs::write(path, value.to_string());
    Ok(written.map_err(|error| format!("{}: {error}", path.display()))?)
}
