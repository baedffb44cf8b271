//! [`SimDiskBuilder`]: makes a [`SimDisk`] with any properties.

use std::time::Duration;

use super::mount_name::MountName;
use super::{Bandwidth, DiskConfig, DiskImage, FaultPlan, Latency, NameDurability, SimDisk};

/// Makes a [`SimDisk`] with any properties.
///
/// The default is a flash disk of 1 TiB without faults: sectors of 4 KiB, which are written whole or not at all,
/// a volatile write cache, reads of 60 to 120 µs, writes of 15 to 40 µs, and flushes of 200 to 800 µs.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tokio_kaio::simulation::{Latency, SimDisk};
///
/// let disk = SimDisk::builder()
///     .seed(7)
///     .size(1 << 30)
///     .sector(512)
///     .write_latency(Latency::constant(Duration::from_millis(5)))
///     .build();
/// assert_eq!(disk.seed(), 7);
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder makes no disk until `build` or `boot` is called"]
pub struct SimDiskBuilder {
    /// Without the name.
    config: DiskConfig,
    name: Option<String>,
}

impl SimDisk {
    /// Returns a builder with the defaults.
    pub fn builder() -> SimDiskBuilder {
        SimDiskBuilder::new()
    }
}

impl SimDiskBuilder {
    fn new() -> SimDiskBuilder {
        let micros = Duration::from_micros;
        SimDiskBuilder {
            config: DiskConfig {
                read_latency: Latency::uniform(micros(60), micros(120)),
                write_latency: Latency::uniform(micros(15), micros(40)),
                flush_latency: Latency::uniform(micros(200), micros(800)),
                ..DiskConfig::default()
            },
            name: None,
        }
    }

    /// Sets the seed, from which all random choices follow. 0 by default.
    pub fn seed(mut self, seed: u64) -> SimDiskBuilder {
        self.config.seed = seed;
        self
    }

    /// Sets the name of the disk: its [path](SimDisk::path) becomes `/simulated-disk/NAME`. By default the path
    /// has a number that no other disk of the process has had.
    ///
    /// With a name the path is the same in every run, for programs that write it to a file or print it. A disk
    /// that [boots](DiskImage::boot) from an image of this one has the same path, so that a program that has
    /// stored the path finds its files there.
    ///
    /// A name is taken until its disk, all images of it and all disks that have booted from them are gone.
    ///
    /// # Panics
    ///
    /// If the name is empty, a number, `.` or `..`, has a slash, or is longer than 255 bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::path::Path;
    /// use tokio_kaio::simulation::SimDisk;
    ///
    /// let disk = SimDisk::builder().name("sales").build();
    /// assert_eq!(disk.path(), Path::new("/simulated-disk/sales"));
    /// let disk = disk.power_cut().boot();
    /// assert_eq!(disk.path(), Path::new("/simulated-disk/sales"));
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> SimDiskBuilder {
        let name = name.into();
        let is_number = name.bytes().all(|byte| byte.is_ascii_digit()); // also of an empty name
        let is_entry = !matches!(&*name, "." | "..") && !name.contains('/') && name.len() <= 255;
        assert!(
            is_entry && !is_number,
            "a simulated disk can't have the name {name:?}: it has to be a file name of 1 to 255 bytes that is \
             no number"
        );
        self.name = Some(name);
        self
    }

    /// Sets the size in bytes, 1 TiB by default. What files need beyond it fails with `ENOSPC`. The disk takes
    /// memory for what was written, not for its size.
    pub fn size(mut self, bytes: u64) -> SimDiskBuilder {
        self.config.size = bytes;
        self
    }

    /// Sets the size of a sector in bytes: the [alignment](crate::File::alignment) of direct I/O. 4096 by
    /// default. The [atomic write unit](SimDiskBuilder::atomic_write_unit) becomes one sector.
    pub fn sector(mut self, bytes: u32) -> SimDiskBuilder {
        self.config.sector = bytes;
        self.config.atomic_unit = bytes;
        self
    }

    /// Sets the size in bytes of what the disk writes whole or not at all, one sector by default. A power cut
    /// tears larger writes there. If the unit is larger than a sector,
    /// [`File::atomic_writes`](crate::File::atomic_writes) returns it.
    pub fn atomic_write_unit(mut self, bytes: u32) -> SimDiskBuilder {
        self.config.atomic_unit = bytes;
        self
    }

    /// Sets whether the disk has a volatile write cache (the default). Without one, a direct write is durable
    /// when it completes. Names, lengths and writes through the page cache need their syncs all the same.
    pub fn volatile_cache(mut self, volatile: bool) -> SimDiskBuilder {
        self.config.volatile_cache = volatile;
        self
    }

    /// Sets whether a power cut may keep a write and lose an earlier one, if neither was flushed (the default).
    pub fn reorder_writes(mut self, reorder: bool) -> SimDiskBuilder {
        self.config.reorder = reorder;
        self
    }

