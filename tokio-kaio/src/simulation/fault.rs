//! [`Fault`]: what goes wrong on a simulated disk, and when.

/// A fault of the disk.
#[derive(Clone, Debug)]
pub struct Fault {}

/// The faults of a disk.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {}

impl FaultPlan {
    /// Makes a plan without faults.
    pub fn new() -> FaultPlan {
        FaultPlan::default()
    }

    /// Adds a fault.
    pub fn with(self, _fault: Fault) -> FaultPlan {
        self
    }
}

bitflags::bitflags! {
    /// The operations that a [`Fault`] affects.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Operations: u32 {
        /// Reads.
        const READ = 1;
        /// Writes.
        const WRITE = 2;
    }
}
