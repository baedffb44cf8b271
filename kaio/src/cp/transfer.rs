//! Moving the data of one file.

use std::cell::{Cell, RefCell};

use tokio_kaio::{
    Advice, AioCommandError, AlignedBuf, Allocate, File, ReadFlags, SyncRange, WriteFlags,
};
use xxhash_rust::xxh3::xxh3_64;

use super::args::{PAGE, Sparse};
use super::extents::{self, Extent};
use super::session::Session;
use super::source::Source;
use super::stream;
use super::target::Target;
use super::trouble::Trouble;
use super::verify::Check;
use super::{blocking, zeroes};

/// What has been moved.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// The true length of the file.
    pub(super) length: u64,
    /// What was written of it; the others are holes.
    pub(super) written: u64,
    /// For `--verify`.
    pub(super) checks: Vec<Check>,
}

/// Why a file's pieces are not all moved.
#[derive(Debug)]
enum Stop {
    Trouble(Trouble),
    /// A read found the end of the file before its length.
    Ends,
    /// The kernel has no AIO on the source, as on some files of procfs.
    NoAio,
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Stop {
        Stop::Trouble(trouble)
    }
}

/// Moves all data. The target has its true length then.
pub(super) async fn transfer(
    session: &Session<'_>,
    source: &Source,
    target: &Target,
    sparse: Sparse,
) -> Result<Moved, Trouble> {
    // Of length 0 are files that are made up when they are read, too.
    let stop = match source.length {
        0 => Stop::Ends,
        _ => match in_pieces(session, source, target, sparse).await {
            Ok(moved) => return Ok(moved),
            Err(stop) => stop,
        },
    };
    if let Stop::Trouble(trouble) = stop {
        return Err(trouble);
    }
    if source.length > 0 {
        source.refuse_shorter().await?;
    }
    stream::transfer(session, source, target).await
}

async fn in_pieces(
    session: &Session<'_>,
    source: &Source,
    target: &Target,
    sparse: Sparse,
) -> Result<Moved, Stop> {
    let length = source.length;
    let data = match sparse {
        Sparse::Never => vec![0..length],
        Sparse::Auto | Sparse::Always => holes_left_out(source).await?,
    };
    let grain = source.grain.max(target.grain).max(PAGE);
    let size = session.piece(grain)?;
    let data = extents::grown(&data, grain);
    // A write that fills the file at once can as well make it longer.
    if !target.is_device() && length > size {
        prepare(target, length, &data, sparse).await?;
    }
    let copy = Copy {
        session,
        source,
        target,
        sparse,
        written: Cell::new(0),
        checks: RefCell::new(Vec::new()),
    };
    let count = data
        .iter()
        .map(|extent| (extent.end - extent.start).div_ceil(size) + 1);
    let lanes = usize::try_from(count.sum::<u64>()).unwrap_or(usize::MAX);
    let pieces = extents::pieces(&data, size).map(|piece| piece.start..piece.end.min(length));
    let each = async |piece: Extent, buffer: &mut AlignedBuf| copy.piece(piece, buffer).await;
    session.lanes.each(pieces, lanes, each).await?;
    end_at(target, length).await?;
    Ok(Moved {
        length,
        written: copy.written.get(),
        checks: copy.checks.into_inner(),
    })
}

async fn holes_left_out(source: &Source) -> Result<Vec<Extent>, Trouble> {
    let failed = |error| Trouble::of("find the holes of", &source.path, &error);
    if !source.metadata.is_file() {
        return Ok(vec![0..source.length]);
    }
    let file = source.file.try_clone().map_err(failed)?;
    let length = source.length;
    let data = blocking(move || extents::data(&file, length)).await;
    data.map_err(failed)
}

/// A file of its whole length from the start, in blocks that are allocated: writes that neither make
/// it longer nor allocate are asynchronous.
async fn prepare(
    target: &Target,
    length: u64,
    data: &[Extent],
    sparse: Sparse,
) -> Result<(), Trouble> {
    let failed = |error| Trouble::of("make room for", &target.path, &error);
    let padded = length.next_multiple_of(target.grain);
    target.file.set_len(padded).await.map_err(failed)?;
    if sparse == Sparse::Always {
        return Ok(()); // which will be holes is not known yet
    }
    for extent in data {
        let bytes = extent.end.min(padded) - extent.start;
        let allocated = target.file.allocate(Allocate::Extend, extent.start, bytes);
        match allocated.await {
            Ok(()) => {}
            Err(error) if is_for_lack(&error) => return Err(failed(error)),
            Err(_) => break, // it is only faster so
        }
    }
    Ok(())
}

fn is_for_lack(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// The last block was written in full.
pub(super) async fn end_at(target: &Target, length: u64) -> Result<(), Trouble> {
    if target.is_device() {
        return Ok(());
    }
    let failed = |error| Trouble::of("set the length of", &target.path, &error);
    let now = target.file.metadata().await.map_err(failed)?.len();
    match now == length {
        true => Ok(()),
        false => target.file.set_len(length).await.map_err(failed),
    }
}

/// One file on its way.
#[derive(Debug)]
struct Copy<'a> {
    session: &'a Session<'a>,
    source: &'a Source,
    target: &'a Target,
    sparse: Sparse,
    written: Cell<u64>,
    checks: RefCell<Vec<Check>>,
}

