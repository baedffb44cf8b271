//! [`Oracle`]: what a program has started, and what it knows to be durable.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a program has started, and what it knows to be durable. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    history: Arc<Mutex<History>>,
    /// Where the events are written too, one a line, for a program that is killed.
    events: Option<Arc<File>>,
}

/// The operations of a program, by their numbers. Each has a place, whose meaning depends on the program: the
/// name of a file, a sequence number, an offset.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The number of the last operation.
    last: u64,
    /// Started: may be durable or not.
    pending: BTreeMap<u64, u64>,
    /// Known to be durable.
    durable: BTreeMap<u64, u64>,
    /// Lost by a power cut, as they may be. They must not come back.
    gone: BTreeSet<u64>,
    /// Nobody needs what has an earlier place.
    discarded: u64,
}

impl Oracle {
    /// An oracle that also writes each event to `events`.
    pub fn with_events(events: File) -> Oracle {
        Oracle {
            history: Arc::default(),
            events: Some(Arc::new(events)),
        }
    }

    pub fn with_history(history: History) -> Oracle {
        Oracle {
            history: Arc::new(Mutex::new(history)),
            events: None,
        }
    }

    /// Begins an operation at `place`. Returns its number.
    pub fn start(&self, place: u64) -> u64 {
        let mut history = self.history();
        let operation = history.last + 1;
        history.start(operation, place);
        self.write(&history, format_args!("start {operation} {place}"));
        operation
    }

    /// The operation is durable.
    pub fn acknowledge(&self, operation: u64, place: u64) {
        let mut history = self.history();
        history.acknowledge(operation, place);
        self.write(&history, format_args!("durable {operation} {place}"));
    }

    /// From now on nobody needs operations whose place is before `place`.
    pub fn discard(&self, place: u64) {
        let mut history = self.history();
        history.discard(place);
        self.write(&history, format_args!("discard {place} 0"));
    }

    /// The history. Not to be held across an `await`.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, _locked: &MutexGuard<'_, History>, event: std::fmt::Arguments<'_>) {
        if let Some(events) = &self.events {
            let line = format!("{event}\n");
            let written = (&**events).write_all(line.as_bytes());
            // Without its event, an operation that was lost would not be missed.
            written.expect("the events of the program can be written");
        }
    }
}

impl History {
    /// The history of a program that was stopped by a power cut after it had written `events`. At the cut,
    /// it had written `before` bytes at least. What was acknowledged later may be durable.
    pub fn parse(events: &str, before: usize) -> Result<History, String> {
        let mut history = History::default();
        let mut read = 0;
        for line in events.split_inclusive('\n') {
            read += line.len();
            let Some(event) = line.strip_suffix('\n') else {
                break; // the program was killed
            };
            let words: Vec<_> = event.split(' ').collect();
            let number = |word: &str| word.parse().map_err(|_| format!("no event: {event:?}"));
            let [kind, first, second] = words[..] else {
                return Err(format!("no event: {event:?}"));
            };
            let (first, second) = (number(first)?, number(second)?);
            match kind {
                "start" => history.start(first, second),
                "durable" if read <= before => history.acknowledge(first, second),
                "durable" => {}
                "discard" => history.discard(first),
                _ => return Err(format!("no event: {event:?}")),
            }
        }
        Ok(history)
    }

    fn start(&mut self, operation: u64, place: u64) {
        self.last = operation;
        self.pending.insert(operation, place);
    }

    fn acknowledge(&mut self, operation: u64, place: u64) {
        self.pending.remove(&operation);
        self.durable.insert(operation, place);
    }

    fn discard(&mut self, place: u64) {
        self.discarded = self.discarded.max(place);
        self.durable.retain(|_, at| *at >= place);
    }

    /// The operations that are durable, with their places.
    pub fn durable(&self) -> &BTreeMap<u64, u64> {
        &self.durable
    }

    /// The operations that may be durable, with their places.
    pub fn pending(&self) -> &BTreeMap<u64, u64> {
        &self.pending
    }

    /// Operations before this place need not be there.
    pub fn discarded(&self) -> u64 {
        self.discarded
    }

    /// The number of operations that were started.
    pub fn started(&self) -> u64 {
        self.last
    }

    /// A pending operation was found after a power cut: from now on it is durable.
    ///
    /// # Errors
    ///
    /// The operation was never started, or was lost by an earlier power cut and is there again.
    pub fn found(&mut self, operation: u64, place: u64) -> Result<(), String> {
        if self.gone.contains(&operation) {
            return Err(format!(
                "operation {operation} was not there after an earlier power cut, and is there again"
            ));
        }
        if self.pending.remove(&operation).is_none() {
            return Err(format!(
                "operation {operation} is there, which was never started"
            ));
        }
        self.durable.insert(operation, place);
        Ok(())
    }

    /// All pending operations that were not found are gone.
    pub fn settle(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        self.gone.extend(pending.into_keys());
    }
}
