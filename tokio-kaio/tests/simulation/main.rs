//! Tests of simulated disks: the whole API on them, in every kind of context. They need no disk and no time.

#[path = "../common/mod.rs"]
mod common;
mod contexts;
mod crash_states;
mod determinism;
mod entries;
mod exploring;
mod faults;
mod lifetimes;
mod limits;
mod notes;
mod open_files;
mod paths;
mod power;
mod staged;
mod support;
mod transfers;
