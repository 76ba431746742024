//! Random sequences of operations on a storage and on the one in memory, which is the specification:
//! every answer, and everything that can be read afterwards, must be the same.
//!
//! A sequence that shows a difference is made as short as it can be, and told with its seed.
//! `JOBKIT_MODEL_SEED` repeats one (else the day decides), `JOBKIT_MODEL_SEQUENCES` asks for more.

mod call;
mod facts;
mod generator;
mod operation;
mod player;
mod resolve;
mod search;
mod world;

pub use operation::Step;
pub use search::{Difference, Fresh, Search};

use crate::fixtures::Env;
use jobkit_core::storage::Level;

/// SUB-1, SUB-2, GET-1, GET-2, CHG-1, CLM-2, SET-1, SET-2, SET-6, REN-1, RES-1, RES-2, PRO-1, LCK-1,
/// SRV-1, G6: jobs, queues, locks and servers answer as the model does, whatever is called in which
/// order.
pub async fn jobs_answer_as_the_model_does(env: Env) {
    hold(env, Level::Core).await;
}

/// SUB-6, SUB-8, SUB-10, SET-3, SET-7, BAT-3, BAT-7, LIM-2, LIM-4, REC-4, LOG-1, LOG-5, PUR-1, SWP-1, G7:
/// so do edges, batches, keys, limits, schedules and logs.
pub async fn flows_answer_as_the_model_does(env: Env) {
    hold(env, Level::Standard).await;
}

/// MON-1, MON-2, MON-3, MON-4, MON-6, MON-7, OPS-1, OPS-2, OPS-4, G18: so do counts, lists, series and
/// pauses.
pub async fn what_is_shown_is_what_the_model_shows(env: Env) {
    hold(env, Level::Full).await;
}

async fn hold(env: Env, level: Level) {
    let seed = env.now().as_micros() / 86_400_000_000 * 1000;
    let search = Search::of_environment(level, u64::try_from(seed).unwrap_or(0));
    // Shrinking wants to wait for each attempt, on a thread that may.
    let found = tokio::task::spawn_blocking(move || {
        search.run(|clock| {
            let env = env.clone();
            async move { env.fresh(clock).await }
        })
    });
    match found.await {
        Ok(None) => {}
        Ok(Some(difference)) => panic!("{difference}"),
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}
