//! Claiming: the heads of the lanes, merged by priority and sequence.

use std::collections::BTreeSet;
use std::time::Duration;

use jobkit_core::record::{Lease, Locator};
use jobkit_core::state::{Hold, State};
use jobkit_core::state_machine::Event;
use jobkit_core::storage::{ClaimRequest, Claimed, ClaimedJob};
use jobkit_core::{Error, ErrorKind, Incarnation, Name, Result};

use crate::fault::Fault;
use crate::keys::{Key, last_number, table};
use crate::servers::Server;
use crate::txn::Txn;

impl Txn<'_> {
    // [guide: claim]
    pub(crate) fn claim(&mut self, request: &ClaimRequest) -> Result<Claimed> {
        let Some(mut server) = self.server_of(request.incarnation)? else {
            let error = Error::new(ErrorKind::NotAnnounced, "the server has not announced itself");
            return Err(error.during("claim"));
        };
        if request.sequence <= server.last_claim && !self.has(Fault::RepeatedClaimTakesMore) {
            // The answer was lost: the same leases, as far as they are held, and nothing more.
            return self.claimed_before(request);
        }
        if self.has(Fault::ClaimTakesExpiredLeases) {
            self.take_expired()?;
        }
        let mut jobs = Vec::new();
        // What is passed over each leaves the ready jobs, but a claim must end.
        let mut skips = 4 * request.max + 100;
        for quota in &request.queues {
            let most = quota.max.min(request.max - jobs.len());
            self.claim_from(request, &quota.queue, most, &mut skips, &mut jobs)?;
        }
        // A claim that took nothing may as well be made again: polls write nothing.
        if !jobs.is_empty() {
            server.last_claim = request.sequence;
            self.put(Server::key(&server.info.name), &server)?;
        }
        // Whoever asked sleeps until it is told, but for what this claim has not seen.
        let again_in = (skips == 0).then_some(Duration::ZERO);
        Ok(Claimed { jobs, hint: None, again_in })
    }

    fn claim_from(
        &mut self,
        request: &ClaimRequest,
        queue: &Name,
        most: usize,
        skips: &mut usize,
        jobs: &mut Vec<ClaimedJob>,
    ) -> Result<()> {
        // One lane for each queue and kind, so that nobody walks over what is not his.
        let lanes = request.kinds.iter().map(|kind| table("ready").lane(queue, kind));
        let lanes: Vec<Key> = lanes.collect();
        let head = |txn: &Self, lane: usize| {
            let first = txn.first_of(&lanes[lane])?;
            Some((first[lanes[lane].len()..].to_vec(), lane))
        };
        let mut heads: BTreeSet<_> = (0..lanes.len()).filter_map(|lane| head(self, lane)).collect();
        let end = jobs.len() + most;
        while jobs.len() < end
            && let Some((rank, lane)) = heads.pop_first()
        {
            let place = last_number(&rank);
            if self.take(request, place, jobs.len())? {
                jobs.push(self.claimed_job(place)?);
            } else if *skips == 0 {
                break;
            } else {
                *skips -= 1;
            }
            heads.extend(head(self, lane));
        }
        Ok(())
    }

    /// Takes one ready job, or takes it out of the way; `true` if it was claimed.
    fn take(&mut self, request: &ClaimRequest, place: u64, taken: usize) -> Result<bool> {
        let mut job = self.job(place)?;
        let record = &job.record;
        if job.unreadable {
            self.must(place, &Event::Unreadable)?;
            return Ok(false);
        }
        let start_by = match self.has(Fault::StartByStopsRetries) {
            true => record.start_by,
            false => record.head.must_start_by(record.start_by),
        };
        if start_by.is_some_and(|by| by <= self.now) {
            self.must(place, &Event::StartExpired)?;
            return Ok(false);
        }
        if self.park_if_full(&mut job)? {
            return Ok(false);
        }
        job.ordinal = u32::try_from(taken).unwrap_or(u32::MAX);
        self.save(&job)?;
        self.count_starts(&job)?;
        let hold = Hold {
            server: request.server.clone(),
            incarnation: request.incarnation,
            claim_sequence: request.sequence,
            claimed_at: self.now,
            expires_at: self.now.plus(request.lease),
            started: taken < request.started,
            cancel: None,
        };
        self.must(place, &Event::Claim(hold))?;
        Ok(true)
    }
    // [end]

    /// The first key of a lane, which is its head; a fault would go by sequence alone.
    fn first_of(&self, lane: &Key) -> Option<Vec<u8>> {
        if self.has(Fault::ClaimIgnoresPriority) {
            return self.keys(lane, 500).into_iter().min_by_key(|key| last_number(key));
        }
        self.first(lane)
    }

    /// The leases of an earlier claim that are still held.
    fn claimed_before(&self, request: &ClaimRequest) -> Result<Claimed> {
        let of_claim = table("lease").life(request.incarnation).number(request.sequence);
        let places = self.keys(&of_claim, usize::MAX);
        let jobs = places.iter().map(|key| self.claimed_job(last_number(key)));
        Ok(Claimed { jobs: jobs.collect::<Result<_>>()?, ..Claimed::default() })
    }

    fn claimed_job(&self, place: u64) -> Result<ClaimedJob> {
        let record = self.job(place)?.record;
        let incarnation = match &record.head.state {
            State::Processing(hold) => hold.incarnation,
            _ => Incarnation::from_i64(0),
        };
        let args = self.tx.get(&crate::keys::beside(place, "args"));
        Ok(ClaimedJob {
            lease: Lease {
                job: record.id,
                locator: Locator(place),
                fence: record.head.fence,
                incarnation,
            },
            kind: record.kind,
            queue: record.queue,
            priority: record.priority,
            args: args.unwrap_or_default().into(),
            failures: record.head.failures,
            crashes: record.head.crashes,
            run: record.head.run,
            created_at: record.created_at,
            enqueued_at: record.enqueued_at.unwrap_or(record.created_at),
            claimed_at: record.claimed_at.unwrap_or(record.created_at),
            batch: record.batch,
            limited: !record.limits.is_empty(),
            extras: record.extras,
        })
    }

    /// Gives expired leases to whoever claims: a planted fault.
    fn take_expired(&mut self) -> Result<()> {
        let held = table("held");
        for key in self.keys_from(&held, &held, usize::MAX) {
            if crate::keys::instant(&held, &key) <= self.now {
                self.must(last_number(&key), &Event::GiveBack)?;
            }
        }
        Ok(())
    }
}
