//! [`measure`]: rounds of a work, by turns on each store.

use tokio::runtime::Runtime;

use crate::Result;
use crate::bench_session::{BenchSession, Run};
use crate::data_files::DataFiles;
use crate::query_work::Work;
use crate::results::{Store, StoreSamples, WorkResult};

/// Runs `rounds` rounds of a work on each store, after one that is not counted and whose answers are
/// compared. Each round starts with another store. The data is evicted before each run, or (`cached`) is read
/// once through LocalFileSystem before the first.
pub(crate) fn measure(
    runtime: &Runtime,
    sessions: &[BenchSession],
    data: &DataFiles,
    work: &Work,
    cached: bool,
    rounds: u32,
) -> Result<WorkResult> {
    let failed =
        |session: &BenchSession, error| format!("{} over {}: {error}", work.name, session.store);
    let rows = compare_answers(runtime, sessions, work)?;
    let mut samples: Vec<_> = sessions
        .iter()
        .map(|session| empty(session.store))
        .collect();
    for round in 0..rounds as usize {
        for turn in 0..sessions.len() {
            let index = (round + turn) % sessions.len();
            let session = &sessions[index];
            if !cached {
                data.evict()?;
            }
            let run = session
                .run(runtime, work)
                .map_err(|error| failed(session, error))?;
            if run.rows != rows {
                return Err(
                    failed(session, format!("{} rows, not {rows}", run.rows).into()).into(),
                );
            }
            samples[index].add(&run, data.cached_bytes()?);
        }
    }
    Ok(WorkResult {
        work: work.name.clone(),
        about: work.about.clone(),
        kind: work.kind,
        cached,
        rows,
        stores: samples,
    })
}

/// Compares the answers of all sessions, the first of which is over LocalFileSystem. Returns their rows.
fn compare_answers(runtime: &Runtime, sessions: &[BenchSession], work: &Work) -> Result<u64> {
    let mut expected = None;
    for session in sessions {
        let answer = session
            .answer(runtime, work)
            .map_err(|error| format!("{} over {}: {error}", work.name, session.store))?;
        if *expected.get_or_insert(answer) != answer {
            return Err(format!(
                "the answers of {} differ: over LocalFileSystem {expected:?}, over {} {answer:?}",
                work.name, session.store
            )
            .into());
        }
    }
    Ok(expected.map_or(0, |answer| answer.rows))
}

fn empty(store: Store) -> StoreSamples {
    StoreSamples {
        store,
        wall_ms: Vec::new(),
        cpu_ms: Vec::new(),
        read_bytes: Vec::new(),
        cached_bytes: Vec::new(),
    }
}

impl StoreSamples {
    fn add(&mut self, run: &Run, cached_bytes: u64) {
        let thousandths = |value: f64| (value * 1e3).round() / 1e3;
        self.wall_ms.push(thousandths(run.usage.wall_ms));
        self.cpu_ms.push(thousandths(run.usage.cpu_ms));
        self.read_bytes.push(run.usage.read_bytes);
        self.cached_bytes.push(cached_bytes);
    }
}
