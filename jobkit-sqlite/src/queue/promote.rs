//! `promote_due`.

use jobkit_core::state_machine::Event;
use jobkit_core::storage::{Promoted, StepRequest};

use crate::codec::{at, select_job, size};
use crate::error::Done;
use crate::jobs::read_jobs;
use crate::jobs::transition::Why;
use crate::sweep::STEP;
use crate::writer::Flight;

impl Flight<'_, '_> {
    pub(super) fn promote(&mut self, request: StepRequest) -> Done<Promoted> {
        let now = self.now(request.now);
        let due = read_jobs(
            self.db,
            select_job!(
                "INDEXED BY jk_due WHERE state = 1 AND run_at <= ?1 ORDER BY run_at, seq LIMIT ?2"
            ),
            [now.as_micros(), size(request.max.clamp(1, STEP))],
        )?;
        let max = request.max.clamp(1, STEP);
        let mut count = due.len();
        for job in due {
            match job {
                Ok(mut job) => {
                    let _ = self.step(&mut job, &Event::Due, &Why::at(now))?;
                }
                Err(seq) => self.give_up_unreadable(seq, now)?,
            }
        }
        self.refill(now)?;
        if count < max {
            count += self.fill_due_limits(max - count, now)?;
        }
        let next = self
            .db
            .one("SELECT min(run_at) FROM jk_job INDEXED BY jk_due WHERE state = 1", [], |row| {
                row.get::<_, Option<i64>>(0)
            })?
            .flatten();
        let next = next.into_iter().chain(self.next_room_at()?).min();
        Ok(Promoted { count, next_due_at: next.map(at), now })
    }
}
