//! Finds out whether a file supports direct I/O, and which alignment it requires.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;

use serde::Serialize;
use tokio_kaio::{AioOpenOptionsExt, Alignment, AlignmentSource};

/// The alignment that direct I/O requires, in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct DirectIoAlignment {
    /// Alignment of the buffer address.
    pub(crate) memory: u64,
    /// Alignment of offset and length.
    pub(crate) offset: u64,
    /// Alignment of offset and length of reads.
    pub(crate) read_offset: u64,
    /// How the alignment was found.
    pub(crate) source: AlignmentOrigin,
}

/// How an alignment was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AlignmentOrigin {
    /// `statx` reports it.
    Statx,
    /// It is the logical block size of the device.
    BlockDevice,
    /// It is the size of the smallest read that succeeded.
    Probed,
    /// It is a default, because the kernel reports none.
    Assumed,
}

impl fmt::Display for AlignmentOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AlignmentOrigin::Statx => "reported by statx",
            AlignmentOrigin::BlockDevice => "the logical block size of the device",
            AlignmentOrigin::Probed => "the smallest read that succeeded",
            AlignmentOrigin::Assumed => "assumed, because the kernel reports none",
        })
    }
}

/// Whether a file supports direct I/O.
pub(crate) struct DirectIoSupport {
    /// Whether direct I/O is supported.
    pub(crate) direct: bool,
    /// The required alignment. `None`: direct I/O is not supported.
    pub(crate) alignment: Option<DirectIoAlignment>,
}

/// Probes the file or device at `path`, which is opened for reading.
///
/// # Errors
///
/// The file can't be opened, or its alignment can't be read.
pub(crate) async fn probe_direct_io(path: &Path) -> io::Result<DirectIoSupport> {
    const NONE: DirectIoSupport = DirectIoSupport {
        direct: false,
        alignment: None,
    };
    let mut options = OpenOptions::new();
    let file = match options.read(true).aio_open(path.into(), false).await {
        Err(error) if error.kind() == ErrorKind::InvalidInput => return Ok(NONE),
        opened => opened?,
    };
    match file.alignment().await {
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(NONE),
        alignment => Ok(DirectIoSupport {
            direct: true,
            alignment: Some(direct_io_alignment(alignment?)),
        }),
    }
}

/// Creates a file in `dir`, and probes it. The caller removes the file.
///
/// # Errors
///
/// Those of [`probe_direct_io`], and the file can't be written.
pub(crate) async fn probe_direct_io_in(dir: &Path) -> io::Result<DirectIoSupport> {
    let path = dir.join("probe");
    // As long as the largest alignment that is probed, and on disk: some file systems keep the first
    // bytes of a file elsewhere, where direct I/O does not reach them.
    fs::write(&path, vec![b'k'; 64 << 10])?;
    fs::File::open(&path)?.sync_all()?;
    probe_direct_io(&path).await
}

fn direct_io_alignment(alignment: Alignment) -> DirectIoAlignment {
    DirectIoAlignment {
        memory: alignment.memory as u64,
        offset: alignment.offset,
        read_offset: alignment.read_offset,
        source: match alignment.source {
            AlignmentSource::Statx => AlignmentOrigin::Statx,
            AlignmentSource::BlockDevice => AlignmentOrigin::BlockDevice,
            AlignmentSource::Probed => AlignmentOrigin::Probed,
            _ => AlignmentOrigin::Assumed,
        },
    }
}
