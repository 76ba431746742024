//! `impl Operations`.

use async_trait::async_trait;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::memory::MemoryStorage;
use crate::recurring::Pause;
use crate::storage::{Operations, PauseRecord, PauseTarget};

#[async_trait]
impl Operations for MemoryStorage {
    async fn pause(
        &self,
        target: &PauseTarget,
        pause: &Pause,
        now: Option<Timestamp>,
    ) -> Result<()> {
        pause.check()?;
        self.write(now, |tables, work| {
            let pause = Pause { since: work.now, ..pause.clone() };
            tables.pauses.insert(target.clone(), pause);
            // Others may use the room that was given to what is paused now.
            tables.refill_limits(work);
        });
        Ok(())
    }

    async fn resume(&self, target: &PauseTarget) -> Result<bool> {
        Ok(self.write(None, |tables, work| {
            let pause = tables.pauses.remove(target);
            if pause.is_some() {
                work.claimable = true;
                tables.refill_limits(work);
            }
            pause.is_some_and(|pause| pause.holds(work.now))
        }))
    }

    async fn pauses(&self, now: Option<Timestamp>) -> Result<Vec<PauseRecord>> {
        Ok(self.read(now, |tables, now| {
            let holding = tables.pauses.iter().filter(|(_, pause)| pause.holds(now));
            let record = |(target, pause): (&PauseTarget, &Pause)| PauseRecord {
                target: target.clone(),
                pause: pause.clone(),
            };
            holding.map(record).collect()
        }))
    }
}
