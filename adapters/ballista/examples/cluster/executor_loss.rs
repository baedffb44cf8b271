//! [`survive`]: an executor is killed in the middle of a query.

use std::time::Instant;

use datafusion::prelude::SessionContext;
use tokio::time::timeout;

use crate::answer::Answer;
use crate::cluster_nodes::Cluster;
use crate::cluster_options::ClusterOptions;
use crate::node_message::{Command, Event};
use crate::{Result, Seconds};

/// How often the query is run until the executor gets two tasks of it, one after another.
const ATTEMPTS: usize = 10;

/// Kills the first executor with SIGKILL while it has a task of a query, and the output of another. The query
/// has to have the right answer, or fail, within the limit of time.
pub(crate) async fn survive(
    options: &ClusterOptions,
    cluster: &mut Cluster,
    session: &SessionContext,
    expected: &Answer,
) -> Result<()> {
    let number = options.kill_query;
    let victim = cluster.first_executor();
    for _ in 0..ATTEMPTS {
        victim.send(&Command::Hold).await?;
        let query = timeout(options.time_limit(), Answer::of(session, number));
        tokio::pin!(query);
        let holding = async {
            loop {
                if let Event::Holding { job, stage } = victim.event().await? {
                    return Result::Ok((job, stage));
                }
            }
        };
        let (job, stage) = tokio::select! {
            holding = holding => holding?,
            answer = &mut query => {
                // The other executors were faster.
                let answer = answer.map_err(|_| no_answer(options))?;
                answer?.check(number, expected)?;
                victim.send(&Command::Release).await?;
                continue;
            }
        };
        let status = victim.kill().await?;
        println!(
            "{}: killed ({status}) with a task of query {number} (job {job}, stage {stage})",
            victim.name(),
        );
        let killed = Instant::now();
        let answer = query.await.map_err(|_| no_answer(options))?;
        let after = Seconds(killed.elapsed());
        match answer {
            Ok(answer) => {
                answer.check(number, expected)?;
                println!("query {number:2}: equal, {after} after the loss");
            }
            Err(error) => println!("query {number:2}: failed {after} after the loss: {error}"),
        }
        cluster.remove_first_executor();
        return Ok(());
    }
    let name = victim.name();
    Err(format!("{name} got too few tasks of query {number} in {ATTEMPTS} runs; choose another query by --kill-query").into())
}

fn no_answer(options: &ClusterOptions) -> String {
    format!(
        "query {}: neither an answer nor an error within {} s of --time-limit",
        options.kill_query, options.time_limit,
    )
}
