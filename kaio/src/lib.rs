//! `kaio`: what a disk and its kernel do with Linux AIO, against what else there is, and copies past
//! the page cache. This library is the program's, and its interface is the command line:
//! `kaio --help`, and `docs/kaio.md` in the repository. Beside that, [`classes`] is there for others that
//! measure what a file system does.
//!
//! | module | has |
//! |---|---|
//! | `cli` | the command line, and what all commands have in common there |
//! | `doctor` | `kaio doctor`; its measuring is in [`classes`] |
//! | `bench` | `kaio bench`, over the measuring of `kaio-bench` |
//! | `cp` | `kaio cp` |
//! | `manual` | `kaio completions`, `kaio man` |
//! | `failure`, `interrupt` | how a command fails, and is broken off |
//! | `alignment`, `limits`, `paths` | what files want, and systems allow; which file it is |
//! | `output`, `columns`, `units` | data and tables on standard output, talk on standard error; sizes on the command line |

mod alignment;
mod bench;
mod cli;
mod columns;
mod cp;
mod doctor;
mod failure;
mod interrupt;
mod left;
mod limits;
mod manual;
mod output;
mod paths;
mod units;

pub use cli::main;
pub use doctor::classes;
