//! [`Machine`], [`Place`] and [`Disk`]: where something was measured. All of it is read from the
//! system.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use serde::{Deserialize, Serialize};

use crate::{Result, busy};

/// The machine, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Release and version of the kernel.
    pub kernel: String,
    /// Model of the CPU.
    pub cpu: String,
    /// Cores that the process may use.
    pub cores: usize,
    /// Memory in bytes.
    pub memory: u64,
    /// Version of tokio-kaio.
    pub tokio_kaio: String,
    /// When the measurement began, in UTC.
    pub date: String,
    /// The share of all CPUs' time that others took right before it, 0 to 1. `None`: not known.
    pub others: Option<f64>,
}

impl Machine {
    /// This machine, now. Sleeps for a moment, to see what others do on it.
    pub fn here() -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let line = |path: &str| read(path).trim().to_owned();
        let field = |path: &str, name: &str| {
            let text = read(path);
            let value = text.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key.trim() == name).then(|| value.trim().to_owned())
            });
            value.unwrap_or_else(|| "unknown".into())
        };
        let memory = field("/proc/meminfo", "MemTotal");
        let kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        Machine {
            kernel: format!(
                "{} {}",
                line("/proc/sys/kernel/osrelease"),
                line("/proc/sys/kernel/version")
            ),
            cpu: field("/proc/cpuinfo", "model name"),
            cores: available_parallelism().map_or(0, usize::from),
            memory: kib * 1024,
            // All crates of the workspace have one version.
            tokio_kaio: env!("CARGO_PKG_VERSION").into(),
            date: format!("{:.0}", jiff::Timestamp::now()),
            others: busy::others(),
        }
    }
}

/// A directory that files lie in, or a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// What it is called in tables: `disk`, `tmpfs`.
    pub name: String,
    /// Its path.
    pub dir: PathBuf,
    /// The file system's type.
    pub file_system: String,
    /// What is mounted there: a device, mostly.
    pub source: String,
    /// What the kernel tells of the device: scheduler, and whether it rotates.
    pub device: Option<String>,
}

impl Place {
    /// The place of `dir`, a directory or a file that exists. Its name is its file system's, for a device
    /// `disk`; the caller sees to it that names differ.
    ///
    /// # Errors
    ///
    /// Where it is not there, or the mounts can't be read.
    pub fn of(dir: &Path) -> Result<Place> {
        let failed = |error| format!("{}: {error}", dir.display());
        let dir = dir.canonicalize().map_err(failed)?;
        let mounts = fs::read("/proc/self/mountinfo")?;
        let mount =
            Mount::of(&dir, &mounts).ok_or_else(|| format!("no mount has {}", dir.display()))?;
        let on_device = mount.source.starts_with("/dev/");
        let name = if on_device {
            "disk"
        } else {
            &mount.file_system
        };
        Ok(Place {
            name: name.into(),
            file_system: mount.file_system,
            source: mount.source,
            device: Disk::under(&dir).map(|disk| disk.to_string()),
            dir,
        })
    }
}

/// A line of `/proc/self/mountinfo`.
struct Mount {
    at: PathBuf,
    file_system: String,
    source: String,
}

impl Mount {
    /// The one that `dir` lies in: of the longest paths that lead there the last, which hides the
    /// others. `mounts` are bytes, as paths are: one of anybody's is enough to make them no text.
    fn of(dir: &Path, mounts: &[u8]) -> Option<Mount> {
        let mounts = mounts.split(|byte| *byte == b'\n').filter_map(Mount::parse);
        mounts
            .filter(|mount| dir.starts_with(&mount.at))
            .max_by_key(|mount| mount.at.as_os_str().len())
    }

    fn parse(line: &[u8]) -> Option<Mount> {
        let mut fields = line.split(|byte| *byte == b' ');
        let at = unescape(fields.nth(4)?);
        // Options come next, as many as there are.
        fields.find(|field| *field == b"-")?;
        let text = |field| String::from_utf8_lossy(&unescape(field)).into_owned();
        Some(Mount {
            at: OsString::from_vec(at).into(),
            file_system: text(fields.next()?),
            source: text(fields.next()?),
        })
    }
}

/// What `mountinfo` writes, where what would be in the way of its columns is octal.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut rest = field;
    let mut bytes = Vec::with_capacity(field.len());
    while let [first, after @ ..] = rest {
        let escaped = match rest {
            [b'\\', code @ ..] => code.get(..3).and_then(octal),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = escaped.map_or(after, |_| &rest[4..]);
    }
    bytes
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

/// A block device, and what the kernel tells of it; of a partition, what it tells of the whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its name: `sda2`.
    pub name: String,
    /// The name of the whole: `sda`.
    pub whole: String,
    /// The model, where there is one: a virtual disk has none.
    pub model: Option<String>,
    /// Bytes that it has.
    pub size: u64,
    /// Bytes of the smallest transfer; 0: not known.
    pub logical_block: u64,
    /// The scheduler, in brackets among those that there are.
    pub scheduler: String,
    /// Whether it says that it rotates.
    pub rotational: bool,
}

