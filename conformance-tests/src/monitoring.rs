//! What a dashboard reads.

mod lists;
mod statistics;

use std::time::Duration;

use jobkit_core::JobId;
use jobkit_core::edge::On;
use jobkit_core::record::NewRecord;
use jobkit_core::state::{Reason, Start, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{Action, Settle};

use crate::fixtures::*;

pub use self::lists::*;
pub use self::statistics::*;

/// Jobs of two kinds in two queues, in every state, after every kind of transition; answers their ids.
async fn workload(env: &Env) -> Vec<JobId> {
    let mut ids = Vec::new();
    let mut server = env.claimer("w").await.queues(&["default", "mail"]).kinds(&["k", "x"]);
    for round in 0..12_usize {
        let mut new = Vec::new();
        for i in 0..6 {
            let (kind, queue) = (["k", "x"][i % 2], ["default", "mail"][i / 3]);
            let start = if i == 5 { Start::After(seconds(3)) } else { Start::Now };
            new.push(NewRecord { kind: name(kind), queue: name(queue), start, ..job() });
        }
        let parent = new[round % 5].id;
        new.push(after(parent, [On::Success, On::Failed, On::Any][round % 3]));
        new.push(limited("l", 1));
        ids.extend(new.iter().map(|job| job.id));
        env.add_many(new).await;
        env.advance(2);
        for (i, job) in server.claim(5).await.into_iter().enumerate() {
            let ending = match (round + i) % 7 {
                0..=2 => Ending::Succeeded,
                3 => RETRY_NOW,
                4 => Ending::Retry { delay: seconds(4) },
                5 => Ending::Failed(Reason::OutOfAttempts),
                // Left to the rescue.
                _ => continue,
            };
            let mut settle = Settle::new(job.lease, ending);
            settle.duration = Some(Duration::from_millis(10 * (i as u64 + 1)));
            server.settle_with(settle).await;
        }
        if round % 4 == 3 {
            env.advance(60);
            env.rescue_all().await;
        }
        env.promote().await;
        for (i, state) in env.states(&ids).await.into_iter().enumerate() {
            let action = match (state, (i + round) % 11) {
                (StateName::Failed | StateName::Succeeded, 0) => Action::Requeue { run_at: None },
                (StateName::Failed | StateName::Enqueued, 1) | (StateName::Processing, 2) => {
                    Action::Delete { keep: None }
                }
                (StateName::Scheduled | StateName::Awaiting, 3) => Action::RunNow,
                (StateName::Enqueued, 4) => Action::Reschedule { run_at: env.after(30) },
                (StateName::Enqueued, 5) => {
                    Action::Move { queue: Some(name("mail")), priority: Some(7) }
                }
                _ => continue,
            };
            // Refused where an earlier change of this round came before.
            env.change(ids[i], action).await;
        }
        env.sweep().await;
    }
    // One that failed for good, and some that run.
    let running = server.claim(4).await;
    server.settled(running[0].lease, Ending::Failed(Reason::Permanent)).await;
    ids
}
