//! [`Session`]: the state that all files of a run share.

use std::cell::Cell;
use std::path::Path;

use tokio_kaio::{AioContextHandle, File, LockedBufError};

use super::block_buffers::BlockBuffers;
use super::console::Console;
use super::copy_error::CopyError;
use super::copy_summary::{CopyCounters, FailedEntry};
use super::cp_args::CpArgs;
use super::rate_limiter::RateLimiter;

/// The state that all files of a run share.
#[derive(Debug)]
pub(super) struct Session<'a> {
    pub(super) args: &'a CpArgs,
    pub(super) handle: AioContextHandle,
    pub(super) buffers: BlockBuffers,
    pub(super) limit: Option<RateLimiter>,
    pub(super) console: Console,
    pub(super) counters: CopyCounters,
    pub(super) umask: u32,
    notes: NotesPrinted,
}

/// The notes that were printed; each is printed once.
#[derive(Debug, Default)]
struct NotesPrinted {
    source: Cell<bool>,
    target: Cell<bool>,
    read_back: Cell<bool>,
}

impl<'a> Session<'a> {
    /// Starts a run that reads `bytes` bytes.
    ///
    /// # Errors
    ///
    /// The buffers can't be allocated.
    pub(super) fn new(
        args: &'a CpArgs,
        handle: AioContextHandle,
        bytes: u64,
        umask: u32,
    ) -> Result<Session<'a>, LockedBufError> {
        Ok(Session {
            args,
            handle,
            buffers: BlockBuffers::new(args.depth.into(), args.bs as usize)?,
            limit: args.limit.map(RateLimiter::new),
            console: Console::new(bytes, args.verify, args.quiet),
            counters: CopyCounters::default(),
            umask,
            notes: NotesPrinted::default(),
        })
    }
}

impl Session<'_> {
    /// Reports an entry that was not copied.
    pub(super) fn report_failed(&self, path: &Path, copy_error: CopyError) {
        self.console.error(&copy_error.to_string());
        self.counters
            .failed
            .borrow_mut()
            .push(FailedEntry::new(path, copy_error));
    }

    /// The size of chunks, a multiple of `alignment`.
    pub(super) fn chunk_size(&self, alignment: u64) -> Result<u64, CopyError> {
        let most = self.args.bs / alignment * alignment;
        if most == 0 {
            return Err(CopyError::new(format!(
                "direct I/O needs blocks of {alignment} bytes there, and --bs is {}; use --bs {alignment}",
                self.args.bs
            )));
        }
        let chunk = |limit: &RateLimiter| limit.chunk_size(most, alignment);
        Ok(self.limit.as_ref().map_or(most, chunk))
    }

    /// Waits until `--limit` allows another `bytes` bytes.
    pub(super) async fn wait_for_rate(&self, bytes: u64) {
        if let Some(limit) = &self.limit {
            limit.take(bytes).await;
        }
    }

    /// Notes, once, that a source is read through the page cache.
    pub(super) fn note_source(&self, path: &Path, file: &File) {
        if !file.is_direct() {
            let text = "is read through the page cache, because it has no direct I/O";
            self.note_buffered(&self.notes.source, path, text);
        }
    }

    /// Notes, once, that a target is written through the page cache.
    pub(super) fn note_target(&self, path: &Path, file: &File) {
        if !file.is_direct() {
            let text = "is written through the page cache, because it has no direct I/O";
            self.note_buffered(&self.notes.target, path, text);
        }
    }

    /// Notes, once, that a target is read back through the page cache.
    pub(super) fn note_read_back(&self, path: &Path, file: &File) {
        if !file.is_direct() {
            let text =
                "is read back through the page cache, after the kernel was asked to drop its pages";
            self.note_buffered(&self.notes.read_back, path, text);
        }
    }

    fn note_buffered(&self, noted: &Cell<bool>, path: &Path, text: &str) {
        self.counters.buffered.set(true);
        if !noted.replace(true) {
            self.console.note(&format!("{} {text}", path.display()));
        }
    }

    /// Warns about extended attributes that could not be set.
    pub(super) fn attributes_lost(&self, path: &Path, lost: &[String]) {
        if !lost.is_empty() {
            let (path, lost) = (path.display(), lost.join(", "));
            self.console.warn(&format!(
                "can't set these extended attributes of {path}: {lost}"
            ));
        }
    }
}
