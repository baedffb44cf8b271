//! [`BenchTarget`]: the file or device to measure on.

use std::fs::{self, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use kaio_bench::{BenchFile, Place, Unavailable};
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::Serialize;

use super::bench_args::BenchArgs;
use crate::command_error::CommandError;
use crate::direct_io_probe::{DirectIoAlignment, probe_direct_io};
use crate::paths::{absolute, creation_forbidden, length};
use crate::stdio::eprint_line;
use crate::thread_limit::current_thread_runtime;

/// The default size of a scratch file in bytes.
const SCRATCH: u64 = 256 << 20;

/// The file or device to measure on.
pub(super) struct BenchTarget {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    /// Bytes to use: a multiple of the block size.
    pub(super) len: u64,
    /// The mount. `None`: the target is a block device.
    pub(super) place: Option<Place>,
    /// The alignment that direct I/O requires. `None`: the page cache is used.
    pub(super) alignment: Option<DirectIoAlignment>,
    /// Removed when this is dropped.
    _scratch: Option<BenchFile>,
}

/// The type of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A scratch file.
    Scratch,
    /// An existing file.
    File,
    /// A block device.
    BlockDevice,
}

impl BenchTarget {
    /// Opens or creates the target of `args`, for blocks of `block` bytes.
    pub(super) fn of(args: &BenchArgs, block: u64) -> Result<BenchTarget, CommandError> {
        let file = args.file.as_deref().unwrap_or(Path::new("."));
        let failed = |operation, error| CommandError::of(operation, file, error);
        let metadata = fs::metadata(file).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CommandError::of(
                "measure on",
                file,
                format!("{error}; name a directory to create a scratch file there"),
            ),
            _ => failed("examine", error),
        })?;
        let target = if metadata.is_dir() {
            BenchTarget::scratch(args, file, block)?
        } else {
            BenchTarget::given(args, file, block, &metadata)?
        };
        target.check(file, block)?;
        Ok(target)
    }

    fn scratch(args: &BenchArgs, dir: &Path, block: u64) -> Result<BenchTarget, CommandError> {
        if let Some(why) = creation_forbidden(dir) {
            let what = format!("{why}; name a directory on a disk");
            return Err(CommandError::of("create a scratch file in", dir, what));
        }
        let len = whole_blocks(args.size.unwrap_or(SCRATCH), block)?;
        let direct = !args.buffered;
        // A length that direct I/O can write. The block size is checked when the file exists.
        let whole = len.checked_next_multiple_of(64 << 10).unwrap_or(len);
        let site = BenchFile::new(dir, whole, direct).map_err(|error| {
            let is_unsupported = error.is::<Unavailable>();
            let hint = if is_unsupported {
                ", or use --buffered"
            } else {
                ""
            };
            format!("{error}{hint}")
        })?;
        Ok(BenchTarget {
            alignment: alignment(&site.path, direct)?,
            path: site.path.clone(),
            kind: Kind::Scratch,
            len,
            place: Some(site.place.clone()),
            _scratch: Some(site),
        })
    }

    fn given(
        args: &BenchArgs,
        path: &Path,
        block: u64,
        metadata: &Metadata,
    ) -> Result<BenchTarget, CommandError> {
        let kind = match metadata.file_type() {
            kind if kind.is_file() => Kind::File,
            kind if kind.is_block_device() => Kind::BlockDevice,
            _ => {
                let what = "it is not a regular file, a block device or a directory";
                return Err(CommandError::of("measure on", path, what));
            }
        };
        if args.rw.pattern().writes() {
            check_overwrite(args, path, kind)?;
        }
        let all = match kind {
            Kind::BlockDevice => {
                length(path).map_err(|error| CommandError::of("open", path, error))?
            }
            _ => metadata.len(),
        };
        let len = args.size.map_or(all, |size| size.min(all));
        let len = whole_blocks(len, block).map_err(|_| {
            let what = format!("it has {len} bytes to use, less than one block of {block} bytes");
            CommandError::of("measure on", path, what)
        })?;
        if kind == Kind::File && metadata.blocks() * 512 < len {
            eprint_line(format_args!(
                "note: {} has holes; reads of holes don't reach the disk",
                path.display()
            ));
        }
        Ok(BenchTarget {
            alignment: alignment(path, !args.buffered)?,
            path: path.to_owned(),
            kind,
            len,
            place: match kind {
                Kind::BlockDevice => None,
                _ => Some(Place::of(path)?),
            },
            _scratch: None,
        })
    }

    /// Checks that blocks are aligned for direct I/O.
    fn check(&self, file: &Path, block: u64) -> Result<(), CommandError> {
        match self.alignment {
            Some(alignment) if block % alignment.offset != 0 => Err(CommandError::Usage(format!(
                "--bs {block} is not a multiple of {}, which direct I/O requires on {}; choose a multiple, or use --buffered",
                alignment.offset,
                absolute(file).display()
            ))),
            _ => Ok(()),
        }
    }
}

/// Rounds `len` down to whole blocks.
///
/// # Errors
///
/// `len` is less than one block.
fn whole_blocks(len: u64, block: u64) -> Result<u64, CommandError> {
    match len - len % block {
        0 => Err(CommandError::Usage(format!(
            "--size {len} is less than one block of {block} bytes"
        ))),
        len => Ok(len),
    }
}

fn check_overwrite(args: &BenchArgs, path: &Path, kind: Kind) -> Result<(), CommandError> {
    let (name, rw) = (path.display(), args.rw.name());
    if !args.overwrite {
        return Err(CommandError::Usage(format!(
            "--rw {rw} would overwrite {name}; use --overwrite to allow that, or name a directory to \
             create a scratch file there"
        )));
    }
    if kind == Kind::BlockDevice {
        let mut options = OpenOptions::new();
        let exclusive = OFlags::EXCL.bits() as i32;
        let opened = options.write(true).custom_flags(exclusive).open(path);
        let is_busy = |error: &io::Error| Errno::from_io_error(error) == Some(Errno::BUSY);
        if opened.as_ref().err().is_some_and(is_busy) {
            let what = "the device is in use: mounted, or part of another device";
            return Err(CommandError::of("overwrite", path, what));
        }
    } else if let Err(error) = OpenOptions::new().write(true).open(path) {
        return Err(CommandError::of("overwrite", path, error));
    }
    Ok(())
}

fn alignment(path: &Path, direct: bool) -> Result<Option<DirectIoAlignment>, CommandError> {
    if !direct {
        return Ok(None);
    }
    let support = current_thread_runtime()?.block_on(probe_direct_io(path));
    let support = support.map_err(|error| CommandError::of("open", path, error))?;
    match support.alignment {
        None => {
            let what = "it does not support direct I/O; use --buffered, or another file system";
            Err(CommandError::of("measure on", path, what))
        }
        aligned => Ok(aligned),
    }
}