impl Disk {
    /// The one of a device number, as `stat` has it. `None`: there is none, or the kernel does not
    /// tell.
    pub fn of(device: u64) -> Option<Disk> {
        let (major, minor) = (libc::major(device), libc::minor(device));
        Disk::numbered(&format!("{major}:{minor}"))
    }

    /// The one that `path` is, or that the file or directory there is on. `None` as above, or nothing is
    /// at `path`.
    pub fn under(path: &Path) -> Option<Disk> {
        let metadata = fs::metadata(path).ok()?;
        if metadata.file_type().is_block_device() {
            return Disk::of(metadata.rdev());
        }
        Disk::of(metadata.dev()).or_else(|| {
            // A file system with a device number of its own, as btrfs.
            let mounts = fs::read("/proc/self/mountinfo").ok()?;
            let mount = Mount::of(&path.canonicalize().ok()?, &mounts)?;
            Disk::at(Path::new(&mount.source))
        })
    }

    /// The one whose special file is at `path`.
    fn at(path: &Path) -> Option<Disk> {
        // Of what is no special file, the number is 0.
        Disk::of(fs::metadata(path).ok()?.rdev())
    }

    fn numbered(number: &str) -> Option<Disk> {
        let device = fs::canonicalize(format!("/sys/dev/block/{number}")).ok()?;
        let whole = device
            .ancestors()
            .find(|dir| dir.join("queue/scheduler").exists())?;
        let read = |path: PathBuf| {
            let text = fs::read_to_string(path).ok()?;
            Some(text.trim().to_owned())
        };
        let number = |path| read(path)?.parse::<u64>().ok();
        let name = |dir: &Path| Some(dir.file_name()?.to_string_lossy().into_owned());
        Some(Disk {
            name: name(&device)?,
            whole: name(whole)?,
            model: read(whole.join("device/model")),
            // In sectors of 512 bytes, whatever its own are.
            size: number(device.join("size")).unwrap_or_default() * 512,
            logical_block: number(whole.join("queue/logical_block_size")).unwrap_or_default(),
            scheduler: read(whole.join("queue/scheduler")).unwrap_or_default(),
            rotational: number(whole.join("queue/rotational")) != Some(0),
        })
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rotates = match self.rotational {
            false => "not rotational",
            true => "rotational",
        };
        write!(f, "{}, scheduler {}, {rotates}", self.whole, self.scheduler)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &[u8] = b"\
22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw
30 22 0:5 / /dev rw,nosuid - devtmpfs udev rw
31 30 0:27 / /dev/shm rw shared:3 - tmpfs tmpfs rw
32 22 8:3 / /mnt/my\\040disk rw shared:4 - xfs /dev/sda3 rw
33 22 0:28 / /mnt/\xff\\134040 rw - ext4 /dev/my\\040disk rw
";

    #[test]
    fn a_directory_is_on_the_mount_with_the_longest_path_to_it() {
        let of = |dir: &[u8]| {
            let dir = PathBuf::from(OsString::from_vec(dir.to_vec()));
            let mount = Mount::of(&dir, MOUNTS).unwrap();
            (mount.file_system, mount.source)
        };
        let is = |file_system: &str, source: &str| (file_system.into(), source.into());
        assert_eq!(of(b"/dev/shm/blocks"), is("tmpfs", "tmpfs"));
        assert_eq!(of(b"/home/user"), is("ext4", "/dev/sda2"));
        assert_eq!(of(b"/mnt/my disk/blocks"), is("xfs", "/dev/sda3"));
    }

    #[test]
    fn a_mount_need_not_be_text() {
        let dir = PathBuf::from(OsString::from_vec(b"/mnt/\xff\\040/blocks".to_vec()));
        let mount = Mount::of(&dir, MOUNTS).unwrap();
        assert_eq!(mount.source, "/dev/my disk");
    }

    #[test]
    fn a_disk_is_told_of_as_a_place_has_it() {
        let Some(disk) = Disk::of(fs::metadata(".").unwrap().dev()) else {
            eprintln!("skipped: the build is on no block device");
            return;
        };
        assert!(disk.size > 0 && disk.logical_block >= 512, "{disk:?}");
        let place = Place::of(Path::new(".")).unwrap();
        assert_eq!(place.device, Some(disk.to_string()));
    }

    #[test]
    fn this_machine_tells_what_it_is() {
        let machine = Machine::here();
        assert!(machine.cores > 0 && machine.memory > 0);
        assert!(!machine.kernel.trim().is_empty());
        let place = Place::of(Path::new(".")).unwrap();
        assert!(!place.file_system.is_empty());
    }
}