    /// Sets whether names survive as in the journals of ext4 and XFS: in the order of the calls, and with
    /// the [`sync_all`](crate::File::sync_all) of their file. By default, as POSIX has it, only
    /// [`sync_dir`](crate::sync_dir) makes names durable, and a power cut keeps any of the others.
    pub fn journaled_names(mut self, journaled: bool) -> SimDiskBuilder {
        self.config.names = match journaled {
            true => NameDurability::Journal,
            false => NameDurability::DirectorySync,
        };
        self
    }

    /// Sets how long reads take, without the transfer of their data.
    pub fn read_latency(mut self, latency: Latency) -> SimDiskBuilder {
        self.config.read_latency = latency;
        self
    }

    /// Sets how long writes take, without the transfer of their data.
    pub fn write_latency(mut self, latency: Latency) -> SimDiskBuilder {
        self.config.write_latency = latency;
        self
    }

    /// Sets how long a flush of the write cache takes: syncs, and writes with `DSYNC` beyond the write.
    pub fn flush_latency(mut self, latency: Latency) -> SimDiskBuilder {
        self.config.flush_latency = latency;
        self
    }

    /// Sets how fast reads transfer their data. Unlimited by default.
    pub fn read_bandwidth(mut self, bandwidth: Bandwidth) -> SimDiskBuilder {
        self.config.read_bandwidth = Some(bandwidth);
        self
    }

    /// Sets how fast writes transfer their data. Unlimited by default.
    pub fn write_bandwidth(mut self, bandwidth: Bandwidth) -> SimDiskBuilder {
        self.config.write_bandwidth = Some(bandwidth);
        self
    }

    /// Sets the number of requests that the disk works on at a time, 32 by default. Others wait.
    pub fn queue_depth(mut self, requests: u32) -> SimDiskBuilder {
        self.config.queue_depth = requests;
        self
    }

    /// Sets the faults. None by default.
    pub fn faults(mut self, faults: FaultPlan) -> SimDiskBuilder {
        self.config.faults = faults;
        self
    }

    /// Sets how many events the [trace](SimDisk::trace) keeps, 65,536 by default. The hash of the trace covers
    /// all of them.
    pub fn trace_events(mut self, events: usize) -> SimDiskBuilder {
        self.config.trace_events = events;
        self
    }

    /// Makes an empty disk.
    ///
    /// # Panics
    ///
    /// If the sector is not 512, 1024, 2048 or 4096 bytes; if the atomic write unit is not a power of two, less
    /// than a sector or more than 64 KiB; if the queue depth is 0; if the [name](SimDiskBuilder::name) is taken.
    pub fn build(self) -> SimDisk {
        let name = self.name.as_deref().map(take_name);
        self.build_as(name)
    }

    /// Makes an empty disk of this name, whatever the builder has.
    pub(super) fn build_as(self, name: Option<MountName>) -> SimDisk {
        self.check();
        SimDisk::new(DiskConfig {
            name,
            ..self.config
        })
    }

    /// Makes a disk with the content of `image`. If the builder has no name, the disk has the path that
    /// [`DiskImage::boot`] would give it.
    ///
    /// # Panics
    ///
    /// As [`build`](SimDiskBuilder::build).
    pub fn boot(self, image: &DiskImage) -> SimDisk {
        self.check();
        let of_image = image.config().name;
        let name = match (self.name.as_deref(), of_image) {
            (Some(name), Some(of_image)) if name == of_image.as_str() => Some(of_image),
            (Some(name), _) => Some(take_name(name)),
            (None, of_image) => of_image,
        };
        let config = DiskConfig {
            name,
            ..self.config
        };
        SimDisk::boot(config, image)
    }

    pub(super) fn chosen_name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    fn check(&self) {
        let DiskConfig {
            sector,
            atomic_unit,
            queue_depth,
            ..
        } = self.config;
        let is_size = |bytes: u32, largest| bytes.is_power_of_two() && bytes <= largest;
        assert!(
            is_size(sector, 4096) && sector >= 512,
            "a simulated disk has sectors of 512, 1024, 2048 or 4096 bytes, not {sector}"
        );
        assert!(
            is_size(atomic_unit, 64 << 10) && atomic_unit >= sector,
            "the atomic write unit of a simulated disk is a power of two from {sector} (a sector) to 65536 \
             bytes, not {atomic_unit}"
        );
        assert!(
            queue_depth > 0,
            "a simulated disk has a queue depth of at least 1"
        );
    }
}

/// Takes the name of a new disk.
pub(super) fn take_name(name: &str) -> MountName {
    MountName::take(name).unwrap_or_else(|| {
        panic!(
            "a simulated disk of the name {name:?} exists already, or an image of one: drop it, or choose another \
             name"
        )
    })
}
