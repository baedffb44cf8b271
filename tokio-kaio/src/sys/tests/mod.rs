//! Both kernels, held to the same: what is a fact of the one must be so of the other.
#![allow(unsafe_code)]

mod polls;
mod priorities;
mod rig;
mod vectored;
