//! [`InFlightTable`]: the entries that the kernel has, with all that a second submission needs.

use std::mem;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::backend::{GIVEN_BACK, MOST_GIVEN_BACK, OpCode, Sqe, refusal};
use crate::sys::abi::{IOPRIO_CLASS_RT, IOPRIO_CLASS_SHIFT};
use crate::sys::duplicate;

/// The entries in flight on a ring.
///
/// The kernel names an entry by its [`Key`], not by its `user_data`. A key is never the key of two
/// entries, except after 2³² entries in the same place. So a duplicate or made-up completion finds
/// nothing.
///
/// # Entries that the kernel gives back
///
/// The kernel ties an entry to the thread that has submitted it. When that thread ends, the kernel cancels what
/// waits for a worker, and later what waits for an event. Nobody has asked for that, so the entry is submitted
/// again. Its descriptor may mean another file by then, unless someone has kept it open:
///
/// - A poll or a sync is submitted again on the same number. On another file it would do no harm. It has not
///   been abandoned, so it can only be on another file if its future was forgotten.
/// - A transfer or a file call goes back to its future, which has the file ([`GIVEN_BACK`]).
/// - A write that was abandoned goes on all the same. So [`InFlightTable::abandon`] duplicates its
///   descriptor.
/// - At the end of the backend, all others end.
///
/// # Entries that the kernel does not take
///
/// If the kernel has no memory for an entry, the entry stays here, and is submitted again. The same is true of
/// its descriptor, and a future that was forgotten keeps no file open. So [`InFlightTable::keep`] duplicates
/// the descriptor of a transfer or a file call, except an open, which has none.
#[derive(Debug)]
pub(in crate::backend) struct InFlightTable {
    /// A power of two of them.
    places: Box<[Place]>,
    in_flight: usize,
    /// Entries that the kernel gave back, or has not taken. The caller submits them again.
    given_back: Vec<Key>,
    /// Entries that ended although the kernel has posted no completion: `user_data` and result.
    ended: Vec<(u64, i64)>,
    /// Duplicates of descriptors that are no longer needed. The caller closes them, without a lock.
    unused: Vec<OwnedFd>,
    /// Only abandoned writes are submitted again.
    is_closing: bool,
}

/// The place of an entry, and its generation in the upper half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key(u64);

#[derive(Debug)]
struct Place {
    state: State,
    generation: u32,
    /// How often the kernel has given back the entry.
    given_back: u8,
    /// Nobody waits for the entry.
    is_abandoned: bool,
    /// A duplicate of the descriptor, of an abandoned write, or of a transfer or file call that the kernel has
    /// not taken.
    file: Option<OwnedFd>,
    sqe: Sqe,
    /// A copy of the iovecs of a vectored transfer: the array of the caller ends with the submission.
    iovecs: Vec<Iovec>,
}

/// An `iovec`, of the same layout: address and length. It holds no pointer, so that the table is `Send`.
type Iovec = [usize; 2];
const _: () = assert!(size_of::<Iovec>() == size_of::<libc::iovec>());
const _: () = assert!(align_of::<Iovec>() == align_of::<libc::iovec>());
const _: () = assert!(mem::offset_of!(libc::iovec, iov_base) == 0);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    InFlight,
    /// Someone has asked for the end of the entry.
    Cancelled,
}

/// Why an entry was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotAdded {
    /// No more entries may be in flight.
    Full,
    /// A poll of the same `user_data` is in flight.
    Exists,
}

/// What a completion means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Completed {
    /// `user_data` and result of an entry, which is no longer in flight.
    Entry(u64, i64),
    /// An entry has opened a file, and is no longer in flight.
    Opened {
        user_data: u64,
        /// The [`Sqe::addr`] of the entry.
        addr: u64,
        descriptor: RawFd,
    },
    /// The kernel gave the entry back.
    GivenBack,
    /// No entry in flight has this key.
    Unknown,
}

/// What a system call returns inside the kernel that a signal has interrupted: `ERESTARTSYS`,
/// `ERESTARTNOINTR`, `ERESTARTNOHAND`, `ERESTART_RESTARTBLOCK`.
const INTERRUPTED: [i32; 4] = [512, 513, 514, 516];

