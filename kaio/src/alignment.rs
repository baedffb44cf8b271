//! [`Aligned`]: what direct I/O on a file wants, and how a file is asked for it.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;

use serde::Serialize;
use tokio_kaio::{AioOpenOptionsExt, Alignment, AlignmentSource};

/// What direct I/O wants.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Aligned {
    /// Of the address of memory.
    pub(crate) memory: u64,
    /// Of offset and length.
    pub(crate) offset: u64,
    /// Of offset and length of reads.
    pub(crate) read_offset: u64,
    /// Where that was learnt.
    pub(crate) source: Learnt,
}

/// Where an alignment was learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Learnt {
    /// `statx` tells.
    Statx,
    /// It is the logical block of the device.
    BlockDevice,
    /// Smaller reads were refused.
    Probed,
    /// Nowhere.
    Assumed,
}

impl fmt::Display for Learnt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Learnt::Statx => "told by statx",
            Learnt::BlockDevice => "the logical block of the device",
            Learnt::Probed => "the smallest read that was not refused",
            Learnt::Assumed => "assumed, nobody tells",
        })
    }
}

/// What a file tells of its direct I/O.
pub(crate) struct Learned {
    /// Whether there is any.
    pub(crate) direct: bool,
    /// If so, what it wants.
    pub(crate) alignment: Option<Aligned>,
}

/// What the file or device at `path` tells, which is opened to be read.
///
/// # Errors
///
/// Where it can't be opened, or asked.
pub(crate) async fn learn(path: &Path) -> io::Result<Learned> {
    const NONE: Learned = Learned {
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
        alignment => Ok(Learned {
            direct: true,
            alignment: Some(aligned(alignment?)),
        }),
    }
}

/// What a new file in `dir` tells, which is left there.
///
/// # Errors
///
/// As [`learn`], and where it can't be written.
pub(crate) async fn learn_in(dir: &Path) -> io::Result<Learned> {
    let path = dir.join("probe");
    // As long as the largest alignment that is probed, and on the disk: a file system may begin with
    // a file's bytes elsewhere, and without direct I/O.
    fs::write(&path, vec![b'k'; 64 << 10])?;
    fs::File::open(&path)?.sync_all()?;
    learn(&path).await
}

fn aligned(alignment: Alignment) -> Aligned {
    Aligned {
        memory: alignment.memory as u64,
        offset: alignment.offset,
        read_offset: alignment.read_offset,
        source: match alignment.source {
            AlignmentSource::Statx => Learnt::Statx,
            AlignmentSource::BlockDevice => Learnt::BlockDevice,
            AlignmentSource::Probed => Learnt::Probed,
            _ => Learnt::Assumed,
        },
    }
}
