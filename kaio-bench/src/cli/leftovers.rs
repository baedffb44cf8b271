//! [`remove_on_signal`]: what is not to stay when the process is ended by a signal.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::{fs, process, ptr, thread};

/// Directories that are to go.
static DIRS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// `dir` goes too.
pub(super) fn add(dir: &Path) {
    let mut dirs = DIRS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    dirs.push(dir.to_owned());
}

/// From now on, a signal that asks the process to end removes the directories first. To be called
/// before any other thread is started: all are to have these signals blocked, so that they come to
/// the one that waits for them.
pub(super) fn remove_on_signal() {
    let mut signals = MaybeUninit::uninit();
    // SAFETY: room for a set.
    unsafe { libc::sigemptyset(signals.as_mut_ptr()) };
    // SAFETY: just initialised.
    let mut signals = unsafe { signals.assume_init() };
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // One that is ignored, as under nohup, is to stay so.
        if !is_ignored(signal) {
            // SAFETY: a set of ours.
            unsafe { libc::sigaddset(&raw mut signals, signal) };
        }
    }
    // SAFETY: a set of ours; what was blocked before is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, ptr::null_mut()) };
    thread::spawn(move || wait_and_end(&signals));
}

fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: room for what it is now; nothing is changed.
    let code = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: written, since it succeeded.
    code == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

fn wait_and_end(signals: &libc::sigset_t) {
    let mut signal = 0;
    // SAFETY: a set, and a number to write to.
    if unsafe { libc::sigwait(signals, &raw mut signal) } != 0 {
        return; // nothing to wait for
    }
    // Held to the end, so that none comes later.
    let dirs = DIRS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for dir in &*dirs {
        // Gone already, or not to be helped.
        let _ = fs::remove_dir_all(dir);
    }
    // As it would have ended: the caller is to see by which signal.
    // SAFETY: a set of ours, for this thread alone.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, signals, ptr::null_mut()) };
    // SAFETY: a signal that has not been given a handler.
    unsafe { libc::raise(signal) };
    // The first process of a container is not ended by that.
    process::exit(128 + signal)
}
