//! I/O priorities of requests.

use std::cell::RefCell;

use super::contract_fixture::{on_each_backend, read, sync};
use crate::backend::blocking::ioprio_get;
use crate::backend::{Sqe, refused_with};
use crate::sys::abi::{
    IOPRIO_CLASS_BE, IOPRIO_CLASS_IDLE, IOPRIO_CLASS_NONE, IOPRIO_CLASS_RT, IOPRIO_CLASS_SHIFT,
};

fn priority(class: u16, level: u16) -> u16 {
    class << IOPRIO_CLASS_SHIFT | level
}

#[test]
fn a_request_with_a_priority_leaves_that_of_the_thread() {
    on_each_backend(|fixture| {
        let file = fixture.file_with(b"0123");
        let own = ioprio_get().unwrap();
        for (class, level) in [
            (IOPRIO_CLASS_NONE, 0),
            (IOPRIO_CLASS_BE, 0),
            (IOPRIO_CLASS_BE, 7),
            (IOPRIO_CLASS_IDLE, 0),
        ] {
            let mut memory = [0; 4];
            let read = Sqe {
                priority: priority(class, level),
                ..read(&file, &mut memory, 7)
            };
            // SAFETY: the memory is looked at after the completion.
            unsafe { fixture.submit(&[read]) }.unwrap();
            assert_eq!(fixture.next_completion(), (7, 4));
            assert_eq!(&memory, b"0123");
            assert_eq!(ioprio_get().unwrap(), own);
        }
    });
}

#[test]
fn an_invalid_priority_is_refused() {
    on_each_backend(|fixture| {
        let file = fixture.file_with(b"0123");
        for (class, level) in [(IOPRIO_CLASS_NONE, 1), (4, 0), (5, 0), (6, 0), (7, 0)] {
            let mut memory = [0; 4];
            let read = Sqe {
                priority: priority(class, level),
                ..read(&file, &mut memory, 7)
            };
            // SAFETY: it is refused.
            let answer = unsafe { fixture.submit(&[read]) };
            assert_eq!(answer, Err(libc::EINVAL), "class {class}, level {level}");
        }
        assert!(fixture.is_quiet());
    });
}

#[test]
fn a_real_time_priority_has_the_same_answer_everywhere() {
    let answers = RefCell::new(Vec::new());
    on_each_backend(|fixture| {
        if fixture.is_simulated() {
            return println!("skipped for simulated disks: a priority needs no privilege there");
        }
        let file = fixture.file_with(b"0123");
        let mut memory = [0; 4];
        let read = Sqe {
            priority: priority(IOPRIO_CLASS_RT, 4),
            ..read(&file, &mut memory, 7)
        };
        // SAFETY: the memory is dropped after the completion.
        let answer = unsafe { fixture.submit(&[read]) }.and_then(|()| {
            let (user_data, result) = fixture.next_completion();
            assert_eq!(user_data, 7);
            // io_uring refuses the entry after it has taken it.
            match refused_with(result) {
                Some(errno) => Err(errno),
                None => {
                    assert_eq!(result, 4);
                    Ok(())
                }
            }
        });
        answers.borrow_mut().push(answer);
    });
    let answers = answers.into_inner();
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert!(matches!(answers[0], Ok(()) | Err(libc::EPERM)));
}

#[test]
fn the_priority_of_a_sync_is_ignored() {
    on_each_backend(|fixture| {
        let file = fixture.file_with(b"");
        let sync = Sqe {
            priority: priority(7, 0),
            ..sync(&file, 3)
        };
        // SAFETY: it has no memory.
        unsafe { fixture.submit(&[sync]) }.unwrap();
        assert_eq!(fixture.next_completion(), (3, 0));
    });
}
