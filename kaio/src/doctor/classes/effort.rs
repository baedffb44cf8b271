//! [`Effort`]: how much is measured.

use std::time::{Duration, Instant};

use super::Class;

/// How many requests there are, of which size, and for how long at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Bytes of a request; a multiple of what the file wants for offset, length and memory.
    pub block: u64,
    /// Requests of a class.
    pub requests: u64,
    /// Requests of a class that takes longer, of which there are no more than of the others.
    pub few: u64,
    /// After this long no further request of a class is made. `None`: all are.
    pub limit: Option<Duration>,
}

/// That of `docs/file-systems.md`.
impl Default for Effort {
    fn default() -> Effort {
        Effort {
            block: 4096,
            requests: 1024,
            few: 128,
            limit: None,
        }
    }
}

impl Effort {
    /// So many are made however long they take: fewer tell nothing.
    const LEAST: u64 = 8;

    /// The numbers of a class's requests, as long as there is time for another.
    pub(super) fn requests(self, class: Class) -> impl Iterator<Item = u64> {
        let began = Instant::now();
        (0..class.requests(self)).take_while(move |made| !self.is_over(*made, began))
    }

    /// Whether there is no time for another request, after `made` of them since `began`.
    fn is_over(self, made: u64, began: Instant) -> bool {
        made >= Effort::LEAST && self.limit.is_some_and(|limit| began.elapsed() >= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_over_when_its_time_is_up_but_not_before_there_are_some_requests() {
        let effort = Effort {
            limit: Some(Duration::ZERO),
            ..Effort::default()
        };
        let began = Instant::now();
        assert!(!effort.is_over(Effort::LEAST - 1, began));
        assert!(effort.is_over(Effort::LEAST, began));
        assert!(!Effort::default().is_over(u64::MAX, began));
    }
}
