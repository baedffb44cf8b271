//! What a context is built from, under one name.

use std::marker::PhantomData;

use intrusive_collections::linked_list::LinkedListOps;
use intrusive_collections::{Adapter, DefaultLinkOps};
use lock_api::RawMutex;

use super::IntrusiveAdapter;
use crate::sys::{Kernel, System};

/// The lock, link, adapter and kernel of a context. The public types spell the first three out;
/// inside, this one name stands for them.
pub(crate) trait Flavour {
    type Lock: RawMutex;
    type Link: DefaultLinkOps<Ops = <Self::Adapter as Adapter>::LinkOps> + Default;
    type Adapter: IntrusiveAdapter<Self::Lock, Self::Link>
        + Adapter<LinkOps: LinkedListOps + Default>;
    type Kernel: Kernel;
}

/// The flavour of [`GenericAioContext<M, A, L>`](crate::GenericAioContext). Never made.
pub(crate) struct Of<M, A, L, K = System>(PhantomData<(M, A, L, K)>);

impl<M, A, L, K> Flavour for Of<M, A, L, K>
where
    M: RawMutex,
    A: IntrusiveAdapter<M, L>,
    A::LinkOps: LinkedListOps + Default,
    L: DefaultLinkOps<Ops = A::LinkOps> + Default,
    K: Kernel,
{
    type Lock = M;
    type Link = L;
    type Adapter = A;
    type Kernel = K;
}
