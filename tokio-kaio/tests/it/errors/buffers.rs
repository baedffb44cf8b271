//! Buffers that can't be made.

use super::*;

#[test]
fn a_buffer_of_no_bytes_is_an_error() {
    let error = LockedBuf::with_size(0).unwrap_err();
    assert!(matches!(error, LockedBufError::MapAnon(_)), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("can't make the buffer") && text.contains("0 bytes"),
        "{text}"
    );
}

#[test]
fn a_buffer_of_absurd_size_is_an_error() {
    let most = usize::MAX;
    for size in [
        most,
        most - 1,
        most - 4095,
        most / 2 + 1,
        most / 2,
        most / 16,
    ] {
        let error = LockedBuf::with_size(size).unwrap_err();
        let LockedBufError::MapAnon(source) = &error else {
            panic!("{size}: {error:?}");
        };
        assert_eq!(source.raw_os_error(), Some(libc::ENOMEM), "{size}");
        assert!(error.to_string().contains("ask for less memory"), "{error}");
    }
}

/// Address space of this process, and what of it is locked, in KiB.
fn memory() -> Vec<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let wanted = |line: &&str| line.starts_with("VmSize:") || line.starts_with("VmLck:");
    status.lines().filter(wanted).map(String::from).collect()
}

#[test]
fn a_buffer_past_the_memlock_limit_is_an_error_that_names_the_limit() {
    if !in_child!() || !drop_root() {
        return;
    }
    set_limit(libc::RLIMIT_MEMLOCK, 65536);
    let first = LockedBuf::with_size(61440).unwrap();
    memory(); // its own allocations are made
    let before = memory();
    for size in [8192, 65537, 1 << 20] {
        let error = LockedBuf::with_size(size).unwrap_err();
        let LockedBufError::MemLock(source) = &error else {
            panic!("{error:?}");
        };
        assert_eq!(source.raw_os_error(), Some(libc::ENOMEM));
        let text = error.to_string();
        assert!(text.contains("RLIMIT_MEMLOCK is 65536 bytes"), "{text}");
        assert!(text.contains("ulimit -l"), "what to do: {text}");
    }
    assert_eq!(memory(), before, "what was mapped for them is unmapped");
    let second = LockedBuf::with_size(4096).unwrap();
    assert!(first.is_locked() && second.is_locked());
    drop(first);
    LockedBuf::with_size(61440).unwrap();
}

#[test]
fn a_buffer_with_a_memlock_limit_of_zero_is_an_error_that_names_the_limit() {
    if !in_child!() || !drop_root() {
        return;
    }
    set_limit(libc::RLIMIT_MEMLOCK, 0);
    let error = LockedBuf::with_size(1).unwrap_err();
    let LockedBufError::MemLock(source) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(source.raw_os_error(), Some(libc::EPERM));
    assert!(
        error.to_string().contains("RLIMIT_MEMLOCK is 0 bytes"),
        "{error}"
    );
}
