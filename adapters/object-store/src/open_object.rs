//! [`OpenObject`]: a file that is open for reads, and [`ObjectFacts`], its attributes by `stat`.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::blocking_call::run_blocking;
use crate::store_fault::StoreFault;

/// What `stat(2)` reports of a file. Equal facts mean the same file, unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ObjectFacts {
    device: u64,
    inode: u64,
    pub(crate) size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl ObjectFacts {
    pub(crate) fn new(metadata: &Metadata) -> ObjectFacts {
        ObjectFacts {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The time of the last change of the content, not further from now than `chrono` can express, which
    /// panics beyond.
    pub(crate) fn last_modified(&self) -> SystemTime {
        const LAST: i64 = 8_210_266_876_799; // the end of the year 262142
        let (seconds, nanoseconds) = self.modified;
        let seconds = seconds.clamp(-LAST, LAST);
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let whole = match seconds < 0 {
            true => SystemTime::UNIX_EPOCH - whole,
            false => SystemTime::UNIX_EPOCH + whole,
        };
        whole + Duration::from_nanos(nanoseconds.unsigned_abs())
    }

    /// The tag that `LocalFileSystem` gives the object, without quotes.
    pub(crate) fn e_tag(&self) -> String {
        let (seconds, nanoseconds) = self.modified;
        let modified = match u64::try_from(seconds) {
            Ok(seconds) => Duration::new(seconds, nanoseconds as u32).as_micros(),
            Err(_) => 0, // before 1970
        };
        format!("{:x}-{modified:x}-{:x}", self.inode, self.size)
    }
}

/// The facts of the file at `path`. `None` if that is not known without waiting for the disk or the network,
/// or if the kernel can't tell (before Linux 5.12).
///
/// `RESOLVE_CACHED` fails instead of waiting. See `openat2(2)`.
fn facts_without_blocking(path: &Path) -> Option<io::Result<ObjectFacts>> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED) {
        Ok(place) => {
            let metadata = File::from(place).metadata();
            Some(metadata.map(|metadata| ObjectFacts::new(&metadata)))
        }
        Err(error @ (Errno::NOENT | Errno::NOTDIR)) => Some(Err(error.into())),
        Err(_) => None,
    }
}

/// A file that is open for reads.
#[derive(Debug)]
pub(crate) struct OpenObject {
    pub(crate) path: PathBuf,
    /// The file when it was opened.
    pub(crate) facts: ObjectFacts,
    /// [`ObjectFacts::e_tag`]. It takes longer to format than a small read from the page cache.
    pub(crate) e_tag: String,
    /// Reads through the page cache.
    pub(crate) buffered: File,
    /// Direct reads, if the file system can do them and the object is not small.
    direct: Option<tokio_kaio::File>,
    /// A direct read has failed in a way that the next one will too.
    refuses_direct: AtomicBool,
    /// Whether the kernel says which pages are in the page cache.
    reports_cached: AtomicBool,
    /// Number of ranges in a row that were not in the page cache.
    uncached: AtomicU32,
    /// The path leads through no symbolic link.
    has_plain_path: bool,
    /// Whether the descriptor may be kept: not on a network file system, where another machine can change
    /// the file without a change of the facts that this machine has cached.
    pub(crate) may_be_kept: bool,
}

/// What stands at a path.
#[derive(Debug)]
pub(crate) enum AtPath<T> {
    Object(T),
    /// Neither a regular file nor a directory: a pipe, a device.
    Special,
}

impl OpenObject {
    /// Opens the file at `path`, with direct I/O if it has at least `small` bytes and the file system can do
    /// it.
    pub(crate) fn open(path: &Path, small: u64) -> Result<AtPath<OpenObject>, StoreFault> {
        let open_error = |error| StoreFault::of("open", path, error);
        // A pipe must not be opened, not even for a moment: that would wake its writer.
        let metadata = std::fs::metadata(path).map_err(open_error)?;
        if metadata.is_dir() {
            return Err(StoreFault::directory(path));
        }
        if !metadata.is_file() {
            return Ok(AtPath::Special);
        }
        let mut options = OpenOptions::new();
        options.read(true);
        // Should there be a pipe meanwhile, `O_NONBLOCK` does not wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let plain = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
        let has_plain_path = plain.is_ok();
        let buffered = match plain {
            Ok(file) => Ok(File::from(file)),
            Err(_) => options.clone().custom_flags(libc::O_NONBLOCK).open(path),
        };
        let buffered = match buffered {
            // A regular file, of which another program has a lease (`fcntl(2)`): it is given time to return it.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => options.open(path),
            buffered => buffered,
        };
        let buffered = buffered.map_err(open_error)?;
        let metadata = buffered.metadata().map_err(open_error)?;
        if metadata.is_dir() {
            return Err(StoreFault::directory(path));
        }
        if !metadata.is_file() {
            return Ok(AtPath::Special);
        }
        let facts = ObjectFacts::new(&metadata);
        let direct = match facts.size >= small.max(1) {
            // Without /proc, or where the file system has no direct I/O, reads go through the page cache.
            true => {
                let link = format!("/proc/self/fd/{}", buffered.as_raw_fd());
                let file = options.open(link);
                file.and_then(tokio_kaio::File::from_std).ok()
            }
            false => None,
        };
        Ok(AtPath::Object(OpenObject {
            path: path.to_owned(),
            facts,
            e_tag: facts.e_tag(),
            may_be_kept: is_local(&buffered),
            buffered,
            direct,
            refuses_direct: AtomicBool::new(false),
            reports_cached: AtomicBool::new(true),
            uncached: AtomicU32::new(0),
            has_plain_path,
        }))
    }

