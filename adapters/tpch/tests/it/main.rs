//! TPC-H data and queries.

mod data_sets;
mod query_answers;