const NO_ENTRY: Sqe = Sqe {
    opcode: OpCode::Fsync,
    priority: 0,
    fd: -1,
    rw_flags: 0,
    addr: 0,
    len: 0,
    offset: 0,
    user_data: 0,
};

impl InFlightTable {
    /// A table for one entry less than `capacity`, a power of two. So a completion queue of that capacity
    /// never fills up.
    pub(super) fn new(capacity: u32) -> InFlightTable {
        debug_assert!(capacity.is_power_of_two());
        let places = (0..capacity).map(|_| Place {
            state: State::Free,
            generation: 0,
            given_back: 0,
            is_abandoned: false,
            file: None,
            sqe: NO_ENTRY,
            iovecs: Vec::new(),
        });
        InFlightTable {
            places: places.collect(),
            in_flight: 0,
            given_back: Vec::new(),
            ended: Vec::new(),
            unused: Vec::new(),
            is_closing: false,
        }
    }

    /// Number of entries in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Adds an entry. `iovecs` are those of a vectored transfer.
    #[inline]
    pub(super) fn add(
        &mut self,
        sqe: &Sqe,
        iovecs: impl Iterator<Item = Iovec>,
    ) -> Result<Key, NotAdded> {
        if self.in_flight + 1 >= self.places.len() {
            return Err(NotAdded::Full);
        }
        // A driver numbers its slots in the lower half of `user_data`, so the first place is free.
        let mask = self.places.len() - 1;
        let mut index = sqe.user_data as u32 as usize & mask;
        while self.places[index].state != State::Free {
            if sqe.opcode == OpCode::Poll && self.places[index].is_poll_of(sqe.user_data) {
                return Err(NotAdded::Exists);
            }
            index = (index + 1) & mask;
        }
        let place = &mut self.places[index];
        place.state = State::InFlight;
        place.generation = place.generation.wrapping_add(1);
        place.given_back = 0;
        place.is_abandoned = false;
        place.sqe = *sqe;
        if sqe.opcode.is_vectored() {
            place.iovecs.clear();
            place.iovecs.extend(iovecs);
        }
        self.in_flight += 1;
        Ok(Key::new(index, place.generation))
    }

    /// The entry of a key, to be submitted. The `addr` of a vectored transfer is that of the copy of its
    /// iovecs, which stays as it is until the completion.
    #[inline]
    pub(super) fn entry(&self, key: Key) -> Option<Sqe> {
        let place = &self.places[self.index(key)?];
        let mut sqe = place.sqe;
        if sqe.opcode.is_vectored() {
            sqe.addr = place.iovecs.as_ptr() as u64;
        }
        if let Some(file) = &place.file {
            sqe.fd = file.as_raw_fd();
        }
        Some(sqe)
    }

    /// Takes note of a completion.
    #[inline]
    pub(super) fn complete(&mut self, key: Key, result: i32) -> Completed {
        let Some(index) = self.index(key) else {
            return Completed::Unknown;
        };
        let mut result = i64::from(result);
        if result < 0 {
            if self.is_resubmitted(index, result) {
                self.places[index].given_back += 1;
                self.given_back.push(key);
                return Completed::GivenBack;
            }
            result = self.error_of(index, result);
        }
        let Sqe {
            user_data,
            opcode,
            addr,
            ..
        } = self.places[index].sqe;
        self.free(index);
        if opcode == OpCode::Open && result >= 0 {
            return Completed::Opened {
                user_data,
                addr,
                descriptor: result as RawFd,
            };
        }
        Completed::Entry(user_data, result)
    }

