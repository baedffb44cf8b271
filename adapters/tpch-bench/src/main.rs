//! Compares queries.

fn main() {}
