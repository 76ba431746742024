//! Looks for kinds that wait while no live server serves them, which nobody else would notice.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::error::{ErrorKind, Result};
use crate::model::ids::jittered;
use crate::model::name::Name;
use crate::server::engine::Engine;
use crate::storage::{Lane, ServerStatus};

/// More than anybody lets wait without a server.
const LANES: usize = 1_000;
/// How many are named in health; the rest is counted.
const NAMED: usize = 5;

const PART: &str = "unserved";

pub(super) async fn run(engine: Arc<Engine>) {
    let mut before = BTreeSet::new();
    let mut told = BTreeSet::new();
    let interval = engine.options.janitor_interval;
    // What begins to wait after a look that found nothing waiting does not count before that.
    let when_empty = engine.options.unserved_after.clamp(interval, interval * 4);
    let mut pause = jittered(interval);
    while engine.sleep(pause).await {
        pause = jittered(interval);
        match engine.bounded(unserved(&engine)).await {
            Ok(None) => {
                tell(&engine, &BTreeSet::new(), &mut told);
                before = BTreeSet::new();
                pause = when_empty + jittered(interval) / 8;
            }
            Ok(Some(now)) => {
                // On the second look only: a server that is being restarted is back by then.
                let lasting: BTreeSet<_> = now.intersection(&before).cloned().collect();
                tell(&engine, &lasting, &mut told);
                before = now;
            }
            // A storage without lists cannot tell.
            Err(error) if error.kind() == ErrorKind::Unsupported => return,
            // The other parts say that the storage is away.
            Err(error) => tracing::debug!(error = %error, "checking for unserved kinds failed"),
        }
    }
}

type Unserved = BTreeSet<(Name, Name)>;

/// Kinds and their queues that have waited for so long, and are served by nobody; `None` when nothing
/// waits at all.
async fn unserved(engine: &Engine) -> Result<Option<Unserved>> {
    let storage = &engine.storage;
    let lanes = storage.lanes(LANES).await?;
    if lanes.is_empty() {
        return Ok(None);
    }
    let now = storage.now().await?;
    let waits = |lane: &Lane| {
        lane.first_at.is_some_and(|first| now.since(first) >= engine.options.unserved_after)
    };
    let lanes: Vec<_> = lanes.into_iter().filter(waits).collect();
    let here = |lane: &Lane| {
        engine.info.kinds.contains(&lane.kind) && engine.info.queues.contains(&lane.queue)
    };
    if lanes.iter().all(here) {
        return Ok(Some(Unserved::new()));
    }
    let servers = storage.servers().await?;
    let serves = |server: &ServerStatus, lane: &Lane| {
        now.apart(server.heartbeat_at) < engine.options.dead_after
            && server.info.kinds.contains(&lane.kind)
            && server.info.queues.contains(&lane.queue)
    };
    let unserved = lanes.into_iter().filter(|lane| !servers.iter().any(|one| serves(one, lane)));
    Ok(Some(unserved.map(|lane| (lane.kind, lane.queue)).collect()))
}

/// Logs each kind once, and lowers health as long as one is there.
fn tell(engine: &Engine, unserved: &Unserved, told: &mut Unserved) {
    for (kind, queue) in unserved.difference(told) {
        tracing::warn!(kind = %kind, queue = %queue, "jobs are waiting, and no live server serves their kind");
    }
    for (kind, queue) in told.difference(unserved) {
        tracing::info!(kind = %kind, queue = %queue, "a live server serves this kind again");
    }
    told.clone_from(unserved);
    if unserved.is_empty() {
        engine.health.cleared(PART);
        return;
    }
    let named: Vec<_> = unserved
        .iter()
        .take(NAMED)
        .map(|(kind, queue)| format!("`{kind}` in queue `{queue}`"))
        .collect();
    let more = match unserved.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let problem = format!("jobs wait that no live server serves: {}{more}", named.join(", "));
    engine.health.stands(PART, problem);
}
