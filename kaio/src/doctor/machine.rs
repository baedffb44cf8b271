//! The machine: whether kernel AIO works on it, and what its limits are.

use std::fs;

use io_uring::IoUring;
use kaio_bench::Machine;
use tokio_kaio::{AioContextBuilder, AioContextError};

use super::report::{Asked, MachineReport, Seccomp};
use crate::limits::{Memlock, sysctl};

/// Looks at it. To be called in a tokio runtime; takes some 300 ms, to see what others do.
pub(crate) async fn look() -> MachineReport {
    let machine = Machine::detect();
    // Before there is a context of our own.
    let (aio_nr, aio_max_nr) = (sysctl("fs/aio-nr"), sysctl("fs/aio-max-nr"));
    let (io_setup, user_space_ring) = ask_aio().await;
    MachineReport {
        kernel: machine.kernel,
        cpu: machine.cpu,
        cores: machine.cores,
        memory: machine.memory,
        others_busy: machine.others,
        io_setup,
        user_space_ring,
        seccomp: fs::read_to_string("/proc/self/status")
            .ok()
            .and_then(|status| seccomp(&status)),
        aio_nr,
        aio_max_nr,
        memlock: Memlock::now(),
        io_uring: ask_io_uring(),
        io_uring_disabled: sysctl("kernel/io_uring_disabled"),
        advice: vec![],
    }
}

/// Makes a context, and gives it back.
async fn ask_aio() -> (Asked, Option<bool>) {
    match AioContextBuilder::new(1).build() {
        Ok((context, handle)) => {
            let ring = handle.metrics().ring;
            context.close().await;
            (Asked::works(), Some(ring))
        }
        Err(AioContextError::IoSetup(error)) => (Asked::failed(&error, "io_setup"), None),
        Err(AioContextError::EventFd(error)) => {
            let asked = Asked {
                works: false,
                errno: None,
                error: Some(error.to_string()),
            };
            (asked, None)
        }
    }
}

fn ask_io_uring() -> Asked {
    match IoUring::new(2) {
        Ok(_) => Asked::works(),
        Err(error) => Asked::failed(&error, "io_uring_setup"),
    }
}

impl Asked {
    fn works() -> Asked {
        Asked {
            works: true,
            errno: None,
            error: None,
        }
    }

    fn failed(error: &std::io::Error, call: &str) -> Asked {
        Asked {
            works: false,
            errno: error.raw_os_error(),
            error: Some(format!("{call}: {error}")),
        }
    }
}

/// What `/proc/self/status` says of it.
fn seccomp(status: &str) -> Option<Seccomp> {
    let mode = status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp:"))?;
    match mode.trim() {
        "0" => Some(Seccomp::Off),
        "1" => Some(Seccomp::Strict),
        "2" => Some(Seccomp::Filter),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_seen_in_the_status_of_a_process() {
        let status = "Name:\tkaio\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        assert_eq!(seccomp(status), Some(Seccomp::Filter));
        assert_eq!(seccomp("Seccomp:\t0\n"), Some(Seccomp::Off));
        assert_eq!(seccomp("Name:\tkaio\n"), None);
    }
}
