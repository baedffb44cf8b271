//! Advice about the machine.

use rustix::io::Errno;

use super::super::report::{About, Advice, MachineReport, Seccomp};
use super::List;

/// As much locked memory as a program with many buffers wants.
const ENOUGH_LOCKED: u64 = 64 << 20;

/// A context of a busy program.
const CONTEXT: u64 = 1024;

/// Of a machine that is as busy, times are not to be relied on.
const BUSY: f64 = 0.25;

/// What is to be done about the machine.
pub(crate) fn of_machine(machine: &MachineReport) -> Vec<Advice> {
    let mut list = List::default();
    io_setup(machine, &mut list);
    capacity(machine, &mut list);
    locked_memory(machine, &mut list);
    if machine.user_space_ring == Some(false) {
        list.add(
            About::Sandbox,
            "The kernel, or the sandbox that stands for it (gVisor), maps no completion ring, so \
             that each reaping is a system call: prefer batches, which share it.",
        );
    }
    if let Some(share) = machine.others_busy.filter(|share| *share >= BUSY) {
        let percent = share * 100.0;
        list.add(
            About::Certainty,
            format!(
                "Others keep {percent:.0} % of the CPUs busy: shares and times are less sure than \
                 on a quiet machine, so measure again when they are done."
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
        Errno::AGAIN => {} // is about capacity
        Errno::NOSYS if machine.seccomp != Some(Seccomp::Filter) => list.add(
            About::Sandbox,
            "There is no AIO here: the kernel was built without CONFIG_AIO, or a sandbox stands for \
             it; AioContextBuilder::automatic_backend makes contexts on threads instead.",
        ),
        Errno::PERM | Errno::ACCESS | Errno::NOSYS => list.add(
            About::Sandbox,
            format!(
                "{}: allow io_setup, io_submit, io_getevents and io_destroy in the profile of the \
                 container or sandbox (the default ones of Docker, containerd and Podman do), or \
                 make contexts with AioContextBuilder::automatic_backend, which has threads then.",
                match machine.seccomp {
                    Some(Seccomp::Filter) => "A seccomp filter forbids io_setup",
                    _ => "A sandbox forbids io_setup",
                }
            ),
        ),
        _ => list.add(
            About::Sandbox,
            "AioContextBuilder::automatic_backend makes contexts on threads where io_setup fails.",
        ),
    }
}

fn capacity(machine: &MachineReport, list: &mut List) {
    let (Some(used), Some(limit)) = (machine.aio_nr, machine.aio_max_nr) else {
        return;
    };
    let is_out = machine.io_setup.errno == Some(Errno::AGAIN.raw_os_error());
    let left = limit.saturating_sub(used);
    if !is_out && left >= CONTEXT && left >= limit / 4 {
        return;
    }
    let more = (used + limit).max(65536).next_power_of_two();
    list.add(
        About::Capacity,
        format!(
            "Of fs.aio-max-nr, the requests of all contexts on the machine together, {left} are \
             left, and a context of more fails with EAGAIN: sysctl fs.aio-max-nr={more}."
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
    let way_out = match limit.hard {
        Some(hard) if hard < ENOUGH_LOCKED => format!(
            "raise it with LimitMEMLOCK=64M of a systemd unit, --ulimit memlock={ENOUGH_LOCKED} of a \
             container, or in limits.conf"
        ),
        _ => format!("raise it with ulimit -l {}", ENOUGH_LOCKED >> 10),
    };
    list.add(
        About::LockedMemory,
        format!(
            "RLIMIT_MEMLOCK allows for {} LockedBufs of 4 KiB, or {} of 128 KiB: {way_out}, or use \
             AlignedBuf::new, which locks nothing.",
            soft >> 12,
            soft >> 17
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::super::super::report::Asked;
    use super::*;
    use crate::limits::Memlock;

    /// One of which there is nothing to be said.
    fn machine() -> MachineReport {
        let works = Asked {
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
            advice: vec![],
        }
    }

    fn said(machine: &MachineReport) -> Vec<(About, String)> {
        let advice = of_machine(machine);
        advice
            .into_iter()
            .map(|one| (one.about, one.text))
            .collect()
    }

    fn only(machine: &MachineReport, about: About, text: &str) {
        match &said(machine)[..] {
            [(of, said)] => assert!(*of == about && said.contains(text), "{said}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn where_all_is_well_nothing_is_said() {
        assert_eq!(said(&machine()), []);
    }

    #[test]
    fn a_filter_is_to_be_told_from_a_kernel_without_aio() {
        let mut machine = machine();
        machine.io_setup.works = false;
        machine.io_setup.errno = Some(Errno::PERM.raw_os_error());
        machine.seccomp = Some(Seccomp::Filter);
        only(
            &machine,
            About::Sandbox,
            "A seccomp filter forbids io_setup",
        );
        machine.io_setup.errno = Some(Errno::NOSYS.raw_os_error());
        only(
            &machine,
            About::Sandbox,
            "A seccomp filter forbids io_setup",
        );
        machine.seccomp = Some(Seccomp::Off);
        only(&machine, About::Sandbox, "CONFIG_AIO");
    }

    #[test]
    fn a_limit_of_requests_is_to_be_raised_when_it_is_near() {
        let mut machine = machine();
        machine.aio_nr = Some(49_152);
        assert_eq!(said(&machine), []);
        machine.aio_nr = Some(49_153);
        only(&machine, About::Capacity, "sysctl fs.aio-max-nr=131072");
        machine.aio_nr = Some(0);
        machine.io_setup.errno = Some(Errno::AGAIN.raw_os_error());
        only(&machine, About::Capacity, "EAGAIN");
    }

    #[test]
    fn a_small_limit_of_locked_memory_is_told_in_buffers() {
        let mut machine = machine();
        machine.memlock.soft = Some(8 << 20);
        only(
            &machine,
            About::LockedMemory,
            "2048 LockedBufs of 4 KiB, or 64 of 128 KiB",
        );
        only(&machine, About::LockedMemory, "ulimit -l 65536");
        machine.memlock.hard = Some(8 << 20);
        only(&machine, About::LockedMemory, "LimitMEMLOCK=64M");
        machine.memlock.applies = false;
        assert_eq!(said(&machine), []);
    }

    #[test]
    fn on_a_busy_machine_verdicts_are_less_sure() {
        let mut machine = machine();
        machine.others_busy = Some(0.4);
        only(&machine, About::Certainty, "40 %");
    }
}
