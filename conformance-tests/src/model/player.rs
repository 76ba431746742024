//! Plays a sequence on both storages, and compares.

use std::sync::Arc;

use jobkit_core::recurring::NextRun;
use jobkit_core::storage::*;
use jobkit_core::{MemoryStorage, TestClock};

use super::call::{Answer, Call};
use super::facts::{self, Scopes};
use super::operation::{Operation, Step};
use super::world::World;

/// After this many steps everything that can be read is compared, and at the end.
const COMPARED_EVERY: usize = 10;

/// What a sequence is played on.
pub(super) struct Subject {
    /// Connections to one namespace; one at least.
    pub(super) clients: Vec<Arc<dyn Storage>>,
    /// The clock that they follow, where it can be set.
    pub(super) clock: Option<TestClock>,
}

/// Plays the steps; what differed, if anything did.
pub(super) async fn play(subject: &Subject, level: Level, steps: &[Step]) -> Result<(), String> {
    let now = subject.clients[0].now().await.map_err(|error| error.to_string())?;
    let precision = subject.clients[0].capabilities().time_precision.as_micros().max(1);
    let precision = i64::try_from(precision).unwrap_or(1);
    let now =
        jobkit_core::Timestamp::from_micros(now.as_micros().div_euclid(precision) * precision);
    let clock = TestClock::at(now);
    let mut player = Player {
        subject,
        reference: MemoryStorage::with_clock(Arc::new(clock.clone())),
        clock,
        world: World::new(level, subject.clock.is_some(), now),
        client: 0,
    };
    for server in 0..2 {
        let call = Call::Announce(player.world.server(server, 2, 3));
        player.call(call, false).await?;
    }
    for (place, step) in steps.iter().enumerate() {
        let compared = place % COMPARED_EVERY == COMPARED_EVERY - 1 || place + 1 == steps.len();
        let played = async {
            player.step(step).await?;
            if compared { player.compare().await } else { Ok(()) }
        };
        played.await.map_err(|what| format!("at step {place}: {what}"))?;
    }
    Ok(())
}

struct Player<'a> {
    subject: &'a Subject,
    reference: MemoryStorage,
    /// Of the reference.
    clock: TestClock,
    world: World,
    client: usize,
}

impl Player<'_> {
    /// Calls both, and compares what they answer.
    async fn call(&mut self, call: Call, lost: bool) -> Result<Vec<RecurringDue>, String> {
        let client = &self.subject.clients[self.client % self.subject.clients.len()];
        let now = client.now().await.map_err(|error| error.to_string())?;
        self.clock.set(now);
        let mut ours = call.make(&**client, 0, self.world.now).await;
        let mut theirs = call.make(&self.reference, 1, self.world.now).await;
        self.rank(&call, [&mut ours, &mut theirs]);
        if ours.text != theirs.text {
            return Err(format!(
                "{call:#?}: the storage answers\n  {}\nand the model\n  {}",
                ours.text, theirs.text
            ));
        }
        // Whether a claim that took nothing is remembered is each storage's own affair.
        let repeatable = call.claim().is_none() || !ours.claimed.is_empty();
        let due = ours.due.iter();
        let due = due.map(|record| (record.spec.id.clone(), record.etag, record.next)).collect();
        if !lost {
            self.world.learn(&call, [ours, theirs]);
        }
        if repeatable && !matches!(call, Call::Due) {
            self.world.calls.push(call);
        }
        Ok(due)
    }

    /// Generations are each storage's own; that each new one is greater is not.
    fn rank(&mut self, call: &Call, answers: [&mut Answer; 2]) {
        let Call::Acquire(request) = call else { return };
        let lock = usize::from(request.name == "lock1");
        for (side, answer) in answers.into_iter().enumerate() {
            let Some(generation) = answer.generation else { continue };
            let known = &mut self.world.generations[side][lock];
            let later = known.range(generation..).count();
            let new = known.insert(generation);
            answer.text.push_str(&format!(" {later} are not smaller, new: {new}"));
        }
    }

    async fn compare(&mut self) -> Result<(), String> {
        let client = &self.subject.clients[self.client % self.subject.clients.len()];
        let capabilities = client.capabilities();
        let scopes = Scopes {
            level: self.world.level,
            text: capabilities.text_search != TextSearch::None,
            jobs: self.world.job_ids(),
            batches: self.world.batch_ids(),
            now: self.world.now,
        };
        let told = |error: jobkit_core::Error| format!("it cannot be read: {error}");
        self.clock.set(client.now().await.map_err(told)?);
        let ours = facts::read(&**client, &scopes).await.map_err(told)?;
        let theirs = facts::read(&self.reference, &scopes).await.map_err(told)?;
        facts::difference(&ours, &theirs).map_or(Ok(()), Err)
    }

    async fn step(&mut self, step: &Step) -> Result<(), String> {
        self.client = step.client;
        match &step.operation {
            Operation::Wait(length) => {
                self.world.now = self.world.now.plus(*length);
                if let Some(clock) = &self.subject.clock {
                    clock.set(self.world.now);
                }
            }
            Operation::Fire { job, skip } => {
                for (id, etag, next) in self.call(Call::Due, false).await? {
                    let Some(next) = next else { continue };
                    let record = self.world.job(job, &[], None);
                    let call = self.world.fire((id, etag), next, record, *skip);
                    self.call(call, step.lost).await?;
                }
            }
            operation => {
                if let Some(call) = self.world.resolve(operation) {
                    self.call(call, step.lost).await?;
                }
            }
        }
        Ok(())
    }
}

/// A schedule, and when it is due.
type RecurringDue = (String, u64, Option<NextRun>);
