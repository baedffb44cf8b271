//! `kaio`: what a disk and its kernel do with Linux AIO, against what else there is, and copies past
//! the page cache. This library is the program's, and its interface is the command line:
//! `kaio --help`, and `docs/kaio.md` in the repository.
//!
//! | module | has |
//! |---|---|
//! | `cli` | the command line, and what all commands have in common there |
//! | `doctor` | `kaio doctor` |
//! | `bench` | `kaio bench`, over the measuring of `kaio-bench` |
//! | `cp` | `kaio cp` |
//! | `manual` | `kaio completions`, `kaio man` |
//! | `failure`, `output`, `interrupt`, `units` | how a command fails, talks, is broken off, and reads sizes |

mod bench;
mod cli;
mod cp;
mod doctor;
mod failure;
mod interrupt;
mod manual;
mod output;
mod units;

pub use cli::main;