    /// Whether to submit again an entry that the kernel gave back, on the same descriptor.
    ///
    /// What waits for a page of the page cache ends with `EFAULT`. Memory that is not there looks the same,
    /// so it counts the second time.
    #[cold]
    fn is_resubmitted(&self, index: usize, result: i64) -> bool {
        let place = &self.places[index];
        let opcode = place.sqe.opcode;
        let is_wanted = !place.is_abandoned && !self.is_closing;
        match -result as i32 {
            _ if place.state == State::Cancelled || place.given_back >= MOST_GIVEN_BACK => false,
            libc::ECANCELED if opcode.is_transfer() => place.file.is_some(),
            libc::ECANCELED if opcode.is_file_call() => false,
            libc::ECANCELED => is_wanted,
            libc::EFAULT => {
                let is_read = opcode.is_transfer() && !opcode.is_write();
                is_read && is_wanted && place.given_back == 0
            }
            _ => false,
        }
    }

    /// The result of the contract, for a negative result of the kernel.
    #[cold]
    fn error_of(&self, index: usize, result: i64) -> i64 {
        let place = &self.places[index];
        let (errno, opcode) = (-result as i32, place.sqe.opcode);
        let goes_back = opcode.is_transfer() || opcode.is_file_call();
        let is_real_time = place.sqe.priority >> IOPRIO_CLASS_SHIFT == IOPRIO_CLASS_RT;
        match errno {
            // A signal, which the kernel sends itself to cancel an open that waits for another process.
            _ if opcode == OpCode::Open && INTERRUPTED.contains(&errno) => -i64::from(libc::EINTR),
            libc::ECANCELED if opcode == OpCode::Open && place.state == State::Cancelled => result,
            libc::ECANCELED if opcode == OpCode::Poll || place.state == State::Cancelled => 0,
            libc::ECANCELED if goes_back && !place.is_abandoned && !self.is_closing => GIVEN_BACK,
            // The kernel can start no thread for it.
            libc::ECANCELED if place.given_back >= MOST_GIVEN_BACK => refusal(libc::EAGAIN),
            libc::EBADF | libc::EOPNOTSUPP => refusal(errno),
            libc::EINVAL if !opcode.is_transfer() => refusal(errno),
            libc::EPERM if opcode.is_transfer() && is_real_time => refusal(errno),
            libc::EISDIR if opcode != OpCode::Open => refusal(libc::EINVAL), // as AIO
            _ => result,
        }
    }

    /// Takes the keys of the entries that the kernel gave back.
    pub(super) fn take_given_back(&mut self) -> Vec<Key> {
        mem::take(&mut self.given_back)
    }

    pub(super) fn has_given_back(&self) -> bool {
        !self.given_back.is_empty()
    }

    /// The caller has not submitted this entry again.
    pub(super) fn give_back(&mut self, key: Key) {
        self.given_back.push(key);
    }

    /// Keeps an entry that the kernel has not taken, to be submitted again. Returns `false` if it needs a
    /// descriptor, and there is none.
    #[cold]
    pub(super) fn keep(&mut self, user_data: u64) -> bool {
        let Some(index) = self.find(user_data) else {
            return false;
        };
        let place = &mut self.places[index];
        let opcode = place.sqe.opcode;
        let is_on_file = opcode.is_transfer() || opcode.is_file_call() && opcode != OpCode::Open;
        if place.file.is_none() && is_on_file {
            place.file = duplicate(place.sqe.fd).ok();
            if place.file.is_none() {
                return false;
            }
        }
        let key = Key::new(index, place.generation);
        self.given_back.push(key);
        true
    }

    /// Removes an entry that the kernel has not taken. Nobody is told.
    #[cold]
    pub(super) fn remove(&mut self, user_data: u64) {
        if let Some(index) = self.find(user_data) {
            self.free(index);
        }
    }

    /// Ends an entry of which the kernel posts no completion, or not in time. [`InFlightTable::take_ended`]
    /// returns it.
    #[cold]
    pub(super) fn end(&mut self, key: Key, result: i64) {
        if let Some(index) = self.index(key) {
            self.ended.push((self.places[index].sqe.user_data, result));
            self.free(index);
        }
    }

    /// Ends an entry because the kernel refuses all submissions with `errno`.
    #[cold]
    pub(super) fn refuse(&mut self, key: Key, errno: i32) {
        let Some(index) = self.index(key) else {
            return;
        };
        let opcode = self.places[index].sqe.opcode;
        // A transfer gets the error from the attempt of its future.
        let result = match opcode.is_transfer() || opcode.is_file_call() {
            true => GIVEN_BACK,
            false => refusal(errno),
        };
        self.end(key, result);
    }

