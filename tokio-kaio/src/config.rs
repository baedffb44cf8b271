//! [`ContextConfig`] and [`ContextTypes`]: configuration and type parameters of a context.

use std::marker::PhantomData;

use lock_api::RawMutex;

use crate::Backend;
use crate::backend::{AnyBackend, FileCalls, IoBackend};
use crate::policy::{DefaultAdvisor, PolicyConfig, SubmitAdvisor};

/// The type parameters of a driver, combined into one.
pub(crate) trait ContextTypes {
    type Lock: RawMutex;
    type Backend: IoBackend;
    type Advisor: SubmitAdvisor;
}

/// The types of a context with lock `M`, backend `B` and advisor `P`. Never instantiated.
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
    /// Largest number of requests in flight: the number of slots.
    pub(crate) capacity: usize,
    /// Whether a request waits for a slot if none is free. If not, it fails.
    pub(crate) wait_for_slot: bool,
    pub(crate) policy: PolicyConfig,
    pub(crate) backend: Backend,
    pub(crate) measure_latency: bool,
    /// Bytes of memory that are registered with the kernel.
    pub(crate) registered_bytes: usize,
    /// The calls that the backend performs, and not tokio's blocking pool.
    pub(crate) file_calls: FileCalls,
}
