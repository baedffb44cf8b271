//! Functions that these tests share.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::thread;
use std::time::Duration;

use assert_cmd::Command;
use tempfile::TempDir;

/// An empty directory on the file system of the build.
pub(crate) struct Dir(TempDir);

impl Dir {
    pub(crate) fn new() -> Dir {
        Dir(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// Creates a file with these bytes.
    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.join(name)).unwrap()
    }

    /// The sorted names of the entries, including hidden ones.
    pub(crate) fn names(&self) -> Vec<String> {
        names(self.path())
    }

    /// Runs `kaio cp` with these arguments in the directory.
    pub(crate) fn cp(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs `kaio cp` under a limit that the shell sets.
    pub(crate) fn limited_cp(&self, limit: &str, args: &str) -> Output {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{limit}; exec \"$0\" cp {args}")]);
        let shell = shell.arg(kaio()).current_dir(self.path());
        shell.output().unwrap()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(kaio());
        command.arg("cp").args(args).current_dir(self.path());
        command
    }

    /// Runs `kaio cp`, which must succeed; returns standard error.
    pub(crate) fn copies(&self, args: &[&str]) -> String {
        let output = self.cp(args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
        said
    }

    /// Runs `kaio cp`, which must fail, print all of `words`, and change no file.
    pub(crate) fn refuses(&self, args: &[&str], words: &[&str]) {
        let before = tree(self.path());
        let output = self.cp(args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.starts_with("error: "), "{said}");
        for word in words {
            assert!(said.contains(word), "{args:?}: no {word:?} in: {said}");
        }
        assert_eq!(text(&output.stdout), "");
        assert_eq!(tree(self.path()), before);
    }
}

pub(crate) fn kaio() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_kaio"))
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<_> = entries.map(|entry| name(entry.unwrap())).collect();
    names.sort_unstable();
    names
}

/// All entries below a directory: path, mode, length, inode, modification time.
pub(crate) fn tree(dir: &Path) -> Vec<(PathBuf, u32, u64, u64, i64)> {
    let mut all = Vec::new();
    for name in names(dir) {
        let path = dir.join(name);
        let it = fs::symlink_metadata(&path).unwrap();
        if it.is_dir() {
            all.extend(tree(&path));
        }
        all.push((path, it.mode(), it.len(), it.ino(), it.mtime_nsec()));
    }
    all
}

/// The bytes that are allocated for a file.
pub(crate) fn allocated(path: impl AsRef<Path>) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

pub(crate) fn mode(path: impl AsRef<Path>) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Unmounts the file system at `at`. It is detached if it is still in use after five seconds.
pub(crate) fn unmount(at: &Path) {
    let umount = |args: &[&str]| Command::new("umount").args(args).arg(at).output();
    for _ in 0..50 {
        if umount(&[]).is_ok_and(|output| output.status.success()) {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    let _ = umount(&["--lazy"]);
}

/// Pseudorandom numbers, the same in each run.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.next().to_le_bytes());
        let mut bytes: Vec<u8> = words.take(count.div_ceil(8)).flatten().collect();
        bytes.truncate(count);
        bytes
    }
}

/// `count` pseudorandom bytes.
pub(crate) fn bytes(count: usize) -> Vec<u8> {
    Numbers(count as u64).bytes(count)
}
