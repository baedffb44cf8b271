//! Polls, and their end.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use libc::{POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDNORM};

use super::rig::{Rig, file_with, on_both, pipe, sync};
use crate::sys::abi::Iocb;
use crate::sys::{FixedIocb, Kernel, System, Threads};

/// What a pipe tells where there is something to read. Asked for in full, because the kernel's AIO
/// tells all of it where that comes after the poll.
const READ: i16 = POLLIN | POLLRDNORM;
const IN: i64 = READ as i64;
const OUT: i64 = POLLOUT as i64;
const HUP: i64 = POLLHUP as i64;

#[test]
fn a_poll_is_done_when_there_is_something_to_read() {
    on_both(|rig| {
        let (reader, mut writer) = pipe();
        let fixed = FixedIocb::new();
        // SAFETY: `fixed` stays until the event.
        unsafe { rig.poll(&fixed, &reader, READ, 7) }.unwrap();
        assert!(rig.is_quiet());
        writer.write_all(b"!").unwrap();
        assert_eq!(rig.next_event(), [(7, IN)]);
    });
}

#[test]
fn a_poll_may_tell_more_than_it_was_asked() {
    on_both(|rig| {
        let (reader, mut writer) = pipe();
        let fixed = FixedIocb::new();
        // SAFETY: `fixed` stays until the event.
        unsafe { rig.poll(&fixed, &reader, POLLIN, 7) }.unwrap();
        writer.write_all(b"!").unwrap();
        let [(7, found)] = rig.next_event()[..] else {
            unreachable!();
        };
        assert!(found == IN || found == i64::from(POLLIN), "{found:x}");
    });
}

#[test]
fn a_poll_of_what_is_ready_is_done_at_once() {
    on_both(|rig| {
        let (_reader, writer) = pipe();
        let fixed = FixedIocb::new();
        // SAFETY: `fixed` stays until the event.
        unsafe { rig.poll(&fixed, &writer, POLLOUT | READ, 7) }.unwrap();
        assert_eq!(rig.next_event(), [(7, OUT)]);
    });
}

#[test]
fn a_poll_tells_of_a_hangup_unasked() {
    on_both(|rig| {
        let (reader, writer) = pipe();
        let fixed = FixedIocb::new();
        // SAFETY: `fixed` stays until the event.
        unsafe { rig.poll(&fixed, &reader, 0, 7) }.unwrap();
        assert!(rig.is_quiet());
        drop(writer);
        assert_eq!(rig.next_event(), [(7, HUP)]);
    });
}

#[test]
fn a_poll_tells_of_an_error_unasked() {
    on_both(|rig| {
        let (reader, writer) = pipe();
        drop(reader);
        let fixed = FixedIocb::new();
        // SAFETY: `fixed` stays until the event.
        unsafe { rig.poll(&fixed, &writer, 0, 7) }.unwrap();
        assert_eq!(rig.next_event(), [(7, i64::from(POLLERR))]);
    });
}

#[test]
fn a_regular_file_is_ready_for_all_that_is_asked() {
    on_both(|rig| {
        let file = file_with(b"");
        let fixed = FixedIocb::new();
        // SAFETY: `fixed` stays until the event.
        unsafe { rig.poll(&fixed, &file, READ | POLLOUT, 7) }.unwrap();
        assert_eq!(rig.next_event(), [(7, IN | OUT)]);
    });
}

#[test]
fn a_poll_outlives_the_descriptor_that_it_was_submitted_with() {
    on_both(|rig| {
        let (reader, mut writer) = pipe();
        let fixed = FixedIocb::new();
        // SAFETY: `fixed` stays until the event.
        unsafe { rig.poll(&fixed, &reader, READ, 7) }.unwrap();
        drop(reader);
        writer.write_all(b"!").unwrap();
        assert_eq!(rig.next_event(), [(7, IN)]);
    });
}

#[test]
fn a_cancelled_poll_ends_with_nothing() {
    on_both(|rig| {
        let (reader, _writer) = pipe();
        let fixed = FixedIocb::new();
        // SAFETY: `fixed` stays until the event.
        unsafe { rig.poll(&fixed, &reader, READ, 7) }.unwrap();
        assert!(rig.cancel(&fixed));
        assert_eq!(rig.next_event(), [(7, 0)]);
    });
}

#[test]
fn a_poll_that_is_done_is_not_there_to_be_cancelled() {
    on_both(|rig| {
        let (reader, mut writer) = pipe();
        writer.write_all(b"!").unwrap();
        let fixed = FixedIocb::new();
        // SAFETY: `fixed` stays until the event.
        unsafe { rig.poll(&fixed, &reader, READ, 7) }.unwrap();
        assert!(!rig.cancel(&fixed));
        assert_eq!(rig.next_event(), [(7, IN)]);
        assert!(!rig.cancel(&fixed));
        assert!(rig.is_quiet());
    });
}

