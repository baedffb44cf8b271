//! [`Session`]: what all files of a run share.

use std::cell::Cell;
use std::path::Path;

use tokio_kaio::{AioContextHandle, File, LockedBufError};

use super::args::Args;
use super::lanes::Lanes;
use super::limit::Limit;
use super::progress::Talk;
use super::summary::{Failed, Tally};
use super::trouble::Trouble;

/// What all files of a run share.
#[derive(Debug)]
pub(super) struct Session<'a> {
    pub(super) args: &'a Args,
    pub(super) handle: AioContextHandle,
    pub(super) lanes: Lanes,
    pub(super) limit: Option<Limit>,
    pub(super) talk: Talk,
    pub(super) tally: Tally,
    pub(super) umask: u32,
    noted: Noted,
}

/// What is said once.
#[derive(Debug, Default)]
struct Noted {
    source: Cell<bool>,
    target: Cell<bool>,
    read_back: Cell<bool>,
}

impl<'a> Session<'a> {
    /// Of `bytes` that are to be moved.
    ///
    /// # Errors
    ///
    /// There is no memory for the buffers.
    pub(super) fn new(
        args: &'a Args,
        handle: AioContextHandle,
        bytes: u64,
        umask: u32,
    ) -> Result<Session<'a>, LockedBufError> {
        Ok(Session {
            args,
            handle,
            lanes: Lanes::new(args.depth.into(), args.bs as usize)?,
            limit: args.limit.map(Limit::new),
            talk: Talk::new(bytes, args.verify, args.quiet),
            tally: Tally::default(),
            umask,
            noted: Noted::default(),
        })
    }
}

impl Session<'_> {
    /// Says that something is not copied.
    pub(super) fn left_out(&self, path: &Path, trouble: Trouble) {
        self.talk.error(&trouble.to_string());
        self.tally
            .failed
            .borrow_mut()
            .push(Failed::new(path, trouble));
    }

    /// The size of pieces, a multiple of `grain`.
    pub(super) fn piece(&self, grain: u64) -> Result<u64, Trouble> {
        let most = self.args.bs / grain * grain;
        if most == 0 {
            return Err(Trouble::new(format!(
                "direct I/O there wants blocks of {grain} bytes, and --bs is {}; say --bs {grain}",
                self.args.bs
            )));
        }
        let piece = |limit: &Limit| limit.piece(most, grain);
        Ok(self.limit.as_ref().map_or(most, piece))
    }

    /// Waits until `bytes` may be moved.
    pub(super) async fn limited(&self, bytes: u64) {
        if let Some(limit) = &self.limit {
            limit.take(bytes).await;
        }
    }

    /// Says, once, that a source is not read directly.
    pub(super) fn note_source(&self, path: &Path, file: &File) {
        if !file.is_direct() {
            let text = "is read through the page cache: there is no direct I/O";
            self.note_buffered(&self.noted.source, path, text);
        }
    }

    /// Says, once, that a target is not written directly.
    pub(super) fn note_target(&self, path: &Path, file: &File) {
        if !file.is_direct() {
            let text = "is written through the page cache: there is no direct I/O";
            self.note_buffered(&self.noted.target, path, text);
        }
    }

    /// Says, once, what reading back is worth then.
    pub(super) fn note_read_back(&self, path: &Path, file: &File) {
        if !file.is_direct() {
            let text = "is read back through the page cache, which was told to drop it first";
            self.note_buffered(&self.noted.read_back, path, text);
        }
    }

    fn note_buffered(&self, noted: &Cell<bool>, path: &Path, text: &str) {
        self.tally.buffered.set(true);
        if !noted.replace(true) {
            self.talk.note(&format!("{} {text}", path.display()));
        }
    }

    /// Says which attributes a target could not be given.
    pub(super) fn attributes_lost(&self, path: &Path, lost: &[String]) {
        if !lost.is_empty() {
            let (path, lost) = (path.display(), lost.join(", "));
            self.talk
                .warn(&format!("{path} can't have the extended attributes {lost}"));
        }
    }
}
