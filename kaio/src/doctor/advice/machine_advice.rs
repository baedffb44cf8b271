//! Advice about the machine.

use rustix::io::Errno;

use super::super::doctor_report::{About, Advice, MachineReport, Seccomp};
use super::List;

/// Locked memory that is enough for a program with many buffers.
const ENOUGH_LOCKED: u64 = 64 << 20;

/// The slots of the context of a busy program.
const CONTEXT_SLOTS: u64 = 1024;

/// If other programs use this share of the CPUs, times are unreliable.
const BUSY: f64 = 0.25;

/// Returns the advice about the machine.
pub(crate) fn machine_advice(machine: &MachineReport) -> Vec<Advice> {
    let mut list = List::default();
    io_setup(machine, &mut list);
    capacity(machine, &mut list);
    locked_memory(machine, &mut list);
    if machine.user_space_ring == Some(false) {
        list.add(
            About::Sandbox,
            "The kernel, or a sandbox such as gVisor, maps no completion ring, so each reap is a \
             system call: prefer batches, which need fewer.",
        );
    }
    if let Some(share) = machine.others_busy.filter(|share| *share >= BUSY) {
        let percent = share * 100.0;
        list.add(
            About::Certainty,
            format!(
                "Other programs use {percent:.0} % of the CPUs, so shares and times are less \
                 reliable: measure again on an idle machine."
            ),
        );
    }
    list.0
}

fn io_setup(machine: &MachineReport, list: &mut List) {
    let Some(errno) = machine.io_setup.errno else {
        return;
    };
    match Errno::from_raw_os_error(errno) {
        Errno::AGAIN => {} // see `capacity`
        Errno::NOSYS if machine.seccomp != Some(Seccomp::Filter) => list.add(
            About::Sandbox,
            "AIO is not available: the kernel was built without CONFIG_AIO, or a sandbox emulates it. \
             AioContextBuilder::automatic_backend falls back to threads.",
        ),
        Errno::PERM | Errno::ACCESS | Errno::NOSYS => list.add(
            About::Sandbox,
            format!(
                "{}: allow io_setup, io_submit, io_getevents and io_destroy in the profile of the \
                 container or sandbox (the default profiles of Docker, containerd and Podman do), or \
                 use AioContextBuilder::automatic_backend, which falls back to threads.",
                match machine.seccomp {
                    Some(Seccomp::Filter) => "A seccomp filter forbids io_setup",
                    _ => "A sandbox forbids io_setup",
                }
            ),
        ),
        _ => list.add(
            About::Sandbox,
            "AioContextBuilder::automatic_backend falls back to threads if io_setup fails.",
        ),
    }
}

fn capacity(machine: &MachineReport, list: &mut List) {
    let (Some(used), Some(limit)) = (machine.aio_nr, machine.aio_max_nr) else {
        return;
    };
    let is_out = machine.io_setup.errno == Some(Errno::AGAIN.raw_os_error());
    let left = limit.saturating_sub(used);
    if !is_out && left >= CONTEXT_SLOTS && left >= limit / 4 {
        return;
    }
    let more = (used + limit).max(65536).next_power_of_two();
    list.add(
        About::Capacity,
        format!(
            "Only {left} slots are left of fs.aio-max-nr, which limits all contexts on the machine \
             together, and a larger context fails with EAGAIN: sysctl fs.aio-max-nr={more}."
        ),
    );
}

