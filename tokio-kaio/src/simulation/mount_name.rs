//! [`MountName`]: a name that a simulated disk has in its path.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::sys::Process;

/// A name that a disk has in its path, instead of a number. The disks that boot from its images keep the name.
///
/// No two names of a process are equal. A name is free again when its last clone is dropped.
#[derive(Clone, Debug)]
pub(crate) struct MountName(Arc<Taken>);

#[derive(Debug)]
struct Taken {
    name: String,
    owner: Process,
}

static TAKEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

impl MountName {
    /// Takes a name. `None`: it is taken.
    pub(crate) fn take(name: &str) -> Option<MountName> {
        let is_free = taken().insert(name.to_owned());
        is_free.then(|| MountName::new(name.to_owned()))
    }

    /// Takes this name, or else the first free one of `name-2`, `name-3` and so on.
    pub(crate) fn take_first_free(name: &str) -> MountName {
        let mut taken = taken();
        let mut names = (2u64..).map(|number| format!("{name}-{number}"));
        let mut free = name.to_owned();
        while !taken.insert(free.clone()) {
            free = names.next().expect("there are more numbers than names");
        }
        MountName::new(free)
    }

    fn new(name: String) -> MountName {
        let owner = Process::current();
        MountName(Arc::new(Taken { name, owner }))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0.name
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // A thread of the parent may have held the lock at the fork.
        if self.owner == Process::current() {
            taken().remove(&self.name);
        }
    }
}

fn taken() -> MutexGuard<'static, BTreeSet<String>> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}
