//! What a process may not do: for tests that [`in_child!`](super::is_child_of) gives a process of their own.

use std::io;

/// Whether this process may do what root may.
pub fn is_root() -> bool {
    // SAFETY: asks for a number.
    unsafe { libc::geteuid() == 0 }
}

/// Sets the soft limit `resource` of this process.
pub fn set_limit(resource: libc::__rlimit_resource_t, value: u64) {
    let mut limits = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes to a structure of ours.
    assert_eq!(unsafe { libc::getrlimit(resource, &raw mut limits) }, 0);
    limits.rlim_cur = value;
    // SAFETY: the kernel reads a structure of ours.
    assert_eq!(unsafe { libc::setrlimit(resource, &raw const limits) }, 0);
}

/// From now on system call `number` fails with `errno` in every thread of this process. `false`,
/// and a line that says so, where no filter can be installed.
pub fn forbid_syscall(number: libc::c_long, errno: i32) -> bool {
    filter_syscall(number, errno, libc::SECCOMP_FILTER_FLAG_TSYNC)
}

/// As [`forbid_syscall`], in the current thread only, and those that it will start.
pub fn forbid_syscall_here(number: libc::c_long, errno: i32) -> bool {
    filter_syscall(number, errno, 0)
}

fn filter_syscall(number: libc::c_long, errno: i32, flags: libc::c_ulong) -> bool {
    let line = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut lines = [
        line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0), // the number
        line(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            number as u32,
        ),
        line(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | errno as u32,
        ),
        line(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: lines.len() as u16,
        filter: lines.as_mut_ptr(),
    };
    // SAFETY: numbers only.
    let code = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(code, 0);
    // SAFETY: `program` and its lines live through the call.
    let code = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    if code != 0 {
        eprintln!(
            "skipped: no seccomp filter can be installed: {}",
            io::Error::last_os_error()
        );
    }
    code == 0
}

/// Gives up what allows a process to go past its limits. `false`, and a line that says so, where
/// it can't.
pub fn drop_root() -> bool {
    const NOBODY: libc::uid_t = 65534;
    // SAFETY: changes who this process is.
    if is_root() && unsafe { libc::setuid(NOBODY) } != 0 {
        eprintln!(
            "skipped: can't give up root: {}",
            io::Error::last_os_error()
        );
        return false;
    }
    true
}

/// From now on, until [`allow_threads`], this process can start no thread. `false`, with a line
/// that says so, if it still can.
pub fn forbid_threads() -> bool {
    if !drop_root() {
        return false;
    }
    set_limit(libc::RLIMIT_NPROC, 0);
    let spawned = std::thread::Builder::new().spawn(|| ());
    let forbidden = spawned.is_err();
    if !forbidden {
        eprintln!("skipped: threads can be made in spite of RLIMIT_NPROC");
    }
    forbidden
}

/// Threads can be started again after [`forbid_threads`].
pub fn allow_threads() {
    set_limit(libc::RLIMIT_NPROC, 1024);
}
