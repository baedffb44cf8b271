//! Whether the kernel is to signal that requests are done.

/// Tells submissions that want a signal from those that do not.
///
/// A signal costs about a tenth of a microsecond a request, and is of no use where requests are
/// done before `io_submit` returns, as on tmpfs: the reap that follows finds them. So after a long
/// enough run of such requests, further ones go out *quietly*. One that is not done at once after
/// all is found by the driver, which looks again after a short pause as long as there are such; then
/// requests are signalled again, and it takes a run four times as long to go back. That is dear, and
/// a fast disk may well be done with many batches in a row, so the first run is long too.
#[derive(Debug)]
pub(crate) struct Signalling {
    /// Requests in a row that were done when their submission returned.
    run: u32,
    /// How many it takes.
    wanted: u32,
}

const FIRST_RUN: u32 = 1 << 14;
const LONGEST_RUN: u32 = 1 << 24;

impl Default for Signalling {
    fn default() -> Signalling {
        Signalling {
            run: 0,
            wanted: FIRST_RUN,
        }
    }
}

impl Signalling {
    /// Whatever comes of it.
    #[cfg(all(test, kaio_loom))]
    pub(crate) fn always_quiet() -> Signalling {
        Signalling { run: 0, wanted: 0 }
    }

    /// Whether the next requests may go out without a signal.
    pub(crate) fn may_be_quiet(&self) -> bool {
        self.run >= self.wanted
    }

    /// The kernel took `requests`, and what was done was reaped. `all_done`: nothing was left.
    pub(crate) fn submitted(&mut self, requests: usize, quiet: bool, all_done: bool) {
        if all_done {
            let requests = u32::try_from(requests).unwrap_or(u32::MAX);
            self.run = self.run.saturating_add(requests);
            return;
        }
        self.run = 0;
        if quiet {
            self.wanted = (self.wanted * 4).min(LONGEST_RUN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_until_quiet(signalling: &mut Signalling) -> u32 {
        let mut requests = 0;
        while !signalling.may_be_quiet() {
            signalling.submitted(1, false, true);
            requests += 1;
        }
        requests
    }

    #[test]
    fn a_run_of_requests_that_are_done_at_once_makes_quiet() {
        let mut signalling = Signalling::default();
        assert!(!signalling.may_be_quiet());
        assert_eq!(run_until_quiet(&mut signalling), FIRST_RUN);
    }

    #[test]
    fn one_that_is_not_done_at_once_ends_the_run() {
        let mut signalling = Signalling::default();
        signalling.submitted(FIRST_RUN as usize - 1, false, true);
        signalling.submitted(1, false, false);
        assert_eq!(run_until_quiet(&mut signalling), FIRST_RUN);
    }

    #[test]
    fn each_mistake_makes_the_run_longer_that_it_takes() {
        let mut signalling = Signalling::default();
        for mistakes in 0..8 {
            let run = run_until_quiet(&mut signalling);
            assert_eq!(run, (FIRST_RUN << (2 * mistakes)).min(LONGEST_RUN));
            signalling.submitted(32, true, false);
        }
    }
}
