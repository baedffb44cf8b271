//! What direct I/O on a file wants.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;

use tokio_kaio::{AioOpenOptionsExt, Alignment, AlignmentSource};

use super::report::{Aligned, Learnt};

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
