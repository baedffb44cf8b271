//! [`Process`]: identifies the current process without a system call.
//!
//! A child made by `fork(2)` shares no completion ring and no buffer with its parent (both are marked
//! `MADV_DONTFORK`), so it must not touch their addresses.

use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Identifies a process, to find out whether a value was made by this one or by the parent of a forked child.
///
/// Two values are equal if they are from the same process. A child made by `fork(2)` has another one than its
/// parent. A comparison takes some nanoseconds and no system call. Values of processes that are not related
/// may be equal.
///
/// Before Linux 4.14 all values are equal.
///
/// # Examples
///
/// ```
/// use tokio_kaio::Process;
///
/// struct Cache {
///     owner: Process, // a forked child must not use the lock of its parent
/// }
///
/// let cache = Cache { owner: Process::current() };
/// assert_eq!(cache.owner, Process::current());
/// ```
#[doc(alias = "fork")]
#[doc(alias = "getpid")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(u32);

/// Number of processes in this line of descent that have asked who they are. A child inherits it and
/// counts on, so the numbers of a parent and its children differ.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// The number of the first process in this line that has asked. 0: none has.
static FIRST: AtomicU32 = AtomicU32::new(0);

/// A word that the kernel zeroes in a child. `None` before Linux 4.14, where it can't: all processes look
/// the same.
static WORD: OnceLock<Option<Word>> = OnceLock::new();

#[derive(Clone, Copy)]
struct Word(NonNull<AtomicU32>);

#[allow(unsafe_code)]
// SAFETY: the word is never unmapped, and only used as an atomic.
unsafe impl Send for Word {}
#[allow(unsafe_code)]
// SAFETY: as above.
unsafe impl Sync for Word {}

impl Process {
    /// Returns the value of this process.
    #[inline(always)]
    pub fn current() -> Process {
        let Some(Word(word)) = *WORD.get_or_init(map_word) else {
            return Process(0);
        };
        #[allow(unsafe_code)]
        // SAFETY: `map_word` mapped it, aligned and zeroed, and nothing unmaps it. A child has the same
        // mapping, zeroed.
        let word = unsafe { word.as_ref() };
        match word.load(Ordering::Relaxed) {
            0 => Process::first_asked(word),
            number => Process(number),
        }
    }

    #[cold]
    fn first_asked(word: &AtomicU32) -> Process {
        let number = GENERATION.fetch_add(1, Ordering::Relaxed) + 1;
        let process = match word.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => Process(number),
            Err(first) => Process(first),
        };
        let _ = FIRST.compare_exchange(0, process.0, Ordering::Relaxed, Ordering::Relaxed);
        process
    }

    /// Whether `fork(2)` made this process from one that had used this crate. Always `false` before Linux
    /// 4.14.
    pub(crate) fn is_forked() -> bool {
        Process::current().0 != FIRST.load(Ordering::Relaxed)
    }
}

fn map_word() -> Option<Word> {
    let mapping = super::Mapping::anonymous(size_of::<AtomicU32>()).ok()?;
    mapping.wipe_on_fork().ok()?;
    Some(Word(mapping.leak().cast()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_stays_itself() {
        assert_eq!(Process::current(), Process::current());
        assert!(!Process::is_forked());
    }
}
