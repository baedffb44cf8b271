//! [`Answers`]: what requests with `NOWAIT` came to.

use std::fmt;

use rustix::io::Errno;
use serde::Serialize;
use tokio_kaio::SubmitPolicy;

use super::share::percent;
use super::subject::Subject;
use super::watch::watch;
use super::{Class, Effort, Result, Target};

/// What requests with `NOWAIT` came to. Each that is refused is made again without it, as under
/// [`SubmitPolicy::NoWaitFirst`], so that the file is what the next one wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Answers {
    /// Those that were done.
    pub taken: u64,
    /// Of these, those whose submission slept all the same.
    pub slept: u64,
    /// Those that would have had to wait: `EAGAIN`.
    pub would_wait: u64,
    /// Those on a file system that does not know the flag: `EOPNOTSUPP`.
    pub unknown: u64,
}

impl Answers {
    /// Makes requests of a class with `NOWAIT`. A sync takes no flags, and has no answers.
    ///
    /// # Errors
    ///
    /// Where there can be no such file or context, or a request fails in another way.
    pub async fn measure(target: &Target, class: Class, effort: Effort) -> Result<Answers> {
        const WOULD_WAIT: i32 = Errno::AGAIN.raw_os_error();
        const UNKNOWN: i32 = Errno::OPNOTSUPP.raw_os_error();
        let mut answers = Answers::default();
        if class == Class::Sync {
            return Ok(answers);
        }
        let mut subject = Subject::new(target, class, effort, SubmitPolicy::Inline).await?;
        for i in effort.requests(class) {
            subject.prepare(i).await?;
            let handle = subject.handle();
            let watched = watch(&handle, subject.request(i, true)).await;
            match watched.result {
                Ok(()) => {
                    answers.taken += 1;
                    answers.slept += u64::from(watched.submitted && watched.slept);
                    continue;
                }
                Err(error) => match error.raw_os_error() {
                    Some(WOULD_WAIT) => answers.would_wait += 1,
                    Some(UNKNOWN) => answers.unknown += 1,
                    _ => return Err(error.into()),
                },
            }
            subject.request(i, false).await?;
        }
        subject.close().await;
        Ok(answers)
    }

    /// How many there are.
    pub fn all(&self) -> u64 {
        self.taken + self.would_wait + self.unknown
    }
}

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.all();
        let answers = [
            (self.taken - self.slept, "taken"),
            (self.slept, "taken, but slept"),
            (self.would_wait, "`EAGAIN`"),
            (self.unknown, "`EOPNOTSUPP`"),
        ];
        let answers: Vec<_> = answers
            .into_iter()
            .filter(|&(n, _)| n > 0)
            .map(|(n, answer)| match n == all {
                true => answer.to_owned(),
                false => format!("{answer} {}", percent(n, all)),
            })
            .collect();
        match answers.is_empty() {
            true => f.write_str("–"),
            false => f.write_str(&answers.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_told_where_answers_differ() {
        let mut answers = Answers::default();
        assert_eq!(answers.to_string(), "–");
        answers.taken = 97;
        assert_eq!(answers.to_string(), "taken");
        answers.would_wait = 3;
        assert_eq!(answers.to_string(), "taken 97 %, `EAGAIN` 3 %");
    }
}