fn locked_memory(machine: &MachineReport, list: &mut List) {
    let limit = machine.memlock;
    let Some(soft) = limit.soft.filter(|soft| *soft < ENOUGH_LOCKED) else {
        return;
    };
    if !limit.applies {
        return;
    }
    let hint = match limit.hard {
        Some(hard) if hard < ENOUGH_LOCKED => format!(
            "raise it with LimitMEMLOCK=64M in a systemd unit, --ulimit memlock={ENOUGH_LOCKED} for \
             a container, or in limits.conf"
        ),
        _ => format!("raise it with ulimit -l {}", ENOUGH_LOCKED >> 10),
    };
    list.add(
        About::LockedMemory,
        format!(
            "RLIMIT_MEMLOCK allows {} LockedBufs of 4 KiB, or {} of 128 KiB: {hint}, or use \
             AlignedBuf::new, which locks no memory.",
            soft >> 12,
            soft >> 17
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::super::super::doctor_report::{BackendName, BackendReport, ProbeResult};
    use super::*;
    use crate::system_limits::Memlock;

    /// A machine without problems.
    fn machine() -> MachineReport {
        let works = ProbeResult {
            works: true,
            errno: None,
            error: None,
        };
        MachineReport {
            kernel: "6.18".into(),
            cpu: "one".into(),
            cores: 2,
            memory: 1 << 30,
            others_busy: Some(0.0),
            io_setup: works.clone(),
            user_space_ring: Some(true),
            seccomp: Some(Seccomp::Off),
            aio_nr: Some(0),
            aio_max_nr: Some(65536),
            memlock: Memlock {
                soft: Some(1 << 30),
                hard: None,
                applies: true,
            },
            io_uring: works,
            io_uring_disabled: Some(0),
            backend: BackendReport {
                chosen: Some(BackendName::IoUring),
                refused: vec![],
            },
            advice: vec![],
        }
    }

    fn advice(machine: &MachineReport) -> Vec<(About, String)> {
        let all = machine_advice(machine).into_iter();
        all.map(|one| (one.about, one.text)).collect()
    }

    fn assert_only_advice(machine: &MachineReport, about: About, text: &str) {
        match &advice(machine)[..] {
            [(of, advice)] => assert!(*of == about && advice.contains(text), "{advice}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_machine_without_problems_gets_no_advice() {
        assert_eq!(advice(&machine()), []);
    }

    #[test]
    fn a_seccomp_filter_and_a_kernel_without_aio_get_different_advice() {
        let mut machine = machine();
        machine.io_setup.works = false;
        machine.io_setup.errno = Some(Errno::PERM.raw_os_error());
        machine.seccomp = Some(Seccomp::Filter);
        assert_only_advice(
            &machine,
            About::Sandbox,
            "A seccomp filter forbids io_setup",
        );
        machine.io_setup.errno = Some(Errno::NOSYS.raw_os_error());
        assert_only_advice(
            &machine,
            About::Sandbox,
            "A seccomp filter forbids io_setup",
        );
        machine.seccomp = Some(Seccomp::Off);
        assert_only_advice(&machine, About::Sandbox, "CONFIG_AIO");
    }

    #[test]
    fn the_limit_on_slots_is_mentioned_when_it_is_near() {
        let mut machine = machine();
        machine.aio_nr = Some(49_152);
        assert_eq!(advice(&machine), []);
        machine.aio_nr = Some(49_153);
        assert_only_advice(&machine, About::Capacity, "sysctl fs.aio-max-nr=131072");
        machine.aio_nr = Some(0);
        machine.io_setup.errno = Some(Errno::AGAIN.raw_os_error());
        assert_only_advice(&machine, About::Capacity, "EAGAIN");
    }

    #[test]
    fn a_small_limit_on_locked_memory_is_given_in_buffers() {
        let mut machine = machine();
        machine.memlock.soft = Some(8 << 20);
        assert_only_advice(
            &machine,
            About::LockedMemory,
            "2048 LockedBufs of 4 KiB, or 64 of 128 KiB",
        );
        assert_only_advice(&machine, About::LockedMemory, "ulimit -l 65536");
        machine.memlock.hard = Some(8 << 20);
        assert_only_advice(&machine, About::LockedMemory, "LimitMEMLOCK=64M");
        machine.memlock.applies = false;
        assert_eq!(advice(&machine), []);
    }

    #[test]
    fn a_busy_machine_makes_verdicts_less_reliable() {
        let mut machine = machine();
        machine.others_busy = Some(0.4);
        assert_only_advice(&machine, About::Certainty, "40 %");
    }
}