    /// Takes an entry that was ended: its `user_data` and result.
    pub(super) fn take_ended(&mut self) -> Option<(u64, i64)> {
        self.ended.pop()
    }

    pub(super) fn has_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    pub(super) fn is_poll(&self, key: Key) -> bool {
        self.index(key)
            .is_some_and(|index| self.places[index].sqe.opcode == OpCode::Poll)
    }

    fn free(&mut self, index: usize) {
        let place = &mut self.places[index];
        place.state = State::Free;
        self.unused.extend(place.file.take());
        self.in_flight -= 1;
    }

    /// Moves the descriptors to close to `unused`.
    pub(super) fn move_unused(&mut self, unused: &mut Vec<OwnedFd>) {
        unused.append(&mut self.unused);
    }

    /// The place of the entry in flight with this `user_data`.
    fn find(&self, user_data: u64) -> Option<usize> {
        let is_it =
            |place: &Place| place.state == State::InFlight && place.sqe.user_data == user_data;
        let first = user_data as u32 as usize & (self.places.len() - 1);
        match is_it(&self.places[first]) {
            true => Some(first),
            false => self.places.iter().position(is_it),
        }
    }

    /// If the kernel does not have the entry, because it gave it back or has not taken it, ends the entry as
    /// cancelled, and returns `true`.
    #[cold]
    pub(super) fn cancel_given_back(&mut self, key: Key) -> bool {
        let Some(position) = self.given_back.iter().position(|other| *other == key) else {
            return false;
        };
        self.given_back.swap_remove(position);
        self.end(key, self.cancelled_result(key));
        true
    }

    /// Takes note that nobody waits for the entry of this `user_data`. If it is a poll or a read, marks it as
    /// cancelled, and returns its key: the kernel should be asked to cancel it. `None` if there is none, if it
    /// is marked, or if it goes on.
    pub(super) fn abandon(&mut self, user_data: u64) -> Option<Key> {
        let index = self.find(user_data)?;
        let place = &mut self.places[index];
        place.is_abandoned = true;
        if place.is_cancellable() {
            place.state = State::Cancelled;
            return Some(Key::new(index, place.generation));
        }
        if place.sqe.opcode.is_write() && place.file.is_none() {
            place.file = duplicate(place.sqe.fd).ok(); // if not, it may end with its thread
        }
        None
    }

    /// The result of an entry that is cancelled before the kernel has it.
    fn cancelled_result(&self, key: Key) -> i64 {
        let index = self.index(key);
        match index.is_some_and(|index| self.places[index].sqe.opcode == OpCode::Open) {
            true => -i64::from(libc::ECANCELED), // 0 would be a success
            false => 0,
        }
    }

    /// The kernel has not found an entry that was marked as cancelled.
    pub(super) fn unmark_cancelled(&mut self, key: Key) {
        if let Some(index) = self.index(key) {
            self.places[index].state = State::InFlight;
        }
    }

    /// Marks all polls and reads as cancelled; returns their keys. From now on only abandoned writes are
    /// submitted again: of others, the descriptor may mean another file. Those that the kernel does not have
    /// end.
    pub(super) fn close(&mut self) -> Vec<Key> {
        self.is_closing = true;
        for key in mem::take(&mut self.given_back) {
            match self.index(key) {
                Some(index) if self.places[index].goes_on() => self.given_back.push(key),
                _ => self.end(key, -i64::from(libc::ECANCELED)),
            }
        }
        let places = self.places.iter_mut().enumerate();
        let cancelled = places.filter(|(_, place)| place.is_cancellable());
        cancelled
            .map(|(index, place)| {
                place.state = State::Cancelled;
                Key::new(index, place.generation)
            })
            .collect()
    }

    #[inline]
    fn index(&self, key: Key) -> Option<usize> {
        let index = key.0 as u32 as usize;
        let place = self.places.get(index)?;
        let is_it = place.state != State::Free && place.generation == (key.0 >> 32) as u32;
        is_it.then_some(index)
    }
}