impl Copy<'_> {
    async fn piece(&self, piece: Extent, buffer: &mut AlignedBuf) -> Result<(), Stop> {
        let (session, source, target) = (self.session, self.source, self.target);
        let bytes = piece.end - piece.start;
        session.limited(bytes).await;
        let read = fill(session, &source.file, source.grain, &piece, buffer).await;
        let read = read.map_err(|error| match error {
            AioCommandError::IoSubmit(_) if !source.file.is_direct() => Stop::NoAio,
            error => Trouble::at("read", &source.path, piece.start, &error).into(),
        })?;
        if read < bytes {
            return Err(Stop::Ends);
        }
        if !source.file.is_direct() {
            // Only what is clean goes; and if nothing does, nothing is lost by it.
            let _ = source
                .file
                .advise(piece.start, bytes, Advice::DontNeed)
                .await;
        }
        let data = &buffer[..bytes as usize];
        if session.args.verify {
            let check = Check::new(piece.clone(), xxh3_64(data));
            self.checks.borrow_mut().push(check);
        }
        let runs = match self.sparse {
            Sparse::Always => zeroes::not_zero(data, target.grain.max(PAGE) as usize),
            Sparse::Auto | Sparse::Never => vec![0..bytes as usize],
        };
        for run in runs {
            self.written.set(self.written.get() + run.len() as u64);
            write(session, target, piece.start, buffer, run).await?;
        }
        session.talk.moved(bytes);
        Ok(())
    }
}

/// Reads the bytes of `piece` to the front of the buffer; returns how many there were: fewer only
/// where the file ends. `piece` starts at a multiple of `grain`.
///
/// # Errors
///
/// Those of [`File::read_at`].
pub(super) async fn fill(
    session: &Session<'_>,
    file: &File,
    grain: u64,
    piece: &Extent,
    buffer: &mut AlignedBuf,
) -> Result<u64, AioCommandError> {
    let (offset, bytes) = (piece.start, piece.end - piece.start);
    let (handle, flags) = (&session.handle, ReadFlags::empty());
    let whole = bytes.next_multiple_of(grain);
    let mut read = file.read_at(handle, offset, buffer, whole, flags).await?;
    while read < bytes {
        // Cut off, or the end: the next one tells.
        let from = read / grain * grain;
        let rest = &mut [buffer.part_mut(from as usize..whole as usize)];
        let more = file
            .read_vectored_at(handle, offset + from, rest, flags)
            .await?;
        if from + more <= read {
            break;
        }
        read = from + more;
    }
    Ok(read.min(bytes))
}

/// Writes `run` of a buffer that is to go to `offset`. A block that it fills in part is written in full,
/// with zeroes, but on a device, which keeps what it has there.
pub(super) async fn write(
    session: &Session<'_>,
    target: &Target,
    offset: u64,
    buffer: &mut AlignedBuf,
    run: std::ops::Range<usize>,
) -> Result<(), Trouble> {
    let at = offset + run.start as u64;
    let failed = |error| Trouble::at("write", &target.path, at, &error);
    let grain = target.grain as usize;
    let end = match target.is_device() {
        true => run.end / grain * grain,
        false => {
            let padded = run.end.next_multiple_of(grain);
            buffer[run.end..padded].fill(0);
            padded
        }
    };
    write_blocks(session, &target.file, offset, buffer, run.start..end)
        .await
        .map_err(failed)?;
    if end < run.end {
        let (at, rest) = (offset + end as u64, &buffer[end..run.end]);
        let rest = target
            .file
            .write_bytes_at(&session.handle, at, rest, WriteFlags::empty());
        rest.await.map_err(failed)?;
    }
    if !target.file.is_direct() {
        // Written out at once, and dropped, so that the page cache stays as it was.
        let bytes = run.len() as u64;
        let synced = target.file.sync_range(at, bytes, SyncRange::all()).await;
        synced.map_err(|error| Trouble::of("write out", &target.path, &error))?;
        let _ = target.file.advise(at, bytes, Advice::DontNeed).await;
    }
    Ok(())
}

/// Writes a range of whole blocks, all of it.
async fn write_blocks(
    session: &Session<'_>,
    file: &File,
    offset: u64,
    buffer: &AlignedBuf,
    range: std::ops::Range<usize>,
) -> Result<(), AioCommandError> {
    let (handle, flags) = (&session.handle, WriteFlags::empty());
    if range.start == 0 {
        return file
            .write_all_at(handle, offset, buffer, range.end as u64, flags)
            .await;
    }
    let mut from = range.start;
    while from < range.end {
        let parts = &[buffer.part(from..range.end)];
        let written = file
            .write_vectored_at(handle, offset + from as u64, parts, flags)
            .await?;
        if written == 0 {
            let error = std::io::ErrorKind::WriteZero.into();
            return Err(AioCommandError::BadResult(error));
        }
        from += written as usize;
    }
    Ok(())
}
