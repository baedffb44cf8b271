//! Directories to test in, and their file systems.

use std::env;
use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// Environment variable: directories to test in instead of the build's disk and tmpfs, separated by colons.
const DIRS: &str = "KAIO_TEST_DIRS";

/// A directory in each of `KAIO_TEST_DIRS`; by default one on the disk and one on tmpfs.
pub fn test_dirs() -> Vec<TempDir> {
    let given = dirs_from_env();
    if !given.is_empty() {
        return given;
    }
    [Some(disk_dir()), tmpfs_dir()]
        .into_iter()
        .flatten()
        .collect()
}

/// A new directory in each directory of `KAIO_TEST_DIRS`.
pub fn dirs_from_env() -> Vec<TempDir> {
    let dirs = env::var_os(DIRS).unwrap_or_default();
    env::split_paths(&dirs)
        .filter(|dir| !dir.as_os_str().is_empty())
        .map(|dir| {
            let made = tempfile::tempdir_in(&dir);
            made.unwrap_or_else(|error| panic!("{DIRS}: {}: {error}", dir.display()))
        })
        .collect()
}

/// A directory on the disk of the build, where direct I/O completes after the submission, as on a real
/// device. With `KAIO_TEST_DIRS`, a directory in the first of them.
pub fn disk_dir() -> TempDir {
    let given = dirs_from_env().into_iter().next();
    given.unwrap_or_else(|| tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
}

/// A directory on tmpfs, where direct I/O completes inside the submission. `None`, with a line that
/// says so, if no tmpfs supports direct I/O (Linux before 6.6).
pub fn tmpfs_dir() -> Option<TempDir> {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    let shm = Path::new("/dev/shm");
    let usable = file_system(shm) == Some(TMPFS_MAGIC);
    let dir = usable.then(|| tempfile::tempdir_in(shm).ok()).flatten();
    let direct = dir.filter(|dir| {
        let mut options = OpenOptions::new();
        options
            .write(true)
            .create(true)
            .custom_flags(libc::O_DIRECT);
        let probe = dir.path().join("probe");
        options.open(&probe).is_ok() && fs::remove_file(probe).is_ok()
    });
    if direct.is_none() {
        eprintln!("skipped on tmpfs: /dev/shm is none, or can't do direct I/O");
    }
    direct
}

/// The magic number of ext4, for [`file_system`].
pub const EXT4_MAGIC: i64 = 0xef53;

/// The magic number of the file system of `path`.
pub fn file_system(path: &Path) -> Option<i64> {
    #[allow(clippy::useless_conversion)] // its width differs between targets
    statfs(path).ok().map(|status| status.f_type.into())
}

/// The free blocks of the file system of `path`.
pub fn free_blocks(path: &Path) -> u64 {
    #[allow(clippy::useless_conversion)] // its width differs between targets
    statfs(path).unwrap().f_bfree.into()
}

fn statfs(path: &Path) -> io::Result<libc::statfs> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: plain numbers, for which zero is a value.
    let mut status: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a string that ends with 0, and a structure of ours to write to.
    match unsafe { libc::statfs(path.as_ptr(), &raw mut status) } {
        0 => Ok(status),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes a file with journaled data, for which ext4 accepts `O_DIRECT` and ignores it. On a mount with
/// `data=journal` every file is one.
pub fn journaled(path: &Path) -> Result<(), String> {
    if file_system(path.parent().unwrap()) != Some(EXT4_MAGIC) {
        return Err(format!(
            "data are journaled on ext4, which {path:?} is not on"
        ));
    }
    fs::write(path, []).unwrap();
    if statx_alignment(&fs::File::open(path).unwrap()) == Some(0) {
        return Ok(());
    }
    let chattr = Command::new("chattr").arg("+j").arg(path).output();
    match chattr {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().into()),
        Err(error) => Err(format!("chattr: {error}")),
    }
}

/// The alignment of offsets according to `statx`. 0: no direct I/O; `None`: not reported.
pub fn statx_alignment(file: &fs::File) -> Option<u32> {
    // SAFETY: plain numbers, for which zero is a value.
    let mut status: libc::statx = unsafe { std::mem::zeroed() };
    let (fd, flags, wanted) = (file.as_raw_fd(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN);
    // SAFETY: an empty string, and a structure of ours to write to.
    let code = unsafe { libc::statx(fd, c"".as_ptr(), flags, wanted, &mut status) };
    let reported = code == 0 && status.stx_mask & libc::STATX_DIOALIGN != 0;
    reported.then_some(status.stx_dio_offset_align)
}
