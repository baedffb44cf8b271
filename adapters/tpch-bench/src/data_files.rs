//! [`DataFiles`]: how much of the data is in the page cache.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};

use crate::Result;

/// How long [`DataFiles::evict`] waits for the amount of cached data to fall.
const PATIENCE: Duration = Duration::from_secs(3);

/// The files of a data set.
#[derive(Debug)]
pub(crate) struct DataFiles {
    dir: PathBuf,
    files: Vec<File>,
    bytes: u64,
}

impl DataFiles {
    /// Opens all files below `dir`, and flushes them: dirty pages can't be evicted.
    pub(crate) fn open(dir: &Path) -> Result<DataFiles> {
        let failed = |error: io::Error| format!("{}: {error}", dir.display());
        let mut data = DataFiles {
            dir: dir.into(),
            files: Vec::new(),
            bytes: 0,
        };
        let mut dirs = vec![dir.to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).map_err(failed)? {
                let path = entry.map_err(failed)?.path();
                if path.is_dir() {
                    dirs.push(path);
                    continue;
                }
                let file = File::open(path).map_err(failed)?;
                file.sync_all().map_err(failed)?;
                data.bytes += file.metadata().map_err(failed)?.len();
                data.files.push(file);
            }
        }
        Ok(data)
    }

    pub(crate) fn count(&self) -> usize {
        self.files.len()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Evicts the data from the page cache.
    ///
    /// Tries again while pages are left, because the kernel leaves those that are in use, such as those that it still
    /// reads ahead. Fails if more than 1 % of the data stays, and the amount has not fallen for `PATIENCE`. On tmpfs
    /// it never falls.
    pub(crate) fn evict(&self) -> Result<()> {
        let mut least = u64::MAX;
        let mut fallen = Instant::now();
        loop {
            for file in &self.files {
                fadvise(file, 0, None, Advice::DontNeed)?;
            }
            let cached = self.cached_bytes()?;
            if cached <= self.bytes / 100 {
                return Ok(());
            }
            if cached < least {
                (least, fallen) = (cached, Instant::now());
            }
            if fallen.elapsed() > PATIENCE {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err(format!(
            "{} MiB of {} can't be evicted from the page cache: use a directory on a disk (not tmpfs) whose \
             files no other process uses",
            least >> 20,
            self.dir.display()
        )
        .into())
    }

    /// Bytes of the data in the page cache.
    pub(crate) fn cached_bytes(&self) -> Result<u64> {
        let mut pages = 0;
        for file in &self.files {
            pages += cached_pages(file).map_err(|error| {
                format!("cachestat failed: {error}; the benchmark needs Linux 6.5")
            })?;
        }
        Ok(pages * page_size())
    }
}

fn page_size() -> u64 {
    // SAFETY: the call reads no memory of the caller, and fails for no kernel (`sysconf(3)`).
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    size.unsigned_abs() as u64
}

/// Pages of a file in the page cache: `cachestat(2)`.
fn cached_pages(file: &File) -> io::Result<u64> {
    /// The same on all architectures.
    const CACHESTAT: libc::c_long = 451;

    #[repr(C)]
    struct CachestatRange {
        offset: u64,
        len: u64,
    }

    #[repr(C)]
    #[derive(Default)]
    struct Cachestat {
        cached: u64,
        dirty: u64,
        writeback: u64,
        evicted: u64,
        recently_evicted: u64,
    }

    let of = CachestatRange { offset: 0, len: 0 }; // to the end of the file
    let mut found = Cachestat::default();
    let (fd, flags) = (file.as_raw_fd(), 0_u32);
    // SAFETY: `file` keeps the descriptor open. The kernel reads `of` and writes `found` during the call
    // only; both have the layout of its structures `cachestat_range` and `cachestat`.
    let code = unsafe { libc::syscall(CACHESTAT, fd, &raw const of, &raw mut found, flags) };
    match code {
        0 => Ok(found.cached),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evicted_data_is_not_in_the_page_cache_and_read_data_is() {
        let beside = std::env::current_exe().unwrap(); // on a disk, unlike most directories for such files
        let dir = tempfile::tempdir_in(beside.parent().unwrap()).unwrap();
        fs::create_dir(dir.path().join("table")).unwrap();
        let path = dir.path().join("table/file");
        fs::write(&path, vec![7; 1 << 20]).unwrap();
        let data = DataFiles::open(dir.path()).unwrap();
        assert_eq!((data.count(), data.bytes()), (1, 1 << 20));
        if let Err(error) = data.evict() {
            eprintln!("skipped: {error}");
            return;
        }
        fs::read(&path).unwrap();
        assert_eq!(data.cached_bytes().unwrap(), 1 << 20);
    }
}
