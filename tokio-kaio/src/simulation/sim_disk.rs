//! [`SimDisk`]: a disk in memory, on which faults and power cuts can be tried.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::disk::Disk;
use super::mount_points;
use super::{DiskConfig, DiskImage, DiskState, DiskTrace, Fault};

/// A disk with a file system, in memory, that fails as real ones do: by a seed, and when a test says so.
///
/// A program uses it as it is: it opens files below [`path`](SimDisk::path) instead of another directory, and
/// runs its requests on a context of
/// [`AioContextBuilder::simulated`](crate::AioContextBuilder::simulated). `File`, `StagedFile`, streams, batches,
/// groups and deadlines work as on other files. So do [`sync_dir`](crate::sync_dir), [`rename`](crate::rename),
/// [`remove_file`](crate::remove_file), [`read_dir`](crate::read_dir) and the other functions of this crate that
/// take a path. `std::fs` and `tokio::fs` do not know the disk: they find no such file. In a relative path or
/// behind a symbolic link the disk is not found either.
///
/// A clone is another owner of the same disk. The disk is freed when its last owner, file and context are gone.
///
/// # What survives a power cut
///
/// [`power_cut`](SimDisk::power_cut) returns a [`DiskImage`], which boots as a new disk. The image has
///
/// - the data that a sync has made durable: [`sync_all`](crate::File::sync_all),
///   [`sync_data`](crate::File::sync_data), and writes with [`DSYNC`](crate::WriteFlags::DSYNC),
///   [`SYNC`](crate::WriteFlags::SYNC) or to a file that was opened with `is_sync`;
/// - of other data, in each sector one of the versions that were written since, or the durable one: any subset
///   of the writes, also of one write;
/// - the names that a [`sync_dir`](crate::sync_dir) has made durable, and of other changes of names any or none.
///
/// # Time
///
/// Requests take time by tokio's clock. With a paused clock ([`tokio::time::pause`]), a simulated hour takes as
/// long as its requests take to compute. tokio's timers have a resolution of 1 ms: a request completes at the
/// first millisecond after it is due, in the order of the times at which requests are due.
/// In another runtime, the time of the disk goes on from where it was.
///
/// # Determinism
///
/// On a current-thread runtime with a paused clock the same program and the same [seed](SimDisk::seed) give the
/// same [trace](SimDisk::trace), if the program itself makes no random choice. `tokio::select!` makes one,
/// unless it is `biased`. Calls on the disk use no thread.
///
/// # Descriptors
///
/// The descriptor of a simulated file is a placeholder: `fstat(2)` works, and each read, write and sync by other
/// means than this crate fails with `EBADF`. Its inode number, times and permissions mean nothing.
///
/// # Examples
///
/// ```
/// use tokio_kaio::simulation::SimDisk;
/// use tokio_kaio::{AioContextBuilder, File, WriteFlags, sync_dir, try_exists};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let disk = SimDisk::builder().seed(7).build();
/// let (context, handle) = AioContextBuilder::new(32).simulated(&disk).build()?;
/// let log = File::create(disk.path().join("log"), false).await?;
/// log.write_bytes_at(&handle, 0, b"record", WriteFlags::DSYNC).await?;
/// sync_dir(disk.path()).await?; // without it, the file may have no name
///
/// let disk = disk.power_cut().boot();
/// let (context, handle) = AioContextBuilder::new(32).simulated(&disk).build()?;
/// let log = File::open(disk.path().join("log"), false).await?;
/// let mut record = [0; 6];
/// log.read_bytes_at(&handle, 0, &mut record, Default::default()).await?;
/// assert_eq!(&record, b"record");
/// # drop(context);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SimDisk {
    disk: Arc<Disk>,
}

impl SimDisk {
    pub(super) fn new(config: DiskConfig) -> SimDisk {
        SimDisk {
            disk: mount_points::mount(DiskState::new(config)),
        }
    }

    pub(super) fn boot(config: DiskConfig, image: &DiskImage) -> SimDisk {
        SimDisk {
            disk: mount_points::mount(DiskState::boot(config, image)),
        }
    }

    pub(crate) fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// Returns the root directory of the disk: an absolute path that exists in this process only.
    ///
    /// It is `/simulated-disk/` and a number that no other disk has had, or the name that
    /// [`SimDiskBuilder::name`](crate::simulation::SimDiskBuilder::name) has set. A disk with a name passes its
    /// path on to the one that boots from its image; the path leads to the new disk then.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::simulation::SimDisk;
    /// use tokio_kaio::{create_dir, read_dir};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let disk = SimDisk::builder().build();
    /// create_dir(disk.path().join("tables")).await?;
    /// assert_eq!(read_dir(disk.path()).await?, ["tables"]);
    /// assert!(!disk.path().exists()); // std::fs does not know it
    /// # Ok(())
    /// # }
    /// ```
    pub fn path(&self) -> &Path {
        self.disk.mount_point()
    }

