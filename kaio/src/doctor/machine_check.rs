//! Checks which backends work on this machine, and its limits.

use std::fs;

use io_uring::IoUring;
use kaio_bench::Machine;
use tokio_kaio::{AioContextBuilder, AioContextError};

use super::doctor_report::{
    BackendName, BackendReport, MachineReport, ProbeResult, RefusedReport, Seccomp,
};
use super::request_classes::BACKENDS;
use crate::system_limits::{Memlock, sysctl};

/// Checks the machine. Must be called in a tokio runtime. Takes about 300 ms, to measure the CPU use of
/// other programs.
pub(crate) async fn check_machine() -> MachineReport {
    let machine = Machine::detect();
    // Before this process has a context.
    let (aio_nr, aio_max_nr) = (sysctl("fs/aio-nr"), sysctl("fs/aio-max-nr"));
    let (io_setup, user_space_ring) = probe_aio().await;
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
        io_uring: probe_io_uring(),
        io_uring_disabled: sysctl("kernel/io_uring_disabled"),
        backend: choose_backend().await,
        advice: vec![],
    }
}

/// Creates a context, and closes it.
async fn probe_aio() -> (ProbeResult, Option<bool>) {
    match AioContextBuilder::new(1).build() {
        Ok((context, handle)) => {
            let ring = handle.metrics().ring;
            context.close().await;
            (ProbeResult::works(), Some(ring))
        }
        Err(AioContextError::IoSetup(error)) => (ProbeResult::failed(&error, "io_setup"), None),
        Err(AioContextError::EventFd(error)) => {
            let asked = ProbeResult {
                works: false,
                errno: None,
                error: Some(error.to_string()),
            };
            (asked, None)
        }
    }
}

/// Creates a context that may use any backend.
async fn choose_backend() -> BackendReport {
    match AioContextBuilder::new(1).backends(&BACKENDS).build() {
        Ok((context, handle)) => {
            let refused = handle.refused_backends().iter().filter_map(|refused| {
                Some(RefusedReport {
                    backend: BackendName::of(refused.backend())?,
                    errno: refused.error().raw_os_error(),
                    error: refused.to_string(),
                })
            });
            let report = BackendReport {
                chosen: BackendName::of(context.backend()),
                refused: refused.collect(),
            };
            context.close().await;
            report
        }
        // Even threads need an eventfd. `probe_aio` reports the error.
        Err(_) => BackendReport {
            chosen: None,
            refused: vec![],
        },
    }
}

fn probe_io_uring() -> ProbeResult {
    match IoUring::new(2) {
        Ok(_) => ProbeResult::works(),
        Err(error) => ProbeResult::failed(&error, "io_uring_setup"),
    }
}

impl ProbeResult {
    fn works() -> ProbeResult {
        ProbeResult {
            works: true,
            errno: None,
            error: None,
        }
    }

    fn failed(error: &std::io::Error, call: &str) -> ProbeResult {
        ProbeResult {
            works: false,
            errno: error.raw_os_error(),
            error: Some(format!("{call}: {error}")),
        }
    }
}

/// Reads the mode from `/proc/self/status`.
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
    fn the_seccomp_mode_is_read_from_the_status_of_the_process() {
        let status = "Name:\tkaio\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        assert_eq!(seccomp(status), Some(Seccomp::Filter));
        assert_eq!(seccomp("Seccomp:\t0\n"), Some(Seccomp::Off));
        assert_eq!(seccomp("Name:\tkaio\n"), None);
    }
}
