//! I/O priorities of requests.

use std::os::fd::AsRawFd;

use super::rig::{file_with, on_both, sync};
use crate::sys::abi::{
    IOCB_CMD_PREAD, IOCB_FLAG_IOPRIO, IOPRIO_CLASS_BE, IOPRIO_CLASS_IDLE, IOPRIO_CLASS_NONE,
    IOPRIO_CLASS_RT, IOPRIO_CLASS_SHIFT, Iocb,
};
use crate::sys::priority::ioprio_get;

fn priority(class: u16, level: u16) -> i16 {
    (class << IOPRIO_CLASS_SHIFT | level) as i16
}

fn read(file: &impl AsRawFd, memory: &mut [u8], reqprio: i16) -> Iocb {
    Iocb {
        lio_opcode: IOCB_CMD_PREAD,
        fildes: file.as_raw_fd() as u32,
        buf: memory.as_mut_ptr() as u64,
        nbytes: memory.len() as u64,
        flags: IOCB_FLAG_IOPRIO,
        reqprio,
        ..Iocb::default()
    }
}

#[test]
fn a_request_with_a_priority_is_done_and_leaves_the_threads_own() {
    on_both(|rig| {
        let file = file_with(b"0123");
        let own = ioprio_get().unwrap();
        for (class, level) in [
            (IOPRIO_CLASS_NONE, 0),
            (IOPRIO_CLASS_BE, 0),
            (IOPRIO_CLASS_BE, 7),
            (IOPRIO_CLASS_IDLE, 0),
        ] {
            let mut memory = [0; 4];
            let read = read(&file, &mut memory, priority(class, level));
            // SAFETY: the memory is looked at after the event.
            unsafe { rig.submit(&mut [read]) }.unwrap();
            assert_eq!(rig.next_event(), [(0, 4)]);
            assert_eq!(&memory, b"0123");
            assert_eq!(ioprio_get().unwrap(), own);
        }
    });
}

#[test]
fn what_is_no_priority_is_refused() {
    on_both(|rig| {
        let file = file_with(b"0123");
        for (class, level) in [(IOPRIO_CLASS_NONE, 1), (4, 0), (5, 0), (6, 0), (7, 0)] {
            let mut memory = [0; 4];
            let read = read(&file, &mut memory, priority(class, level));
            // SAFETY: it is refused.
            let answer = unsafe { rig.submit(&mut [read]) };
            assert_eq!(answer, Err(libc::EINVAL), "class {class}, level {level}");
        }
        assert!(rig.is_quiet());
    });
}

#[test]
fn both_kernels_say_the_same_of_a_real_time_priority() {
    let answers = std::cell::RefCell::new(Vec::new());
    on_both(|rig| {
        let file = file_with(b"0123");
        let mut memory = [0; 4];
        let read = read(&file, &mut memory, priority(IOPRIO_CLASS_RT, 4));
        // SAFETY: the memory is dropped after the event.
        let answer = unsafe { rig.submit(&mut [read]) };
        if answer.is_ok() {
            assert_eq!(rig.next_event(), [(0, 4)]);
        }
        answers.borrow_mut().push(answer);
    });
    let answers = answers.into_inner();
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert!(matches!(answers[0], Ok(()) | Err(libc::EPERM)));
}

#[test]
fn a_priority_is_not_looked_at_where_no_data_is_moved() {
    on_both(|rig| {
        let file = file_with(b"");
        let sync = Iocb {
            flags: IOCB_FLAG_IOPRIO,
            reqprio: priority(7, 0),
            ..sync(&file, 3)
        };
        // SAFETY: it has no memory.
        unsafe { rig.submit(&mut [sync]) }.unwrap();
        assert_eq!(rig.next_event(), [(3, 0)]);
    });
}
