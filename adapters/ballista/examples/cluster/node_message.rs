//! What the nodes of the cluster and the process that started them say to each other: a line of JSON each, on
//! the standard input and output of the node.

use serde::{Deserialize, Serialize};

use crate::read_counters::ReadCounters;

/// To a node.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Command {
    /// Answer with [`Event::Counters`].
    Count,
    /// Let one task finish, and hold those that come after it.
    Hold,
    /// Hold no more tasks.
    Release,
    /// End.
    Stop,
}

/// From a node.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    /// The scheduler accepts connections.
    Listening { port: u16 },
    /// The scheduler has heard of the executor.
    Ready,
    /// The executor has received a task, and holds it.
    Holding { job: String, stage: usize },
    /// What an executor has read so far. Its last message.
    Counters(ReadCounters),
}
