//! [`SubmitPlan`]: how a request is submitted. [`OpInfo`]: the properties that the plan depends on.

/// The properties of an operation that policy depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpInfo {
    /// `None` if the operation moves no data.
    pub(crate) direction: Option<Direction>,
    pub(crate) is_poll: bool,
    /// The operation is a write with `RWF_APPEND`.
    pub(crate) appends: bool,
    /// `RWF_*`, as the caller set them.
    pub(crate) rw_flags: i32,
    pub(crate) offset: u64,
    pub(crate) nbytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// Operations on a file that the kernel is likely to treat alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpClass {
    Read,
    /// A write within the data that the file is known to have.
    Overwrite,
    /// A write beyond the data that the file is known to have.
    Extend,
    /// A write to the end of the file.
    Append,
}

/// How a request is submitted. Contains the class, because classifying the request again after its
/// completion may give a different class: the completion may extend the known data of the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SubmitPlan {
    pub(crate) path: SubmitPath,
    /// The class of requests that learns from this request, if any.
    pub(crate) class: Option<OpClass>,
}

impl SubmitPlan {
    pub(crate) const INLINE: SubmitPlan = SubmitPlan {
        path: SubmitPath::Inline,
        class: None,
    };

    pub(crate) const OFFLOAD: SubmitPlan = SubmitPlan {
        path: SubmitPath::Offload,
        class: None,
    };

    /// Returns the attempt with `RWF_NOWAIT`, if the plan is one.
    #[inline]
    pub(crate) fn nowait(&self) -> Option<NowaitAttempt> {
        let probe = match self.path {
            SubmitPath::Nowait => false,
            SubmitPath::NowaitProbe => true,
            SubmitPath::Inline | SubmitPath::Offload => return None,
        };
        let class = self.class?;
        Some(NowaitAttempt { class, probe })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SubmitPath {
    /// On the current thread, which may block.
    Inline,
    /// On the current thread, with `RWF_NOWAIT`. If the kernel refuses the request, it is offloaded.
    Nowait,
    /// Like `Nowait`, to find out whether the kernel still refuses such requests.
    NowaitProbe,
    /// On a thread of the blocking pool.
    Offload,
}

/// A submission with `RWF_NOWAIT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NowaitAttempt {
    pub(crate) class: OpClass,
    /// See [`SubmitPath::NowaitProbe`].
    pub(crate) probe: bool,
}
