//! Runs SQL on local files.

fn main() {}