    /// Returns the seed, from which all random choices follow.
    pub fn seed(&self) -> u64 {
        self.disk.lock().state.config().seed
    }

    /// Cuts the power. Returns what the disk has kept.
    ///
    /// Requests in flight fail with `EIO`, and so does every later call on this disk. Each of these requests
    /// may have written any of its sectors. If the power is off, returns the image of the cut again.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::create_dir;
    /// use tokio_kaio::simulation::SimDisk;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let disk = SimDisk::builder().build();
    /// let image = disk.power_cut();
    /// create_dir(disk.path().join("tables")).await.unwrap_err();
    /// let disk = image.boot();
    /// create_dir(disk.path().join("tables")).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn power_cut(&self) -> DiskImage {
        self.disk.power_cut()
    }

    /// Cuts the power after this event, as [`events`](SimDisk::events) counts them; at once, if there were as
    /// many already. [`image`](SimDisk::image) returns what the disk has kept.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::simulation::SimDisk;
    /// use tokio_kaio::{AioContextBuilder, File, WriteFlags};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let disk = SimDisk::builder().build();
    /// let (context, handle) = AioContextBuilder::new(32).simulated(&disk).build()?;
    /// let file = File::create(disk.path().join("log"), false).await?;
    /// let block = tokio_kaio::AlignedBuf::new(4096)?;
    /// disk.cut_power_after(disk.events() + 1);
    /// let write = file.write_at(&handle, 0, &block, 4096, WriteFlags::empty());
    /// write.await.unwrap_err(); // it has begun
    /// let disk = disk.image().expect("the power was cut").boot();
    /// # drop((context, disk));
    /// # Ok(())
    /// # }
    /// ```
    pub fn cut_power_after(&self, event: u64) {
        self.disk.cut_power_after(event);
    }

    /// Returns what the power cut has left. `None`: the power is on.
    pub fn image(&self) -> Option<DiskImage> {
        self.disk.image()
    }

    /// Waits until the power is cut.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::simulation::SimDisk;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let disk = SimDisk::builder().build();
    /// let other = disk.clone();
    /// let cut = tokio::spawn(async move { other.power_cut() });
    /// disk.power_lost().await; // the workload ends here
    /// # drop(cut);
    /// # }
    /// ```
    pub async fn power_lost(&self) {
        self.disk.power_lost().await;
    }

    /// Returns the number of events so far. A call, such as an open or a rename, is one event. A request, such as
    /// a write or a sync, is two: it begins, and it finishes or is cancelled.
    pub fn events(&self) -> u64 {
        self.disk.lock().state.events()
    }

    /// Adds a fault, which counts operations from now on.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::create_dir;
    /// use tokio_kaio::simulation::{Fault, Operations, SimDisk};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let disk = SimDisk::builder().build();
    /// disk.add_fault(Fault::io_error(Operations::NAMES).nth(2));
    /// create_dir(disk.path().join("a")).await?;
    /// create_dir(disk.path().join("b")).await.unwrap_err();
    /// # Ok(())
    /// # }
    /// ```
    pub fn add_fault(&self, fault: Fault) {
        self.disk.lock().state.add_fault(fault);
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.disk.lock().state.clear_faults();
    }

    /// Returns the last calls and requests, in order. Their number is limited
    /// ([`trace_events`](crate::simulation::SimDiskBuilder::trace_events)).
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_kaio::create_dir_blocking;
    /// use tokio_kaio::simulation::SimDisk;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let disk = SimDisk::builder().build();
    /// create_dir_blocking(disk.path().join("tables"))?;
    /// println!("{}", disk.trace());
    /// # Ok(())
    /// # }
    /// ```
    pub fn trace(&self) -> DiskTrace {
        self.disk.lock().state.trace()
    }

    /// Returns a hash of all calls and requests so far, with their times and results. Two runs that did the same
    /// have the same hash.
    pub fn trace_hash(&self) -> u64 {
        self.disk.lock().state.trace_hash()
    }
}

impl DiskImage {
    /// Boots a disk with this content: the properties of the disk before, a seed that follows from its seed, and
    /// no faults. [`SimDiskBuilder::boot`](crate::simulation::SimDiskBuilder::boot) sets others. An image may be
    /// booted several times.
    ///
    /// If the disk before had a [name](crate::simulation::SimDiskBuilder::name), the new one has its path. While
    /// another disk that has booted from this image has power, that one keeps the path, and the new one has a path
    /// with a number.
    ///
    /// # Examples
    ///
    /// See [`SimDisk::power_cut`].
    pub fn boot(&self) -> SimDisk {
        SimDisk::boot(self.config(), self)
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk")
            .field("path", &self.path())
            .field("seed", &self.seed())
            .field("events", &self.events())
            .finish_non_exhaustive()
    }
}
