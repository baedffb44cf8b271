//! [`ContextConfig`] and [`ContextTypes`]: what a context is made with.

use std::marker::PhantomData;

use lock_api::RawMutex;

use crate::Backend;
use crate::backend::{AnyBackend, IoBackend};
use crate::policy::{DefaultAdvisor, PolicyConfig, SubmitAdvisor};

/// Type parameters of a driver, under one name.
pub(crate) trait ContextTypes {
    type Lock: RawMutex;
    type Backend: IoBackend;
    type Advisor: SubmitAdvisor;
}

/// The types of a context with lock `M`. Never made.
pub(crate) struct Types<M, B = AnyBackend, P = DefaultAdvisor>(PhantomData<(M, B, P)>);

impl<M, B, P> ContextTypes for Types<M, B, P>
where
    M: RawMutex,
    B: IoBackend,
    P: SubmitAdvisor,
{
    type Lock = M;
    type Backend = B;
    type Advisor = P;
}

/// Configuration of a context.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ContextConfig {
    /// Most requests in flight: the slots of a context.
    pub(crate) capacity: usize,
    /// Whether a request waits for a free slot.
    pub(crate) wait_for_slot: bool,
    pub(crate) policy: PolicyConfig,
    pub(crate) backend: Backend,
    pub(crate) measure_latency: bool,
}
