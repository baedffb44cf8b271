//! Contexts over a [fake kernel](fake): what they make of every answer that a kernel can give, in
//! every order.

#[cfg(not(kaio_loom))]
mod appends;
#[cfg(not(kaio_loom))]
mod driver;
#[cfg(not(kaio_loom))]
mod ending;
#[cfg_attr(kaio_loom, allow(dead_code))]
mod fake;
#[cfg(kaio_loom)]
mod loom_models;
#[cfg(not(kaio_loom))]
mod reentrance;
#[cfg(not(kaio_loom))]
mod rig;
#[cfg(not(kaio_loom))]
mod storm;
