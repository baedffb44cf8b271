//! What the simulated backend alone does.

use std::time::Duration;

use super::contract_fixture::{
    ContractFile, in_forked_child, on_the_simulated_backend, poll, read, sync,
};
use crate::backend::Sqe;
use crate::backend::any::AnyBackend;
use crate::backend::blocking::BlockingBackend;

#[test]
fn a_poll_of_a_simulated_file_is_refused() {
    on_the_simulated_backend(|fixture| {
        let file = fixture.file_with(b"");
        let entry = poll(&file, libc::POLLIN, 7);
        // SAFETY: a poll has no memory.
        assert_eq!(unsafe { fixture.submit(&[entry]) }, Err(libc::EINVAL));
        assert!(!fixture.cancel(7));
        assert!(fixture.is_quiet());
    });
}

#[test]
fn a_malformed_entry_is_refused_after_a_power_cut_as_before() {
    on_the_simulated_backend(|fixture| {
        let file = fixture.file_with(b"0123");
        let mut memory = [0; 4];
        let good = read(&file, &mut memory, 7);
        let malformed = [
            Sqe { offset: -1, ..good },
            Sqe {
                len: 1,
                ..sync(&file, 7)
            },
        ];
        for _before_and_after in [0, 1] {
            for entry in malformed {
                // SAFETY: it is refused.
                assert_eq!(unsafe { fixture.submit(&[entry]) }, Err(libc::EINVAL));
            }
            assert!(fixture.is_quiet());
            fixture.simulated_time().disk.power_cut();
        }
        for entry in [good, sync(&file, 7)] {
            // SAFETY: the memory is dropped after the completion.
            unsafe { fixture.submit(&[entry]) }.unwrap();
            assert_eq!(fixture.next_completion(), (7, -i64::from(libc::EIO)));
        }
    });
}

#[test]
fn dropping_the_backend_ends_the_reads_in_flight() {
    on_the_simulated_backend(|fixture| {
        let file = fixture.file_with(b"0123");
        let mut memory = [0xff; 4];
        // SAFETY: the memory is looked at after the drop.
        unsafe { fixture.submit(&[read(&file, &mut memory, 7)]) }.unwrap();
        let other = AnyBackend::Blocking(BlockingBackend::new());
        drop(std::mem::replace(&mut fixture.backend, other));
        let later = tokio::time::sleep(Duration::from_secs(1));
        fixture.simulated_time().runtime.block_on(later);
        assert_eq!(memory, [0xff; 4]);
    });
}

#[test]
fn a_forked_child_takes_no_lock_of_a_simulated_disk() {
    on_the_simulated_backend(|fixture| {
        let ContractFile::Simulated(file) = fixture.file_with(b"") else {
            unreachable!();
        };
        let dir = fixture.simulated_time().open_root();
        // SAFETY: it has no memory.
        unsafe { fixture.submit(&[sync(&file, 7)]) }.unwrap();
        let mut owned = Some((file, dir));
        let disk = fixture.simulated_time().disk.clone();
        let locked = disk.disk().lock(); // which nobody unlocks in the child
        in_forked_child(|| {
            let (file, dir) = owned.take().unwrap();
            // SAFETY: it has no memory.
            let is_refused = unsafe { fixture.submit(&[sync(&file, 8)]) } == Err(libc::EINVAL);
            let is_found = fixture.cancel(7);
            drop((file, dir));
            let other = AnyBackend::Blocking(BlockingBackend::new());
            drop(std::mem::replace(&mut fixture.backend, other));
            is_refused && !is_found
        });
        drop(locked);
        assert_eq!(fixture.next_completion(), (7, 0));
    });
}
