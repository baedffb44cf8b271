//! Ballista executors read local files with Linux kernel AIO.
