//! [`Session`]: the state that all files of a run share.

use std::cell::Cell;
use std::path::Path;

use tokio_kaio::File;

use super::console::Console;
use super::copy_error::CopyError;
use super::copy_summary::{CopyCounters, FailedEntry};
use super::cp_args::CpArgs;
use super::reflinks::Reflinks;

/// The state that all files of a run share.
#[derive(Debug)]
pub(super) struct Session<'a> {
    pub(super) args: &'a CpArgs,
    pub(super) reflinks: Reflinks,
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
    /// Starts a run that reads `bytes` bytes. `None`: the number is not known.
    pub(super) fn new(args: &'a CpArgs, bytes: Option<u64>, umask: u32) -> Session<'a> {
        Session {
            args,
            reflinks: Reflinks::new(args),
            console: Console::new(bytes, args.verify, args.quiet),
            counters: CopyCounters::default(),
            umask,
            notes: NotesPrinted::default(),
        }
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

    /// Warns that a source has changed during the copy.
    pub(super) fn warn_changed(&self, path: &Path) {
        self.console.warn(&format!(
            "{} changed while it was copied; the copy may mix old and new content",
            path.display()
        ));
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
