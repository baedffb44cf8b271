//! A naive reference.
