//! Copies to file systems that neither rename without replacing nor have hard links.

use std::io::{self, ErrorKind};
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::cp_fixture::{Dir, bytes, kaio, text};
use crate::limits::forbid_syscall;

#[test]
#[allow(unsafe_code)] // restricts the child process before it executes the program
fn a_file_is_copied_to_a_file_system_that_can_only_replace() {
    let dir = Dir::new();
    dir.file("source", bytes(100_000));
    let mut command = Command::new(kaio());
    command.args(["cp", "source", "copy"]);
    command.current_dir(dir.path());
    let restrict = || {
        let is_restricted = forbid_syscall(libc::SYS_renameat2, libc::EINVAL)
            && forbid_syscall(libc::SYS_linkat, libc::EPERM);
        match is_restricted {
            true => Ok(()),
            false => Err(io::Error::from(ErrorKind::Unsupported)),
        }
    };
    // SAFETY: `forbid_syscall` makes system calls on memory of its own stack. On failure it writes to
    // standard error, whose lock no other thread could have held at the fork.
    unsafe { command.pre_exec(restrict) };
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => return eprintln!("skipped: can't restrict a process: {error}"),
    };
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(dir.read("copy") == dir.read("source"));
    assert_eq!(dir.names(), ["copy", "source"]);
}
