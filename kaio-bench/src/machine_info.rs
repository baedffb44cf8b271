//! [`Machine`], [`Place`] and [`Disk`]: describe where something was measured.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use serde::{Deserialize, Serialize};

use crate::{Result, machine_load};

/// Describes the machine, and the time of the measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Release and version of the kernel.
    pub kernel: String,
    /// Model of the CPU.
    pub cpu: String,
    /// CPUs available to the process.
    pub cores: usize,
    /// Memory in bytes.
    pub memory: u64,
    /// Version of tokio-kaio.
    pub tokio_kaio: String,
    /// Start of the measurement, in UTC.
    pub date: String,
    /// Share of all CPUs' time, 0 to 1, that other processes used right before the measurement. `None` if
    /// unknown.
    pub others: Option<f64>,
}

impl Machine {
    /// Describes this machine. Sleeps for 300 ms to measure the load of other processes.
    pub fn detect() -> Machine {
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
            // All crates of the workspace share one version.
            tokio_kaio: env!("CARGO_PKG_VERSION").into(),
            date: format!("{:.0}", jiff::Timestamp::now()),
            others: machine_load::background_load(),
        }
    }
}

/// Describes the file system of a directory or file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Name in tables: `disk`, `tmpfs`.
    pub name: String,
    /// Path of the directory or file.
    pub dir: PathBuf,
    /// Type of the file system.
    pub file_system: String,
    /// Mount source: mostly a device.
    pub source: String,
    /// Name of the device, its I/O scheduler and whether it is rotational.
    pub device: Option<String>,
}

impl Place {
    /// Describes the file system of `dir`, an existing directory or file. The name is `disk` for a device,
    /// else the type of the file system; names are not unique.
    ///
    /// # Errors
    ///
    /// If `dir` does not exist, or `/proc/self/mountinfo` can't be read.
    pub fn of(dir: &Path) -> Result<Place> {
        let failed = |error| format!("{}: {error}", dir.display());
        let dir = dir.canonicalize().map_err(failed)?;
        let mounts = fs::read("/proc/self/mountinfo")?;
        let mount = Mount::of(&dir, &mounts)
            .ok_or_else(|| format!("no mount contains {}", dir.display()))?;
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
    /// Finds the mount of `dir`: the longest mount point that is a prefix of it, and the last of equal ones,
    /// which hides the others. `mounts` is bytes, since any mount may have a path that is not UTF-8.
    fn of(dir: &Path, mounts: &[u8]) -> Option<Mount> {
        let mounts = mounts.split(|byte| *byte == b'\n').filter_map(Mount::parse);
        mounts
            .filter(|mount| dir.starts_with(&mount.at))
            .max_by_key(|mount| mount.at.as_os_str().len())
    }

    fn parse(line: &[u8]) -> Option<Mount> {
        let mut fields = line.split(|byte| *byte == b' ');
        let at = unescape(fields.nth(4)?);
        // A variable number of optional fields ends with "-".
        fields.find(|field| *field == b"-")?;
        let text = |field| String::from_utf8_lossy(&unescape(field)).into_owned();
        Some(Mount {
            at: OsString::from_vec(at).into(),
            file_system: text(fields.next()?),
            source: text(fields.next()?),
        })
    }
}

/// Decodes the octal escapes of `mountinfo`: space, tab, newline and backslash.
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

/// Describes a block device from sysfs. For a partition, the queue attributes are those of the whole
/// disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Name of the device: `sda2`.
    pub name: String,
    /// Name of the whole disk: `sda`.
    pub whole: String,
    /// Model. `None` for virtual disks.
    pub model: Option<String>,
    /// Size in bytes.
    pub size: u64,
    /// Logical block size in bytes; 0 if unknown.
    pub logical_block: u64,
    /// Available I/O schedulers, the active one in brackets.
    pub scheduler: String,
    /// Whether the device reports itself as rotational.
    pub rotational: bool,
}

impl Disk {
    /// Describes the device with this device number (`st_rdev`, `st_dev`). `None` if sysfs has no such
    /// device.
    pub fn of(device: u64) -> Option<Disk> {
        let (major, minor) = (libc::major(device), libc::minor(device));
        Disk::from_number(&format!("{major}:{minor}"))
    }

    /// Describes the block device at `path`, or the one under the file system of `path`. `None` if there is
    /// none, or `path` does not exist.
    pub fn under(path: &Path) -> Option<Disk> {
        let metadata = fs::metadata(path).ok()?;
        if metadata.file_type().is_block_device() {
            return Disk::of(metadata.rdev());
        }
        Disk::of(metadata.dev()).or_else(|| {
            // File systems such as btrfs have their own device number.
            let mounts = fs::read("/proc/self/mountinfo").ok()?;
            let mount = Mount::of(&path.canonicalize().ok()?, &mounts)?;
            Disk::at_special_file(Path::new(&mount.source))
        })
    }

    /// Describes the device of the special file at `path`.
    fn at_special_file(path: &Path) -> Option<Disk> {
        // `st_rdev` is 0 for other files.
        Disk::of(fs::metadata(path).ok()?.rdev())
    }

    fn from_number(number: &str) -> Option<Disk> {
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
            // Always in units of 512 bytes.
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
    fn a_directory_belongs_to_the_mount_with_the_longest_prefix() {
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
    fn a_mount_point_need_not_be_utf8() {
        let dir = PathBuf::from(OsString::from_vec(b"/mnt/\xff\\040/blocks".to_vec()));
        let mount = Mount::of(&dir, MOUNTS).unwrap();
        assert_eq!(mount.source, "/dev/my disk");
    }

    #[test]
    fn a_place_has_the_description_of_its_disk() {
        let Some(disk) = Disk::of(fs::metadata(".").unwrap().dev()) else {
            eprintln!("skipped: the build directory is not on a block device");
            return;
        };
        assert!(disk.size > 0 && disk.logical_block >= 512, "{disk:?}");
        let place = Place::of(Path::new(".")).unwrap();
        assert_eq!(place.device, Some(disk.to_string()));
    }

    #[test]
    fn this_machine_has_a_description() {
        let machine = Machine::detect();
        assert!(machine.cores > 0 && machine.memory > 0);
        assert!(!machine.kernel.trim().is_empty());
        let place = Place::of(Path::new(".")).unwrap();
        assert!(!place.file_system.is_empty());
    }
}