#[test]
fn cancelling_one_of_two_polls_of_a_descriptor_leaves_the_other() {
    on_both(|rig| {
        let (reader, mut writer) = pipe();
        let (stays, goes) = (FixedIocb::new(), FixedIocb::new());
        // SAFETY: `stays` stays until the event.
        unsafe { rig.poll(&stays, &reader, READ, 1) }.unwrap();
        // SAFETY: `goes` does, too.
        unsafe { rig.poll(&goes, &reader, READ, 2) }.unwrap();
        assert!(rig.cancel(&goes));
        assert_eq!(rig.next_event(), [(2, 0)]);
        assert!(!rig.cancel(&goes));
        writer.write_all(b"!").unwrap();
        assert_eq!(rig.next_event(), [(1, IN)]);
    });
}

#[test]
fn polls_of_one_file_are_all_told() {
    on_both(|rig| {
        let (reader, mut writer) = pipe();
        let fixed: Vec<_> = (0..5).map(|_| FixedIocb::new()).collect();
        for (tag, fixed) in (0..).zip(&fixed) {
            // SAFETY: it stays until the event.
            unsafe { rig.poll(fixed, &reader, READ, tag) }.unwrap();
        }
        writer.write_all(b"!").unwrap();
        let told: Vec<_> = (0..5).map(|tag| (tag, IN)).collect();
        assert_eq!(rig.events(5), told);
    });
}

#[test]
fn one_poll_comes_after_another() {
    on_both(|rig| {
        let (mut reader, mut writer) = pipe();
        for tag in 0..100 {
            let fixed = FixedIocb::new();
            // SAFETY: `fixed` stays until the event.
            unsafe { rig.poll(&fixed, &reader, READ, tag) }.unwrap();
            writer.write_all(b"!").unwrap();
            assert_eq!(rig.next_event(), [(tag, IN)]);
            reader.read_exact(&mut [0]).unwrap();
        }
    });
}

#[test]
fn polls_go_along_with_transfers_in_one_batch() {
    on_both(|rig| {
        let (reader, _writer) = pipe();
        let (waits, is_ready) = (FixedIocb::new(), FixedIocb::new());
        let file = file_with(b"");
        let stand_in = |fixed, fd: i32, tag| Iocb {
            fildes: fd as u32,
            data: tag,
            ..Iocb::stand_in(fixed, READ as u16)
        };
        let mut batch = [
            sync(&file, 1),
            stand_in(&waits, reader.as_raw_fd(), 2),
            sync(&file, 3),
            stand_in(&is_ready, file.as_raw_fd(), 4),
            sync(&file, 5),
        ];
        // SAFETY: what the stand-ins stand for stays until the events; nothing else has memory.
        unsafe { rig.submit(&mut batch) }.unwrap();
        assert_eq!(rig.events(4), [(1, 0), (3, 0), (4, IN), (5, 0)]);
        assert!(rig.cancel(&waits));
        assert_eq!(rig.next_event(), [(2, 0)]);
    });
}

#[test]
fn a_poll_of_no_file_is_refused() {
    on_both(|rig| {
        let path = File::options()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open("/")
            .unwrap();
        let fixed = FixedIocb::new();
        for fd in [-1, i32::MAX, path.as_raw_fd()] {
            // SAFETY: it is refused.
            let answer = unsafe { rig.poll(&fixed, &fd, READ, 7) };
            assert_eq!(answer, Err(libc::EBADF), "{fd}");
        }
        assert!(rig.is_quiet());
    });
}

#[test]
fn a_poll_that_says_what_polls_have_not_is_refused() {
    on_both(|rig| {
        let (reader, _writer) = pipe();
        let fixed = FixedIocb::new();
        let good = Iocb {
            fildes: reader.as_raw_fd() as u32,
            ..Iocb::stand_in(&fixed, READ as u16)
        };
        let strange = [
            Iocb { offset: 1, ..good },
            Iocb {
                rw_flags: 1,
                ..good
            },
            Iocb {
                nbytes: 1 << 16 | READ as u64,
                ..good
            },
        ];
        for iocb in strange {
            // SAFETY: it is refused.
            assert_eq!(unsafe { rig.submit(&mut [iocb]) }, Err(libc::EINVAL));
        }
        assert!(rig.is_quiet());
    });
}

#[test]
fn a_poll_that_was_refused_can_be_submitted_once_more() {
    on_both(|rig| {
        let (reader, mut writer) = pipe();
        let fixed = FixedIocb::new();
        // SAFETY: it is refused.
        unsafe { rig.poll(&fixed, &-1, READ, 7) }.unwrap_err();
        // SAFETY: `fixed` stays until the event.
        unsafe { rig.poll(&fixed, &reader, READ, 7) }.unwrap();
        writer.write_all(b"!").unwrap();
        assert_eq!(rig.next_event(), [(7, IN)]);
    });
}

