//! The binary, on little data. The figures mean nothing.

mod measuring;
mod rendering;
