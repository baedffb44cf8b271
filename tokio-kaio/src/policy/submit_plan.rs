//! [`SubmitPlan`]: how a request is submitted; [`OpInfo`]: what that depends on.

/// An operation, as far as policy depends on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpInfo {
    /// `None`: it moves no data.
    pub(crate) direction: Option<Direction>,
    pub(crate) is_poll: bool,
    /// It writes to the end of the file, wherever that is.
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

/// How a request is submitted. The class is fixed here, when the request is admitted: its completion
/// may change what the file is known to have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SubmitPlan {
    pub(crate) path: SubmitPath,
    /// What to learn about. `None`: nothing.
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

    /// The attempt with `RWF_NOWAIT`, if it is one.
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
    /// On the current thread, with `RWF_NOWAIT`. Offloaded if the kernel refuses it.
    Nowait,
    /// The same, to find out whether the kernel still refuses such requests.
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
