//! A server without background processes: one job at a time, by whoever asks. For tests.

use std::sync::Arc;
use std::time::Duration;

use crate::handlers::context::JobContext;
use crate::model::error::Result;
use crate::model::name::Name;
use crate::model::state::StateName;
use crate::server::engine::Engine;
use crate::server::executor::{End, How};
use crate::server::failed::{self, Subject};
use crate::server::held::Stopper;
use crate::server::{recurring_scheduler, settler};
use crate::storage::{
    Call, ClaimRequest, ClaimedJob, ExpiredLease, RescueRequest, Settle, SettleAnswer,
    SettleRequest,
};

/// The state between two steps.
#[derive(Debug)]
pub(crate) struct Inline {
    engine: Arc<Engine>,
    next_claim: u64,
    seen: Vec<ExpiredLease>,
}

impl Inline {
    pub(crate) async fn start(engine: Arc<Engine>) -> Result<Self> {
        engine.announce().await?;
        Ok(Self { engine, next_claim: 1, seen: Vec::new() })
    }

    /// Whatever background processes would do now; whether anything was done.
    pub(crate) async fn housekeeping(&mut self) -> Result<bool> {
        let storage = &self.engine.storage;
        let promoted = storage.promote_due(&Call::default(), self.engine.step()).await?.count;
        let fired = recurring_scheduler::fire_due(&self.engine).await?;
        let swept = storage.sweep(&Call::default(), self.engine.step()).await?.done;
        let request = RescueRequest {
            seen: std::mem::take(&mut self.seen),
            crash_limit: self.engine.options.crash_limit,
            max: self.engine.step_items(),
        };
        let rescue = storage.rescue_expired(&Call::default(), &request).await?;
        // The second look follows at once: nobody renews in between.
        let expired = !rescue.expired.is_empty();
        self.seen = rescue.expired;
        for (job, state) in &rescue.rescued {
            if *state == StateName::Failed {
                self.engine.report_crashed(*job).await;
            }
        }
        Ok(promoted > 0 || fired > 0 || swept > 0 || !rescue.rescued.is_empty() || expired)
    }

    /// Claims one job.
    pub(crate) async fn claim(&mut self) -> Result<Option<ClaimedJob>> {
        let engine = &self.engine;
        let request = ClaimRequest {
            server: engine.info.name.clone(),
            incarnation: engine.incarnation(),
            sequence: self.next_claim,
            queues: engine.queues.names().iter().map(one_of).collect(),
            kinds: Arc::clone(&engine.kind_names),
            max: 1,
            started: 1,
            lease: engine.options.lease,
            sleeps_below: 0,
            hint: None,
        };
        let claimed = engine.storage.claim(&Call::default(), &request).await?;
        self.next_claim += 1;
        Ok(claimed.jobs.into_iter().next())
    }

    /// Runs a job to its end, without deadline, and says how it ended.
    pub(crate) async fn run(&self, job: ClaimedJob) -> Option<RunEnded> {
        let engine = &self.engine;
        let kind = engine.kinds.get(job.kind.as_str())?;
        let context = JobContext::new(
            &job,
            Stopper::default().token,
            None,
            engine.options.retention_of(job.extras.as_deref(), Some(kind)),
            engine.client.clone(),
            Arc::clone(&engine.data),
            Arc::clone(&engine.signals.reporter),
        );
        let run = engine.perform(kind, &job, &context);
        let how = How::Ran(context.clone().scope(run).await);
        let context = Some(context);
        let duration = Duration::ZERO;
        Some(RunEnded(End { job, how, cause: None, duration, context, was_stuck: false }))
    }

    /// How it is settled.
    pub(crate) fn settle_of(&self, end: RunEnded) -> (Subject, Option<Settle>) {
        let subject = Subject::of(&end.0.job);
        let kind = self.engine.kinds.get(subject.kind.as_str()).cloned();
        (subject, settler::settle_of(end.0, kind.as_deref(), &self.engine))
    }

    /// Settles it as a server would.
    pub(crate) async fn settle(&self, subject: &Subject, settle: Option<Settle>) -> Result<()> {
        let engine = &self.engine;
        let mut request = SettleRequest {
            server: engine.info.name.clone(),
            settles: settle.into_iter().collect(),
        };
        let mut answers = engine.storage.settle(&Call::default(), &request).await?;
        if let Some(SettleAnswer::Refused(refusal)) = answers.first() {
            let bare = settler::refused(&request.settles[0], &subject.kind, &refusal);
            request.settles = vec![bare];
            answers = engine.storage.settle(&Call::default(), &request).await?;
        }
        for (settle, answer) in request.settles.iter().zip(&answers) {
            failed::settled(&engine.hooks, subject, settle, answer);
        }
        Ok(())
    }
}

/// A run that ended.
#[derive(Debug)]
pub(crate) struct RunEnded(End);

fn one_of(queue: &Name) -> crate::storage::QueueQuota {
    crate::storage::QueueQuota { queue: queue.clone(), max: 1 }
}
