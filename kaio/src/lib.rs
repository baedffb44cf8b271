//! The library of the program `kaio`, which tests Linux AIO on a disk, compares it with the
//! alternatives, and copies files past the page cache. Its interface is the command line: see
//! `kaio --help`, and `docs/kaio.md` in the repository. [`request_classes`] is public for other programs
//! that measure file systems.
//!
//! | module | contents |
//! |---|---|
//! | `command_line` | the command line, and what all commands share there |
//! | `doctor` | `kaio doctor`; the measurements are in [`request_classes`] |
//! | `bench` | `kaio bench`, on top of `kaio-bench` |
//! | `cp` | `kaio cp` |
//! | `manual` | `kaio completions`, `kaio man` |
//! | `command_error`, `interrupt`, `thread_limit` | errors and exit codes; signals; the limit on threads |
//! | `direct_io_probe`, `system_limits`, `paths` | properties of files, limits of the system, paths |
//! | `stdio`, `columns`, `eta`, `units` | output, tables, progress, sizes and times |

mod bench;
mod columns;
mod command_error;
mod command_line;
mod cp;
mod direct_io_probe;
mod doctor;
mod eta;
mod interrupt;
mod manual;
mod paths;
mod stdio;
mod system_limits;
mod thread_limit;
mod units;

pub use command_line::main;
pub use doctor::request_classes;