impl Key {
    #[inline]
    fn new(index: usize, generation: u32) -> Key {
        Key(u64::from(generation) << 32 | index as u64)
    }

    #[inline]
    pub(super) fn from_user_data(user_data: u64) -> Key {
        Key(user_data)
    }

    #[inline]
    pub(super) fn user_data(self) -> u64 {
        self.0
    }
}

impl Place {
    fn is_poll_of(&self, user_data: u64) -> bool {
        self.sqe.opcode == OpCode::Poll && self.sqe.user_data == user_data
    }

    /// An abandoned write that has its file.
    fn goes_on(&self) -> bool {
        self.is_abandoned && self.sqe.opcode.is_write() && self.file.is_some()
    }

    /// A write goes on once it was submitted, on every backend, and a sync or a file call with it, except an
    /// open: that of a FIFO waits for another process.
    fn is_cancellable(&self) -> bool {
        let opcode = self.sqe.opcode;
        let is_read = opcode.is_transfer() && !opcode.is_write();
        self.state != State::Free && (is_read || opcode.waits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sqe(opcode: OpCode, user_data: u64) -> Sqe {
        Sqe {
            opcode,
            user_data,
            ..NO_ENTRY
        }
    }

    fn add(table: &mut InFlightTable, opcode: OpCode, user_data: u64) -> Result<Key, NotAdded> {
        table.add(&sqe(opcode, user_data), std::iter::empty())
    }

    #[test]
    fn entries_of_one_place_find_others_until_the_table_is_full() {
        let mut table = InFlightTable::new(4);
        let keys: Vec<_> = (0..3)
            .map(|n| add(&mut table, OpCode::Fsync, n << 32 | 3).unwrap())
            .collect();
        assert_eq!(table.in_flight(), 3);
        assert_eq!(add(&mut table, OpCode::Fsync, 9), Err(NotAdded::Full));
        for (n, key) in keys.into_iter().enumerate() {
            let user_data = (n as u64) << 32 | 3;
            assert_eq!(table.complete(key, 0), Completed::Entry(user_data, 0));
        }
        assert_eq!(table.in_flight(), 0);
        add(&mut table, OpCode::Fsync, 9).unwrap();
    }

    #[test]
    fn a_second_and_a_made_up_completion_are_unknown() {
        let mut table = InFlightTable::new(2);
        let key = add(&mut table, OpCode::Read, 5).unwrap();
        assert_eq!(table.complete(key, 7), Completed::Entry(5, 7));
        assert_eq!(table.complete(key, 7), Completed::Unknown);
        add(&mut table, OpCode::Read, 5).unwrap();
        assert_eq!(table.complete(key, 7), Completed::Unknown, "the former one");
        for made_up in [0, 2, u64::MAX] {
            let key = Key::from_user_data(made_up);
            assert_eq!(table.complete(key, 0), Completed::Unknown);
        }
        assert_eq!(table.in_flight(), 1);
    }

    #[test]
    fn what_the_kernel_gave_back_is_taken_once_and_keeps_its_key() {
        let mut table = InFlightTable::new(2);
        let key = add(&mut table, OpCode::Fsync, 5).unwrap();
        for _ in 0..MOST_GIVEN_BACK {
            assert_eq!(table.complete(key, -libc::ECANCELED), Completed::GivenBack);
            assert!(table.has_given_back());
            assert_eq!(table.take_given_back(), [key]);
            assert!(!table.has_given_back());
            assert_eq!(table.entry(key).unwrap().user_data, 5);
        }
        let last = table.complete(key, -libc::ECANCELED);
        assert_eq!(last, Completed::Entry(5, refusal(libc::EAGAIN)));
    }

    #[test]
    fn a_transfer_that_the_kernel_has_not_taken_keeps_its_file() {
        let (mut reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut table = InFlightTable::new(4);
        let write = Sqe {
            fd: writer.as_raw_fd(),
            ..sqe(OpCode::Write, 5)
        };
        let key = table.add(&write, std::iter::empty()).unwrap();
        assert!(table.keep(5));
        assert_eq!(table.take_given_back(), [key]);
        assert_ne!(table.entry(key).unwrap().fd, write.fd);
        drop(writer);
        table.give_back(key);
        assert_eq!(table.close(), [], "its future may still be there");
        let canceled = -i64::from(libc::ECANCELED);
        assert_eq!(table.take_ended(), Some((5, canceled)));
        assert!(!table.has_given_back());
        assert_eq!(table.in_flight(), 0);
        assert_closes_its_file(&mut table, &mut reader);
        add(&mut table, OpCode::Write, 6).unwrap(); // of no file
        assert!(!table.keep(6));
    }

    #[test]
    fn an_abandoned_write_that_the_kernel_has_not_taken_goes_on_at_the_end() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let mut table = InFlightTable::new(2);
        let write = Sqe {
            fd: file.as_raw_fd(),
            ..sqe(OpCode::Write, 5)
        };
        let key = table.add(&write, std::iter::empty()).unwrap();
        assert!(table.keep(5));
        assert_eq!(table.abandon(5), None);
        table.close();
        assert_eq!(table.take_given_back(), [key]);
    }

    #[test]
    fn a_poll_that_the_kernel_does_not_have_ends_when_it_is_cancelled() {
        let mut table = InFlightTable::new(2);
        let key = add(&mut table, OpCode::Poll, 5).unwrap();
        assert!(!table.cancel_given_back(key), "the kernel has it");
        assert!(table.keep(5));
        assert_eq!(table.abandon(5), Some(key));
        assert!(table.cancel_given_back(key));
        assert_eq!(table.take_ended(), Some((5, 0)));
        assert!(!table.has_given_back());
        assert_eq!(table.complete(key, 1), Completed::Unknown);
    }

    #[test]
    fn of_entries_that_the_kernel_refuses_transfers_go_back_to_their_future() {
        let mut table = InFlightTable::new(4);
        let read = add(&mut table, OpCode::Read, 1).unwrap();
        let sync = add(&mut table, OpCode::Fsync, 2).unwrap();
        table.refuse(read, libc::EPERM);
        assert_eq!(table.take_ended(), Some((1, GIVEN_BACK)));
        table.refuse(sync, libc::EPERM);
        assert_eq!(table.take_ended(), Some((2, refusal(libc::EPERM))));
        assert_eq!(table.in_flight(), 0);
    }

    #[test]
    fn a_bad_address_counts_the_second_time_for_a_read_and_at_once_for_a_write() {
        let mut table = InFlightTable::new(2);
        let bad = Completed::Entry(5, -i64::from(libc::EFAULT));
        let key = add(&mut table, OpCode::Read, 5).unwrap();
        assert_eq!(table.complete(key, -libc::EFAULT), Completed::GivenBack);
        assert_eq!(table.complete(key, -libc::EFAULT), bad);
        let key = add(&mut table, OpCode::Write, 5).unwrap();
        assert_eq!(table.complete(key, -libc::EFAULT), bad);
    }

    #[test]
    fn transfers_that_were_given_back_go_back_to_their_caller() {
        let mut table = InFlightTable::new(2);
        for opcode in [OpCode::Read, OpCode::Write, OpCode::Truncate] {
            let key = add(&mut table, opcode, 5).unwrap();
            let completed = table.complete(key, -libc::ECANCELED);
            assert_eq!(completed, Completed::Entry(5, GIVEN_BACK));
        }
    }

    #[test]
    fn file_calls_go_on_when_they_are_abandoned() {
        let mut table = InFlightTable::new(2);
        let key = add(&mut table, OpCode::Allocate, 5).unwrap();
        assert_eq!(table.abandon(5), None);
        assert_eq!(table.close(), []);
        assert_eq!(table.complete(key, 0), Completed::Entry(5, 0));
    }

    /// Checks that `table` gives one descriptor to its caller, and that this was the last one of the file whose
    /// other end is `reader`.
    fn assert_closes_its_file(
        table: &mut InFlightTable,
        reader: &mut std::os::unix::net::UnixStream,
    ) {
        let mut unused = Vec::new();
        table.move_unused(&mut unused);
        assert_eq!(unused.len(), 1);
        drop(unused); // by the caller, without a lock
        let closed = std::io::Read::read(reader, &mut [0]).unwrap();
        assert_eq!(closed, 0, "the file is closed");
    }

    #[test]
    fn an_abandoned_write_keeps_its_file_until_it_is_done() {
        let (mut reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut table = InFlightTable::new(2);
        let write = Sqe {
            fd: writer.as_raw_fd(),
            ..sqe(OpCode::Write, 5)
        };
        let key = table.add(&write, std::iter::empty()).unwrap();
        assert_eq!(table.abandon(5), None, "writes go on");
        drop(writer);
        assert_eq!(table.complete(key, -libc::ECANCELED), Completed::GivenBack);
        assert_ne!(table.entry(key).unwrap().fd, write.fd);
        let failed = -i64::from(libc::EIO);
        assert_eq!(table.complete(key, -libc::EIO), Completed::Entry(5, failed));
        assert_closes_its_file(&mut table, &mut reader);
    }

    #[test]
    fn a_cancelled_poll_has_no_events_and_a_cancelled_read_no_bytes() {
        let mut table = InFlightTable::new(4);
        let poll = add(&mut table, OpCode::Poll, 1).unwrap();
        let read = add(&mut table, OpCode::Read, 2).unwrap();
        assert_eq!(table.abandon(1), Some(poll));
        assert_eq!(table.abandon(1), None, "it is marked");
        assert_eq!(table.abandon(2), Some(read));
        let canceled = -libc::ECANCELED;
        assert_eq!(table.complete(poll, canceled), Completed::Entry(1, 0));
        assert_eq!(table.complete(read, canceled), Completed::Entry(2, 0));
    }

    #[test]
    fn a_poll_that_was_not_found_can_be_cancelled_again() {
        let mut table = InFlightTable::new(2);
        let key = add(&mut table, OpCode::Poll, 1).unwrap();
        assert_eq!(table.abandon(1), Some(key));
        table.unmark_cancelled(key);
        assert_eq!(table.abandon(1), Some(key));
        table.complete(key, 1);
        table.unmark_cancelled(key); // it is gone
        assert_eq!(table.abandon(1), None);
    }

    #[test]
    fn at_the_end_only_abandoned_writes_are_submitted_again() {
        let mut table = InFlightTable::new(8);
        let poll = add(&mut table, OpCode::Poll, 1).unwrap();
        let sync = add(&mut table, OpCode::Fdatasync, 2).unwrap();
        let write = add(&mut table, OpCode::Write, 3).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let abandoned = Sqe {
            fd: file.as_raw_fd(),
            ..sqe(OpCode::Write, 4)
        };
        let abandoned = table.add(&abandoned, std::iter::empty()).unwrap();
        table.abandon(4);
        assert_eq!(table.close(), [poll]);
        let (canceled, failed) = (-libc::ECANCELED, -i64::from(libc::ECANCELED));
        assert_eq!(table.complete(poll, canceled), Completed::Entry(1, 0));
        assert_eq!(table.complete(sync, canceled), Completed::Entry(2, failed));
        assert_eq!(table.complete(write, canceled), Completed::Entry(3, failed));
        assert_eq!(table.complete(abandoned, canceled), Completed::GivenBack);
    }

    #[test]
    fn errors_that_other_backends_refuse_are_refusals() {
        let mut table = InFlightTable::new(2);
        for (opcode, errno, expected) in [
            (OpCode::Read, libc::EBADF, refusal(libc::EBADF)),
            (OpCode::Read, libc::EISDIR, refusal(libc::EINVAL)),
            (OpCode::Write, libc::EOPNOTSUPP, refusal(libc::EOPNOTSUPP)),
            (OpCode::Fsync, libc::EINVAL, refusal(libc::EINVAL)),
            (OpCode::Read, libc::EINVAL, -i64::from(libc::EINVAL)),
            (OpCode::Write, libc::EPERM, -i64::from(libc::EPERM)),
            (OpCode::Fsync, libc::EIO, -i64::from(libc::EIO)),
        ] {
            let key = add(&mut table, opcode, 4).unwrap();
            let completed = Completed::Entry(4, expected);
            assert_eq!(table.complete(key, -errno), completed, "{opcode:?}");
        }
    }

    #[test]
    fn an_open_stores_its_descriptor_once() {
        let mut table = InFlightTable::new(2);
        let open = Sqe {
            addr: 8,
            ..sqe(OpCode::Open, 4)
        };
        for descriptor in [0, 7] {
            let key = table.add(&open, std::iter::empty()).unwrap();
            let opened = Completed::Opened {
                user_data: 4,
                addr: 8,
                descriptor,
            };
            assert_eq!(table.complete(key, descriptor), opened);
            assert_eq!(table.complete(key, descriptor), Completed::Unknown);
        }
        // One that was cancelled too late has opened the file all the same.
        let key = table.add(&open, std::iter::empty()).unwrap();
        assert_eq!(table.abandon(4), Some(key));
        assert!(matches!(
            table.complete(key, 9),
            Completed::Opened { descriptor: 9, .. }
        ));
        assert_eq!(table.in_flight(), 0);
    }

    #[test]
    fn errors_of_an_open_are_those_of_the_call() {
        let mut table = InFlightTable::new(2);
        for (errno, expected) in [
            (libc::ENOENT, -i64::from(libc::ENOENT)),
            (libc::EISDIR, -i64::from(libc::EISDIR)),
            (libc::EACCES, -i64::from(libc::EACCES)),
            (libc::EINVAL, refusal(libc::EINVAL)),
            (libc::EOPNOTSUPP, refusal(libc::EOPNOTSUPP)),
            (libc::ECANCELED, GIVEN_BACK), // its thread has ended
            (libc::EINTR, -i64::from(libc::EINTR)),
            (512, -i64::from(libc::EINTR)), // what the kernel returns to itself
            (513, -i64::from(libc::EINTR)),
            (514, -i64::from(libc::EINTR)),
            (516, -i64::from(libc::EINTR)),
        ] {
            let key = add(&mut table, OpCode::Open, 4).unwrap();
            let completed = Completed::Entry(4, expected);
            assert_eq!(table.complete(key, -errno), completed, "{errno}");
        }
        let key = add(&mut table, OpCode::Open, 4).unwrap();
        table.abandon(4);
        let (canceled, failed) = (-libc::ECANCELED, -i64::from(libc::ECANCELED));
        assert_eq!(table.complete(key, canceled), Completed::Entry(4, failed));
    }

    #[test]
    fn an_open_that_the_kernel_has_not_taken_needs_no_descriptor_and_can_be_cancelled() {
        let mut table = InFlightTable::new(4);
        let failed = -i64::from(libc::ECANCELED);
        let open = add(&mut table, OpCode::Open, 4).unwrap();
        assert!(table.keep(4), "although it has the descriptor -1");
        assert_eq!(table.take_given_back(), [open]);
        table.give_back(open);
        assert_eq!(table.abandon(4), Some(open));
        assert!(table.cancel_given_back(open));
        assert_eq!(table.take_ended(), Some((4, failed)));
        add(&mut table, OpCode::Open, 5).unwrap();
        assert!(table.keep(5));
        assert_eq!(table.close(), []);
        assert_eq!(table.take_ended(), Some((5, failed)));
        assert_eq!(table.in_flight(), 0);
        let mut unused = Vec::new();
        table.move_unused(&mut unused);
        assert!(unused.is_empty());
    }

    #[test]
    fn iovecs_are_copied() {
        let mut table = InFlightTable::new(2);
        let vectored = Sqe {
            addr: 1,
            len: 2,
            ..sqe(OpCode::ReadVectored, 4)
        };
        let key = table
            .add(&vectored, [[10, 11], [20, 21]].into_iter())
            .unwrap();
        assert_eq!(table.places[0].iovecs, [[10, 11], [20, 21]]);
        let copy = table.places[0].iovecs.as_ptr() as u64;
        assert_eq!(table.entry(key).unwrap().addr, copy);
    }
}
