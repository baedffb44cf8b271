//! [`file_len`]: the length of a file or a block device.

use std::fs::{self, Metadata};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use crate::op::OpenFile;

/// Returns the length of a file or a block device, in bytes. May wait for the disk.
///
/// # Errors
///
/// Those of `fstat(2)`; for a block device, where there is no sysfs, those of `lseek(2)`.
pub(super) fn file_len(file: &OpenFile) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if !metadata.file_type().is_block_device() {
        return Ok(metadata.len());
    }
    match device_len(&metadata) {
        Some(len) => Ok(len),
        // Moves the position, which duplicates of the descriptor share. The library has no use for it.
        None => file.file().seek(SeekFrom::End(0)),
    }
}

/// The length of a block device, from sysfs.
fn device_len(device: &Metadata) -> Option<u64> {
    const SECTOR: u64 = 512; // on every device
    let (major, minor) = (libc::major(device.rdev()), libc::minor(device.rdev()));
    let sectors = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/size")).ok()?;
    sectors.trim().parse::<u64>().ok()?.checked_mul(SECTOR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    /// A block device that this process may open, of a constant length: other programs set up loop devices.
    fn block_device() -> Option<File> {
        let devices = fs::read_dir("/sys/class/block").ok()?;
        let names = devices.filter_map(|device| device.ok()?.file_name().into_string().ok());
        let constant = names.filter(|name| !name.starts_with("loop"));
        constant
            .filter_map(|name| File::open(format!("/dev/{name}")).ok())
            .next()
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens devices")]
    fn sysfs_and_the_end_of_a_block_device_agree() {
        let Some(mut device) = block_device() else {
            return eprintln!("skipped: this process may open no block device");
        };
        let end = device.seek(SeekFrom::End(0)).unwrap();
        device.rewind().unwrap();
        if let Some(len) = device_len(&device.metadata().unwrap()) {
            assert_eq!(len, end);
        }
        assert_eq!(file_len(&OpenFile::new(device)).unwrap(), end);
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files")]
    fn the_length_of_a_file_is_in_its_metadata() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(5000).unwrap();
        assert_eq!(file_len(&OpenFile::new(file)).unwrap(), 5000);
    }
}
