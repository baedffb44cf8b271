//! [`OpenFile`]: a file as requests have it.

use std::fmt;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::habit::Habit;
use super::{Bytewise, Order};
use crate::sys::{self, abi};
use crate::{Alignment, SubmitPolicy};

/// An open file, shared by its owner with the requests that are out for it, and what these have
/// shown of it.
pub(crate) struct OpenFile {
    file: File,
    known_as: KnownAs,
    /// [`SubmitPolicy::code`]; 0: the context's.
    policy: AtomicU8,
    /// By [`Class`].
    habits: [Habit; 4],
    /// The latest submission took long by the clock.
    suspect: AtomicBool,
    /// The numbers of the tables that have an append out on this file, one each.
    appending: Mutex<Vec<usize>>,
    /// Up to here there have been data, as far as transfers have told.
    known_end: AtomicU64,
    /// Once somebody has asked for it.
    alignment: OnceLock<Alignment>,
    /// Once somebody writes to it what is not aligned.
    bytewise: OnceLock<Box<Bytewise>>,
}

/// By what the requests of one file are told from those of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KnownAs {
    /// The descriptor by which their callers know it.
    pub(super) fd: RawFd,
    /// The number of the file, since descriptors are used again. 0: of a file that is not known.
    number: u32,
}

/// How a request goes to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the thread at hand, which may have to wait.
    Inline,
    /// From the thread at hand, with `RWF_NOWAIT`; what is refused takes the last one.
    NoWait,
    /// The same, to see whether such are still refused.
    Probe,
    /// From the blocking pool.
    Pool,
}

/// What a submission did to the thread that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stay {
    /// Nothing to speak of, as far as was seen.
    Short,
    /// It took long by the clock. The thread may have waited, or others may have run in its place.
    Long,
    /// It put the thread to sleep, or kept it running for long: that was watched closely.
    Waited,
}

/// Requests that the kernel is likely to treat alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Read,
    Overwrite,
    /// A write to where no data is known to be.
    Fresh,
    /// One that extends the file, for sure.
    Append,
}

impl KnownAs {
    /// Of a descriptor that the caller has lent.
    pub(crate) const fn borrowed(fd: RawFd) -> KnownAs {
        KnownAs { fd, number: 0 }
    }

    /// A file that nothing is known of yet. Only of four billion that are opened while a request is
    /// out, on the same descriptor, one is taken for that request's.
    fn new(fd: RawFd) -> KnownAs {
        static LATEST: AtomicU32 = AtomicU32::new(0);
        let next = || LATEST.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let number = match next() {
            0 => next(),
            number => number,
        };
        KnownAs { fd, number }
    }

    /// Whether a request that is known so may be one of `file`.
    pub(super) fn may_be_of(self, file: KnownAs) -> bool {
        self == file || self == KnownAs::borrowed(file.fd)
    }
}

impl OpenFile {
    pub(crate) fn new(file: File) -> OpenFile {
        OpenFile {
            known_as: KnownAs::new(file.as_raw_fd()),
            file,
            policy: AtomicU8::new(0),
            habits: [Habit::new(), Habit::new(), Habit::new(), Habit::in_pool()],
            suspect: AtomicBool::new(false),
            appending: Mutex::default(),
            known_end: AtomicU64::new(0),
            alignment: OnceLock::new(),
            bytewise: OnceLock::new(),
        }
    }

    /// Another descriptor of a file, whose requests are that file's; or a duplicate of one that the
    /// caller has lent, for one request.
    pub(crate) fn duplicate(file: File, of: KnownAs) -> OpenFile {
        OpenFile {
            known_as: of,
            habits: [const { Habit::plain() }; 4], // there is nothing to learn
            ..OpenFile::new(file)
        }
    }

