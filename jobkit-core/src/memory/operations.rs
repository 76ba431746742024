//! `impl Operations`.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;

use crate::memory::MemoryStorage;
use crate::model::bounds;
use crate::model::clock::Timestamp;
use crate::model::edge::Parent;
use crate::model::error::Result;
use crate::model::error_group::ErrorGroup;
use crate::model::failure::Fingerprint;
use crate::model::ids::OperationId;
use crate::model::name::Name;
use crate::model::recurring::Pause;
use crate::model::refusal::Refusal;
use crate::model::state::{Reason, StateName};
use crate::storage::{
    AuditEntry, AuditStore, BulkRecord, BulkStore, Call, EditJob, ExportPage, Imported,
    JobSubmitted, Operations, PauseRecord, PauseTarget, ServerOrder, Submission, Submitted,
    TransferStore, Whole, check_export, check_items,
};

use crate::model::state_machine::Event;
use crate::model::unique::Unique;

use super::state::{Children, Place, Tables, Work};
use super::transitions::With;

/// What operators keep.
#[derive(Debug, Default)]
pub(super) struct OperatorState {
    bulks: BTreeMap<OperationId, BulkRecord>,
    groups: HashMap<Fingerprint, ErrorGroup>,
    audit: Vec<AuditEntry>,
    secrets: HashMap<String, [u8; 32]>,
}

impl OperatorState {
    /// The secret of a name; the first call makes it.
    pub(super) fn secret(&mut self, name: &str) -> [u8; 32] {
        *self.secrets.entry(name.to_owned()).or_insert_with(crate::model::ids::random_bytes)
    }

    /// Whether a bulk operation has not ended.
    pub(super) fn is_busy(&self) -> bool {
        self.bulks.values().any(|bulk| bulk.ended_at.is_none())
    }

    pub(super) fn count_failure(&mut self, failed: ErrorGroup) {
        match self.groups.get_mut(&failed.fingerprint) {
            Some(group) => group.add(&failed),
            None => {
                self.groups.insert(failed.fingerprint, failed);
            }
        }
        if self.groups.len() > bounds::ERROR_GROUPS {
            let oldest = self.groups.values().min_by_key(|it| (it.last_seen_at, it.fingerprint));
            if let Some(oldest) = oldest.map(|group| group.fingerprint) {
                self.groups.remove(&oldest);
            }
        }
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = &ErrorGroup> {
        self.groups.values()
    }

    /// Forgets what has been kept for long enough.
    pub(super) fn forget_old(&mut self, now: Timestamp) {
        let since = now.minus(bounds::ERROR_GROUP_KEPT);
        self.groups.retain(|_, group| group.last_seen_at >= since);
        let since = now.minus(bounds::BULK_KEPT);
        self.bulks.retain(|_, bulk| bulk.ended_at.is_none_or(|ended| ended >= since));
        let since = now.minus(bounds::AUDIT_KEPT);
        self.audit.retain(|entry| entry.at >= since);
    }
}

#[async_trait]
impl Operations for MemoryStorage {
    async fn pause(&self, call: &Call, target: &PauseTarget, pause: &Pause) -> Result<()> {
        pause.check()?;
        self.write(call, |tables, work| {
            let pause = Pause { since: work.now, ..pause.clone() };
            tables.pauses.insert(target.clone(), pause);
            // Others may use the room that was given to what is paused now.
            tables.refill_limits(work);
        });
        Ok(())
    }

    async fn resume(&self, call: &Call, target: &PauseTarget) -> Result<bool> {
        Ok(self.write(call, |tables, work| {
            let pause = tables.pauses.remove(target);
            if pause.is_some() {
                // Which jobs it holds is not known; everybody looks.
                work.claimable = true;
                work.places.clear();
                tables.refill_limits(work);
            }
            pause.is_some_and(|pause| pause.holds(work.now))
        }))
    }

    async fn pauses(&self, call: &Call) -> Result<Vec<PauseRecord>> {
        Ok(self.read_at(call, |tables, now| {
            let holding = tables.pauses.iter().filter(|(_, pause)| pause.holds(now));
            let record = |(target, pause): (&PauseTarget, &Pause)| PauseRecord {
                target: target.clone(),
                pause: pause.clone(),
            };
            holding.map(record).collect()
        }))
    }

    async fn command_server(
        &self,
        call: &Call,
        server: &Name,
        order: Option<&ServerOrder>,
    ) -> Result<bool> {
        if let Some(order) = order {
            order.given.check()?;
        }
        Ok(self.write(call, |tables, work| {
            let Some(row) = tables.servers.get_mut(server) else { return false };
            row.order = order.cloned().map(|mut order| {
                order.given.since = work.now;
                order
            });
            true
        }))
    }

    async fn edit_job(&self, call: &Call, edit: EditJob<'_>) -> Result<Submitted> {
        edit.check()?;
        Ok(self.write(call, |tables, work| match tables.edit(work, &edit) {
            Ok(submitted) => submitted,
            Err(refusal) => Submitted::Refused(refusal),
        }))
    }

