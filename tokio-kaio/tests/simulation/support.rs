//! Disks, contexts and buffers for the tests.

use std::fs::OpenOptions;
use std::io;

use tokio_kaio::simulation::{SimDisk, SimDiskBuilder};
use tokio_kaio::{
    AioCommandError, AioContext, AioContextBuilder, AioContextHandle, AlignedBuf, File,
};

/// A block of the default disk.
pub(crate) const BLOCK: u64 = 4096;

/// A disk, and a context on it.
pub(crate) struct Simulated {
    pub(crate) disk: SimDisk,
    pub(crate) context: AioContext,
    pub(crate) handle: AioContextHandle,
}

impl Simulated {
    /// Makes a disk of this seed with the defaults, and a context on it.
    pub(crate) fn new(seed: u64) -> Simulated {
        Simulated::of(SimDisk::builder().seed(seed))
    }

    pub(crate) fn of(builder: SimDiskBuilder) -> Simulated {
        Simulated::on(builder.build())
    }

    /// Makes a context on `disk`.
    pub(crate) fn on(disk: SimDisk) -> Simulated {
        let builder = AioContextBuilder::new(128).simulated(&disk);
        let (context, handle) = builder.build().unwrap();
        Simulated {
            disk,
            context,
            handle,
        }
    }

    /// Cuts the power, and boots what is left.
    pub(crate) fn rebooted(&self) -> Simulated {
        Simulated::on(self.disk.power_cut().boot())
    }

    /// Opens a file for reading and writing, and creates it if it is not there.
    pub(crate) async fn file(&self, name: &str) -> File {
        open(&self.disk, name).await.unwrap()
    }
}

/// Opens a file for reading and writing, and creates it if it is not there.
pub(crate) async fn open(disk: &SimDisk, name: &str) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    File::open_with(&options, disk.path().join(name), false).await
}

/// A buffer of `blocks` blocks that are full of `byte`.
pub(crate) fn blocks(byte: u8, blocks: usize) -> AlignedBuf {
    let mut buffer = AlignedBuf::new(blocks * BLOCK as usize).unwrap();
    buffer.as_mut().fill(byte);
    buffer
}

/// The errno of a failed operation.
pub(crate) fn errno(result: Result<impl Sized, AioCommandError>) -> i32 {
    let error = result.err().expect("the operation should fail");
    error
        .raw_os_error()
        .unwrap_or_else(|| panic!("{error}: no errno"))
}

/// The errno of a failed call, also below a text.
pub(crate) fn io_errno(result: io::Result<impl Sized>) -> i32 {
    let error = result.err().expect("the call should fail");
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(of) = source {
        if let Some(errno) = of
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
        {
            return errno;
        }
        source = match of.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => of.source(),
        };
    }
    panic!("{error}: no errno");
}