    /// Whether the file at the path is still this one, and unchanged. `false` if that is not known without
    /// waiting for the disk.
    ///
    /// The open file keeps the directory entries of its path in memory, so a plain `stat` finds them without
    /// the disk. Only a name that leads to another file by now, and that the kernel has evicted since, is
    /// looked up there.
    pub(crate) fn is_unchanged(&self) -> bool {
        match self.has_plain_path {
            true => std::fs::metadata(&self.path)
                .is_ok_and(|metadata| ObjectFacts::new(&metadata) == self.facts),
            false => facts_without_blocking(&self.path)
                .is_some_and(|facts| facts.is_ok_and(|facts| facts == self.facts)),
        }
    }

    /// The file for direct reads, if they are possible.
    pub(crate) fn direct(&self) -> Option<&tokio_kaio::File> {
        match self.refuses_direct.load(Ordering::Relaxed) {
            true => None,
            false => self.direct.as_ref(),
        }
    }

    pub(crate) fn refuse_direct(&self) {
        self.refuses_direct.store(true, Ordering::Relaxed);
    }

    /// Whether to ask the kernel for the pages of the next range, of `len` bytes. After many ranges that were
    /// not in the page cache, only every eighth of the small ones is asked for: the question is dear beside
    /// such a read, and the answer is likely to be the same.
    pub(crate) fn asks_for_cached(&self, len: u64) -> bool {
        const IN_A_ROW: u32 = 64;
        const SMALL: u64 = 64 << 10;
        if !self.reports_cached.load(Ordering::Relaxed) {
            return false;
        }
        if len > SMALL || self.uncached.load(Ordering::Relaxed) < IN_A_ROW {
            return true;
        }
        self.uncached.fetch_add(1, Ordering::Relaxed) % 8 == 0
    }

    /// Remembers the answer of the kernel.
    pub(crate) fn observe_cached(&self, is_cached: bool) {
        let uncached = match is_cached {
            true => 0,
            false => self.uncached.load(Ordering::Relaxed).saturating_add(1), // a guess may miss some
        };
        self.uncached.store(uncached, Ordering::Relaxed);
    }

    /// The kernel does not say which pages of the file are in the page cache, so it is not asked again.
    pub(crate) fn does_not_report_cached(&self) {
        self.reports_cached.store(false, Ordering::Relaxed);
    }

    /// Whether nobody can open the file any more: an open descriptor only keeps its space.
    pub(crate) fn is_deleted(&self) -> bool {
        self.buffered
            .metadata()
            .is_ok_and(|metadata| metadata.nlink() == 0)
    }
}

/// Whether the file is on a file system of this machine. See `statfs(2)` for the numbers.
fn is_local(file: &File) -> bool {
    const NETWORK: &[u64] = &[
        0x6969,      // NFS
        0xff53_4d42, // CIFS
        0xfe53_4d42, // SMB2
        0x6573_5546, // FUSE
        0x0102_1997, // 9p
        0x00c3_6400, // Ceph
        0x5346_414f, // AFS
        0x7375_7245, // Coda
        0x0bd0_0bd0, // Lustre
        0x0116_1970, // GFS2
        0x7461_636f, // OCFS2
        0x4750_4653, // GPFS
    ];
    match rustix::fs::fstatfs(file) {
        // The kernel's numbers have 32 bits; the type of the field differs between targets.
        #[allow(clippy::unnecessary_cast)]
        Ok(status) => !NETWORK.contains(&(status.f_type as u64 & 0xffff_ffff)),
        Err(_) => false,
    }
}

/// The facts of the file or device at `path`.
pub(crate) async fn facts_of(path: PathBuf) -> Result<ObjectFacts, StoreFault> {
    run_blocking(move || {
        let metadata = std::fs::metadata(&path);
        let metadata =
            metadata.map_err(|error| StoreFault::of("read the size of", &path, error))?;
        match metadata.is_dir() {
            true => Err(StoreFault::directory(&path)),
            false => Ok(ObjectFacts::new(&metadata)),
        }
    })
    .await
}