#[test]
fn a_kernel_that_is_dropped_does_not_wait_for_polls() {
    on_both(|rig| {
        let fresh = match &rig.kernel {
            System::Aio(_) => System::Aio(crate::sys::Aio::setup(16).unwrap()),
            System::Threads(_) => System::Threads(Threads::new()),
        };
        let (mut reader, writer) = pipe();
        let fixed = FixedIocb::new();
        let rig = std::mem::replace(&mut rig.kernel, fresh);
        let port = rig.port();
        let stand_in = Iocb {
            fildes: writer.as_raw_fd() as u32,
            ..Iocb::stand_in(&fixed, 0)
        };
        // SAFETY: `fixed` stays until the kernel has gone.
        unsafe { System::submit(&port, &mut [stand_in]) }.unwrap();
        drop(rig);
        // It has let go of the file, too.
        drop(writer);
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        if matches!(port, crate::sys::system::SystemPort::Threads(_)) {
            assert!(!System::cancel(&port, &fixed));
        }
    });
}

#[test]
fn threads_let_go_of_the_file_of_a_poll_that_was_cancelled() {
    let mut rig = Rig::on_threads();
    let (mut reader, writer) = pipe();
    let fixed = FixedIocb::new();
    // SAFETY: `fixed` stays until the event.
    unsafe { rig.poll(&fixed, &writer, 0, 7) }.unwrap();
    drop(writer);
    assert!(rig.cancel(&fixed));
    assert_eq!(rig.next_event(), [(7, 0)]);
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

#[test]
fn threads_end_a_poll_at_once_that_was_cancelled_before() {
    let mut rig = Rig::on_threads();
    let (reader, mut writer) = pipe();
    writer.write_all(b"!").unwrap();
    let (waits, is_ready) = (FixedIocb::new(), FixedIocb::new());
    assert!(!rig.cancel(&waits) && !rig.cancel(&is_ready));
    // SAFETY: `is_ready` stays until the event.
    unsafe { rig.poll(&is_ready, &reader, READ, 7) }.unwrap();
    assert_eq!(rig.next_event(), [(7, 0)]);
    // SAFETY: `waits` does, too.
    unsafe { rig.poll(&waits, &writer, 0, 8) }.unwrap();
    assert_eq!(rig.next_event(), [(8, 0)]);
}

#[test]
fn a_cancelled_poll_has_one_event_whenever_that_is() {
    on_both(|rig| {
        for tag in 0..300 {
            let (reader, mut writer) = pipe();
            let fixed = FixedIocb::new();
            std::thread::scope(|scope| {
                let port = rig.kernel.port();
                // SAFETY: `fixed` stays until the event.
                unsafe { rig.poll(&fixed, &reader, READ, tag) }.unwrap();
                scope.spawn(|| writer.write_all(b"!"));
                System::cancel(&port, &fixed);
            });
            let event = rig.next_event();
            assert!(event == [(tag, IN)] || event == [(tag, 0)], "{event:?}");
        }
        assert!(rig.is_quiet());
    });
}

#[test]
fn a_poll_that_is_cancelled_while_it_is_submitted_has_one_event() {
    let mut rig = Rig::on_threads();
    let (reader, _writer) = pipe();
    for tag in 0..300 {
        let fixed = FixedIocb::new();
        std::thread::scope(|scope| {
            let port = rig.kernel.port();
            let cancelled = &fixed;
            scope.spawn(move || System::cancel(&port, cancelled));
            // SAFETY: `fixed` stays until the event.
            unsafe { rig.poll(&fixed, &reader, READ, tag) }.unwrap();
        });
        assert_eq!(rig.next_event(), [(tag, 0)]);
    }
}

#[test]
fn the_thread_is_there_as_long_as_something_waits() {
    let mut rig = Rig::on_threads();
    let System::Threads(threads) = &rig.kernel else {
        unreachable!();
    };
    let poller = std::sync::Arc::clone(threads.poller());
    let (reader, _writer) = pipe();
    for tag in 0..10 {
        assert!(!poller.has_thread() || tag > 0);
        let fixed = FixedIocb::new();
        // SAFETY: `fixed` stays until the event.
        unsafe { rig.poll(&fixed, &reader, READ, tag) }.unwrap();
        assert!(poller.has_thread());
        assert!(rig.cancel(&fixed));
        assert_eq!(rig.next_event(), [(tag, 0)]);
    }
    while poller.has_thread() {
        std::thread::yield_now();
    }
}

#[test]
fn a_child_uses_neither_polls_nor_their_thread() {
    let rig = Rig::on_threads();
    let (reader, _writer) = pipe();
    let fixed = FixedIocb::new();
    // SAFETY: `fixed` stays until the kernel has gone.
    unsafe { rig.poll(&fixed, &reader, READ, 7) }.unwrap();
    let System::Threads(threads) = &rig.kernel else {
        unreachable!();
    };
    let locked = threads.poller().hold();
    // SAFETY: the child uses what it has of its own, then ends without further ado.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: takes a number. It ends a child that waits.
        unsafe { libc::alarm(20) };
        let found = rig.cancel(&fixed);
        // SAFETY: it is refused.
        let refused = unsafe { rig.poll(&fixed, &reader, READ, 8) } == Err(libc::EINVAL);
        std::mem::forget(locked);
        drop(rig);
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(found || !refused)) };
    }
    drop(locked);
    let mut status = 0;
    // SAFETY: waits for the child that was just made.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
}
