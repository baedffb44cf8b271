//! [`Target`]: the file that is measured on.

use std::fs::{self, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use kaio_bench::{BenchFile, Place, Unavailable};
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::Serialize;

use super::args::Args;
use crate::alignment::{Aligned, learn};
use crate::failure::Failure;
use crate::output::tell;
use crate::paths::length;

/// Bytes of a scratch file, unless asked otherwise.
const SCRATCH: u64 = 256 << 20;

/// A file with bytes to be read, and to be written if that is asked for.
pub(super) struct Target {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    /// Bytes that are used: a multiple of the block.
    pub(super) len: u64,
    /// `None`: a block device.
    pub(super) place: Option<Place>,
    /// What direct I/O wants. `None`: through the page cache.
    pub(super) alignment: Option<Aligned>,
    /// Removed at the end.
    _scratch: Option<BenchFile>,
}

/// Whose file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Our own.
    Scratch,
    /// One that was there.
    File,
    /// A block device.
    BlockDevice,
}

impl Target {
    /// What `args` ask for, with room for blocks of `block` bytes.
    pub(super) fn of(args: &Args, block: u64) -> Result<Target, Failure> {
        let file = args.file.as_deref().unwrap_or(Path::new("."));
        let failed = |operation, error| Failure::of(operation, file, error);
        let metadata = fs::metadata(file).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::of(
                "measure on",
                file,
                format!("{error}; name a directory to have a scratch file made there"),
            ),
            _ => failed("look at", error),
        })?;
        let target = if metadata.is_dir() {
            Target::scratch(args, file, block)?
        } else {
            Target::given(args, file, block, &metadata)?
        };
        target.check(file, block)?;
        Ok(target)
    }

    fn scratch(args: &Args, dir: &Path, block: u64) -> Result<Target, Failure> {
        let len = whole_blocks(args.size.unwrap_or(SCRATCH), block)?;
        let direct = !args.buffered;
        // What direct I/O can write, whatever the block: that is looked at when there is a file.
        let whole = len.checked_next_multiple_of(64 << 10).unwrap_or(len);
        let site = BenchFile::new(dir, whole, direct).map_err(|error| {
            let is_without = error.is::<Unavailable>();
            let way_out = if is_without { ", or --buffered" } else { "" };
            format!("{error}{way_out}")
        })?;
        Ok(Target {
            alignment: alignment(&site.path, direct)?,
            path: site.path.clone(),
            kind: Kind::Scratch,
            len,
            place: Some(site.place.clone()),
            _scratch: Some(site),
        })
    }

    fn given(args: &Args, path: &Path, block: u64, metadata: &Metadata) -> Result<Target, Failure> {
        let kind = match metadata.file_type() {
            kind if kind.is_file() => Kind::File,
            kind if kind.is_block_device() => Kind::BlockDevice,
            _ => {
                let what = "it is neither a file, a block device nor a directory";
                return Err(Failure::of("measure on", path, what));
            }
        };
        if args.rw.pattern().writes() {
            may_be_overwritten(args, path, kind)?;
        }
        let all = match kind {
            Kind::BlockDevice => length(path).map_err(|error| Failure::of("open", path, error))?,
            _ => metadata.len(),
        };
        let len = args.size.map_or(all, |size| size.min(all));
        let len = whole_blocks(len, block).map_err(|_| {
            let what = format!("it has {len} bytes to use, less than one block of {block}");
            Failure::of("measure on", path, what)
        })?;
        if kind == Kind::File && metadata.blocks() * 512 < len {
            tell(format_args!(
                "note: {} has holes, of which reads reach no disk",
                path.display()
            ));
        }
        Ok(Target {
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

    /// Blocks are what direct I/O takes there.
    fn check(&self, file: &Path, block: u64) -> Result<(), Failure> {
        match self.alignment {
            Some(alignment) if block % alignment.offset != 0 => Err(Failure::Usage(format!(
                "--bs {block} is no multiple of {}, which direct I/O wants on {}; take one, or --buffered",
                alignment.offset,
                file.display()
            ))),
            _ => Ok(()),
        }
    }
}

/// # Errors
///
/// Not one.
fn whole_blocks(len: u64, block: u64) -> Result<u64, Failure> {
    match len - len % block {
        0 => Err(Failure::Usage(format!(
            "--size {len} is less than one block of {block} bytes"
        ))),
        len => Ok(len),
    }
}

fn may_be_overwritten(args: &Args, path: &Path, kind: Kind) -> Result<(), Failure> {
    let (name, rw) = (path.display(), args.rw.name());
    if !args.overwrite {
        return Err(Failure::Usage(format!(
            "--rw {rw} would overwrite {name}; --overwrite allows that, and a directory in its place \
             has a scratch file made there"
        )));
    }
    if kind == Kind::BlockDevice {
        let mut options = OpenOptions::new();
        let exclusive = OFlags::EXCL.bits() as i32;
        let opened = options.write(true).custom_flags(exclusive).open(path);
        let is_busy = |error: &io::Error| Errno::from_io_error(error) == Some(Errno::BUSY);
        if opened.as_ref().err().is_some_and(is_busy) {
            let what = "the device is in use: mounted, or part of another device";
            return Err(Failure::of("overwrite", path, what));
        }
    } else if let Err(error) = OpenOptions::new().write(true).open(path) {
        return Err(Failure::of("overwrite", path, error));
    }
    Ok(())
}

fn alignment(path: &Path, direct: bool) -> Result<Option<Aligned>, Failure> {
    if !direct {
        return Ok(None);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let learned = runtime.block_on(learn(path));
    let learned = learned.map_err(|error| Failure::of("open", path, error))?;
    match learned.alignment {
        None => {
            let what = "it has no direct I/O; take --buffered, or another file system";
            Err(Failure::of("measure on", path, what))
        }
        aligned => Ok(aligned),
    }
}
