//! Limits of the system and of this process.

use std::fmt::{self, Formatter};
use std::fs;

use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};
use serde::Serialize;

use crate::units::format_bytes;

/// The number in the sysctl `name`, such as `fs/aio-nr`. `None`: it can't be read, or is not a number.
pub(crate) fn sysctl<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
    text.trim().parse().ok()
}

/// `RLIMIT_MEMLOCK`, in bytes; `None`: unlimited.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Memlock {
    /// The soft limit.
    pub(crate) soft: Option<u64>,
    /// The hard limit.
    pub(crate) hard: Option<u64>,
    /// Whether the limit applies to this process: it has no `CAP_IPC_LOCK`.
    pub(crate) applies: bool,
}

impl Memlock {
    /// The limit of this process.
    pub(crate) fn now() -> Memlock {
        let limit = getrlimit(Resource::Memlock);
        let exempt = capabilities(None)
            .is_ok_and(|capabilities| capabilities.effective.contains(CapabilitySet::IPC_LOCK));
        Memlock {
            soft: limit.current,
            hard: limit.maximum,
            applies: !exempt,
        }
    }
}

impl fmt::Display for Memlock {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let of = |limit: Option<u64>| limit.map_or("unlimited".into(), format_bytes);
        f.write_str(&of(self.soft))?;
        if self.hard != self.soft {
            write!(f, " (hard limit: {})", of(self.hard))?;
        }
        if !self.applies {
            f.write_str("; this process has CAP_IPC_LOCK and is exempt")?;
        }
        Ok(())
    }
}
