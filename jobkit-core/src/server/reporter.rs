//! Sends log lines and progress of running jobs, within a second. What is left travels with the settle.

use std::sync::Arc;
use std::time::Duration;

use crate::model::error::ErrorKind;
use crate::server::engine::Engine;
use crate::server::held::Phase;
use crate::storage::Call;

const INTERVAL: Duration = Duration::from_millis(800);

pub(super) async fn run(engine: Arc<Engine>) {
    loop {
        tokio::select! {
            biased;
            () = engine.ended.cancelled() => return,
            () = engine.signals.reporter.notified() => {}
        }
        // What else is told meanwhile goes along.
        if !engine.sleep(INTERVAL).await {
            return;
        }
        let contexts: Vec<_> = {
            let held = engine.held.lock();
            let running = held.jobs.values().filter_map(|job| match &job.phase {
                Phase::Running(running) => Some(running.context.clone()),
                _ => None,
            });
            running.collect()
        };
        let writes: Vec<_> = contexts.iter().filter_map(|context| context.take_told()).collect();
        for writes in writes.chunks(engine.step_items()) {
            match engine.bounded(engine.storage.write_log(&Call::default(), writes)).await {
                Ok(_) => engine.health.works("reporter"),
                Err(error) if error.kind() == ErrorKind::Unsupported => return,
                // Lines are for people: they are not worth holding jobs up.
                Err(error) => engine.health.failed("reporter", &error),
            }
        }
    }
}
