//! DataFusion reads and writes local files with Linux kernel AIO.
