//! `kaio cp`, as the program that is built.

#![allow(missing_docs)]

mod devices;
mod file_systems;
mod holes;
mod interrupted;
mod lengths;
mod options;
mod preserve;
mod random;
mod refusals;
mod shared;
mod targets;
mod terminal;
mod trees;
