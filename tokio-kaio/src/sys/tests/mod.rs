//! Both kernels, held to the same: what is a fact of the one must be so of the other.
#![allow(unsafe_code)]

mod priorities;
mod rig;
mod vectored;
