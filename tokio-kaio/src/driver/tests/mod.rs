//! Drivers over the fake backend.