    async fn mute(&self, call: &Call, group: Fingerprint, mute: Option<&Pause>) -> Result<bool> {
        if let Some(mute) = mute {
            mute.check()?;
        }
        Ok(self.write(call, |tables, work| {
            let Some(group) = tables.operator_state.groups.get_mut(&group) else { return false };
            group.mute = mute.map(|mute| Pause { since: work.now, ..mute.clone() });
            true
        }))
    }
}

#[async_trait]
impl BulkStore for MemoryStorage {
    async fn save_bulk(&self, call: &Call, bulk: &BulkRecord) -> Result<bool> {
        bulk.check()?;
        Ok(self.write(call, |tables, _| {
            let bulks = &mut tables.operator_state.bulks;
            let stored = bulks.get(&bulk.id).map_or(0, |stored| stored.version);
            let fits = bulk.version == stored + 1;
            if fits {
                bulks.insert(bulk.id, bulk.clone());
            }
            fits
        }))
    }

    async fn bulk(&self, id: OperationId) -> Result<Option<BulkRecord>> {
        Ok(self.read(|tables| tables.operator_state.bulks.get(&id).cloned()))
    }

    async fn bulks(&self, limit: usize) -> Result<Vec<BulkRecord>> {
        Ok(self.read(|tables| {
            // Ids sort by time.
            let bulks = &tables.operator_state.bulks;
            let open = bulks.values().filter(|bulk| bulk.ended_at.is_none());
            let ended = bulks.values().rev().filter(|bulk| bulk.ended_at.is_some());
            open.chain(ended).take(limit).cloned().collect()
        }))
    }
}

#[async_trait]
impl AuditStore for MemoryStorage {
    async fn append_audit(&self, call: &Call, entry: &AuditEntry) -> Result<()> {
        entry.check()?;
        self.write(call, |tables, work| {
            let audit = &mut tables.operator_state.audit;
            let known = audit.iter_mut().rev().find(|it| it.operation == entry.operation);
            match known {
                Some(known) => *known = AuditEntry { at: known.at, ..entry.clone() },
                None => audit.push(AuditEntry { at: work.now, ..entry.clone() }),
            }
        });
        Ok(())
    }

    async fn audit(&self, after: Option<OperationId>, limit: usize) -> Result<Vec<AuditEntry>> {
        Ok(self.read(|tables| {
            let mut entries = tables.operator_state.audit.iter().rev();
            if let Some(after) = after {
                entries.by_ref().find(|entry| entry.operation == after);
            }
            entries.take(limit).cloned().collect()
        }))
    }
}

#[async_trait]
impl TransferStore for MemoryStorage {
    async fn export(&self, after: Option<&str>, limit: usize) -> Result<ExportPage> {
        check_export(limit)?;
        self.read(|tables| tables.export(after, limit))
    }

    async fn import(&self, call: &Call, items: &[Whole]) -> Result<Vec<Imported>> {
        check_items("items", items.len())?;
        self.write(call, |tables, work| tables.import(work, items))
    }
}

impl Tables {
    fn edit(&mut self, work: &mut Work, edit: &EditJob<'_>) -> Result<Submitted, Refusal> {
        let submission = Submission::one(edit.copy.clone());
        if self.find(edit.copy.id).is_some() {
            // Repeated: what was done with the original was done then.
            return Ok(self.submit_one(work, &submission, Reason::Submitted));
        }
        let gone = Refusal::JobGone { job: edit.original };
        let place = self.find(edit.original).ok_or(gone)?;
        if self.is_change_blocked(place) {
            return Ok(Submitted::Busy);
        }
        let record = &self.job(place).record;
        edit.guard.check(&record.head)?;
        let replaces = !record.state().is_finished();
        if replaces {
            self.check_replaceable(place)?;
        }
        // A copy that is refused leaves the original as it was, so it is stored first, as if the
        // original's key were free.
        let hash = record.unique.as_ref().filter(|_| replaces).map(Unique::hash);
        let freed = hash.and_then(|hash| self.keys.lift(hash, edit.original));
        let submitted = self.submit_one(work, &submission, Reason::Submitted);
        let stored = matches!(&submitted, Submitted::Created(jobs)
            if matches!(jobs[..], [JobSubmitted::Created(_)]));
        if stored && replaces {
            let with = With { actor: edit.actor, ..With::default() };
            let deleted = self.transition(work, place, &Event::Delete(Reason::Replaced), with);
            debug_assert!(deleted.is_ok(), "a waiting job can be deleted");
            self.settle_down(work);
        } else if let Some(freed) = freed {
            self.keys.put_back(freed);
        }
        Ok(submitted)
    }

    /// Whether a waiting job may give way to a copy.
    fn check_replaceable(&self, place: Place) -> Result<(), Refusal> {
        let record = &self.job(place).record;
        let refused = |reason: &str| Refusal::Invalid { field: "job", reason: reason.to_owned() };
        if record.state() == StateName::Processing {
            return Err(Refusal::State { state: StateName::Processing });
        }
        if record.state() == StateName::Awaiting {
            return Err(refused("waits for other jobs, which its copy would not"));
        }
        if record.batch.is_some() {
            return Err(refused("belongs to a batch, which counts it"));
        }
        let children = self.children.get(&Parent::Job(record.id));
        if children.is_some_and(Children::is_open) {
            return Err(refused("is waited for by other jobs"));
        }
        Ok(())
    }
}