    #[inline(always)]
    pub(crate) fn known_as(&self) -> KnownAs {
        self.known_as
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Whether writes go to the end of the file whatever their offset is: `O_APPEND`. A system call, since
    /// anybody who has the open file can set the flag (`F_SETFL`).
    pub(super) fn has_append_flag(&self) -> bool {
        sys::status_flags(self.as_raw_fd()).is_ok_and(|flags| flags & libc::O_APPEND != 0)
    }

    pub(crate) fn into_file(self) -> File {
        self.file
    }

    /// What direct I/O on it wants, as far as that is known.
    pub(crate) fn alignment(&self) -> &OnceLock<Alignment> {
        &self.alignment
    }

    /// What transfers have that need not be aligned.
    pub(crate) fn bytewise(&self) -> &Bytewise {
        self.bytewise.get_or_init(Box::default)
    }

    pub(crate) fn policy(&self) -> Option<SubmitPolicy> {
        SubmitPolicy::from_code(self.policy.load(Ordering::Relaxed))
    }

    /// The code of its own one, or of that of the context.
    #[inline(always)]
    fn policy_within(&self, context: SubmitPolicy) -> u8 {
        match self.policy.load(Ordering::Relaxed) {
            0 => context.code(),
            own => own,
        }
    }

    /// `None`: the context's.
    pub(crate) fn set_policy(&self, policy: Option<SubmitPolicy>) {
        let code = policy.map_or(0, SubmitPolicy::code);
        self.policy.store(code, Ordering::Relaxed);
    }

    /// The way of a request, in a context with `policy`. `probe`: it is the turn of one to find out
    /// whether the kernel still refuses.
    #[inline]
    pub(crate) fn way(&self, order: &Order, policy: SubmitPolicy, probe: bool) -> Way {
        const INLINE: u8 = SubmitPolicy::Inline.code();
        const OFFLOAD: u8 = SubmitPolicy::Offload.code();
        match self.policy_within(policy) {
            INLINE => Way::Inline,
            OFFLOAD if !order.is_poll() => Way::Pool, // a poll never waits in its submission
            _ => match self.class(order) {
                Some(class) if order.rw_flags & abi::RWF_NOWAIT == 0 => {
                    self.habit(class).way(probe)
                }
                _ => Way::Inline,
            },
        }
    }

    /// Whether its next submission is to be watched closely, in a context with `policy`. `due`: it
    /// is the turn of one.
    #[inline]
    pub(crate) fn is_to_be_watched(&self, policy: SubmitPolicy, due: bool) -> bool {
        (due || self.suspect.load(Ordering::Relaxed))
            && self.policy_within(policy) == SubmitPolicy::NoWaitFirst.code()
    }

    /// What [`way`](OpenFile::way) learns by; `None`: nothing is to be learnt.
    #[inline]
    pub(crate) fn class(&self, order: &Order) -> Option<Class> {
        match order.opcode {
            abi::IOCB_CMD_PREAD => Some(Class::Read),
            abi::IOCB_CMD_PWRITE => {
                let end = (order.offset as u64).saturating_add(order.nbytes);
                Some(if order.appends() {
                    Class::Append
                } else if end <= self.known_end.load(Ordering::Relaxed) {
                    Class::Overwrite
                } else {
                    Class::Fresh
                })
            }
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn habit(&self, class: Class) -> &Habit {
        &self.habits[class as usize]
    }

    /// An append of `table` wants to go out. The kernel takes the file's length for the place of an
    /// append when it is submitted, and on some file systems (XFS) makes the file longer when it is
    /// done: of two that are out together, one would be lost. `true`: it has the turn of its table,
    /// until [`OpenFile::end_append`]. `false`: another one of that has it. (Of other tables nothing
    /// is known here: theirs are not waited for.)
    pub(super) fn begin_append(&self, table: usize) -> bool {
        let mut appending = self.appending();
        let is_free = !appending.contains(&table);
        if is_free {
            appending.push(table);
        }
        is_free
    }

    /// Whether an append of `table` is out.
    pub(super) fn is_appended_by(&self, table: usize) -> bool {
        self.appending().contains(&table)
    }

    /// The append of `table` that has the turn is done.
    pub(super) fn end_append(&self, table: usize) {
        self.appending().retain(|&other| other != table);
    }

    /// Nothing panics while holding it.
    fn appending(&self) -> MutexGuard<'_, Vec<usize>> {
        let appending = self.appending.lock();
        appending.unwrap_or_else(PoisonError::into_inner)
    }

    /// What a submission of this, on a thread of the runtime, did to the thread. After one that was
    /// long by the clock, the next one is watched closely.
    pub(crate) fn submitted(&self, order: &Order, stay: Stay) {
        self.suspect.store(stay == Stay::Long, Ordering::Relaxed);
        if let (Stay::Waited, Some(class)) = (stay, self.class(order)) {
            self.habit(class).submitted(true);
        }
    }

    /// The same on a thread of the pool, where all are watched closely.
    pub(crate) fn submitted_from_pool(&self, order: &Order, stay: Stay) {
        if let Some(class) = self.class(order) {
            self.habit(class).submitted(stay == Stay::Waited);
        }
    }

    /// A transfer has shown that there are data up to `end`.
    #[inline]
    pub(crate) fn has_data_to(&self, end: u64) {
        if self.known_end.load(Ordering::Relaxed) < end {
            self.known_end.fetch_max(end, Ordering::Relaxed);
        }
    }

    /// There are no data from `end` on.
    pub(crate) fn ends_at(&self, end: u64) {
        self.known_end.fetch_min(end, Ordering::Relaxed);
    }
}

impl fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenFile")
            .field("file", &self.file)
            .field("policy", &self.policy())
            .finish_non_exhaustive()
    }
}

impl AsRawFd for OpenFile {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;
    use std::sync::Arc;

    use super::super::request::{Again, Outcome, Refusal};
    use super::*;

    #[test]
    fn a_short_attempt_is_made_again_as_a_whole_unless_that_would_append_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let mut options = File::options();
        options.read(true).write(true).create(true);
        for (opcode, flags, again) in [
            (abi::IOCB_CMD_PWRITE, 0, Some(Refusal::Short)),
            (abi::IOCB_CMD_PWRITE, libc::O_APPEND, None),
            (abi::IOCB_CMD_PREAD, libc::O_APPEND, Some(Refusal::Short)),
        ] {
            let file = options.custom_flags(flags).open(&path).unwrap();
            let file = Arc::new(OpenFile::new(file));
            let order = Order {
                nbytes: 8192,
                ..Order::bare(opcode)
            };
            let mut iocb = order.iocb(file.as_raw_fd(), &super::super::Memory::None, 0);
            let attempt = Again::of(&order, &file, Way::NoWait, &mut iocb).unwrap();
            assert_eq!(attempt.refusal(Outcome::Completed(4096)), again);
            let refused = Outcome::Completed(-i64::from(libc::EAGAIN));
            assert_eq!(attempt.refusal(refused), Some(Refusal::WouldWait));
        }
    }
}
