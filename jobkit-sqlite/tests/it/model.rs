//! Random operations on this storage and on the one in memory, which is the specification: every
//! answer and everything that can be read afterwards must be the same.

use std::sync::Arc;
use std::time::Duration;

use jobkit_core::batch::{NewBatch, Starts};
use jobkit_core::edge::{Edge, On, Parent};
use jobkit_core::failure::ErrorDetail;
use jobkit_core::limit::{Limit, Window};
use jobkit_core::record::{JobDetails, JobRecord, Lease, NewRecord, Payload, Progress};
use jobkit_core::recurring::{JobTemplate, Misfire, NextRun, Overlap, Pause, RecurringSpec};
use jobkit_core::schedule::{Schedule, TimeZone};
use jobkit_core::state::{Keep, Reason, Retention, Start, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::stats::{Scope, Step as Span};
use jobkit_core::storage::*;
use jobkit_core::unique::{OnConflict, Unique, Until};
use jobkit_core::{
    BatchId, Clock, Incarnation, JobId, MemoryStorage, Name, OperationId, TestClock, Timestamp,
};
use jobkit_sqlite::SqliteOptions;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        (!of.is_empty()).then(|| {
            let place = self.below(of.len() as u64);
            &of[usize::try_from(place).unwrap()]
        })
    }
}

fn name(text: impl Into<String>) -> Name {
    Name::from_stored(text.into())
}

fn job_id(n: u64) -> JobId {
    JobId::from_key("k", &n.to_string())
}

fn batch_id(n: u64) -> BatchId {
    BatchId::from_key(&n.to_string())
}

/// A lease with the locator of each storage.
#[derive(Clone, Copy, Debug)]
struct Both {
    mine: Lease,
    theirs: Lease,
}

struct World {
    mine: Arc<dyn Storage>,
    theirs: Arc<dyn Storage>,
    clock: TestClock,
    random: Random,
    jobs: u64,
    batches: u64,
    held: Vec<Both>,
    past: Vec<Both>,
    expired: (Vec<ExpiredLease>, Vec<ExpiredLease>),
    sequences: [u64; 2],
    operations: u64,
    step: usize,
}

const LEASE: Duration = Duration::from_secs(30);

impl World {
    fn lives() -> [Incarnation; 2] {
        [Incarnation::from_i64(11), Incarnation::from_i64(12)]
    }

    fn now(&self) -> Option<Timestamp> {
        Some(self.clock.now())
    }

    fn new_job(&mut self, near: &[JobId], batch: Option<BatchId>) -> NewRecord {
        let id = if self.jobs > 0 && self.random.one_in(25) {
            job_id(self.random.below(self.jobs))
        } else {
            self.jobs += 1;
            job_id(self.jobs - 1)
        };
        let kind = name(format!("kind{}", self.random.below(3)));
        let mut job = NewRecord::new(id, kind, b"{}".to_vec());
        if self.random.one_in(10) {
            job.args = Payload::from(vec![b' '; 3000]);
        }
        job.queue = name(format!("queue{}", self.random.below(2)));
        job.priority = u8::try_from(self.random.below(3) + 4).unwrap();
        job.start = match self.random.below(8) {
            0 => Start::After(Duration::from_secs(20)),
            1 => Start::At(self.clock.now().plus(Duration::from_secs(40))),
            _ => Start::Now,
        };
        if self.random.one_in(12) {
            job.start_by = Some(self.clock.now().plus(Duration::from_secs(15)));
        }
        if self.random.one_in(5) {
            let mut unique = Unique::new(format!("key{}", self.random.below(6)));
            let period = Until::Period(Duration::from_secs(20));
            let day = Until::Period(Duration::from_secs(86_400));
            let until = [Until::Started, Until::Finished, Until::Finished, period, day];
            unique.until = *self.random.pick(&until).unwrap();
            unique.on_conflict = *self
                .random
                .pick(&[OnConflict::ReturnExisting, OnConflict::Reject, OnConflict::Replace])
                .unwrap();
            job.unique = Some(unique);
        }
        if self.random.one_in(4) {
            job.limits.push(Limit::new("small", 1));
        }
        if self.random.one_in(6) {
            job.limits.push(Limit::new("larger", 3));
        }
        if self.random.one_in(6) {
            let window = Window::Sliding(Duration::from_secs(30));
            job.limits.push(Limit::rate("sliding", 2, window));
        }
        if self.random.one_in(8) {
            job.limits.push(Limit::rate("fixed", 3, Window::Fixed(Duration::from_secs(60))));
        }
        if self.random.one_in(6) {
            job.tags.push("tag".into());
        }
        if self.random.one_in(6) {
            job.extras_mut().display_name = Some("Name".into());
        }
        if self.random.one_in(6) {
            job.extras_mut().overrides.retention =
                Some(Retention::all(Keep::For(Duration::from_secs(7200))));
        }
        for _ in 0..self.random.below(3) {
            if self.random.one_in(2) {
                continue;
            }
            let on = *self.random.pick(&[On::Success, On::Failed, On::Any]).unwrap();
            let parent = match self.random.below(8) {
                0 if self.batches > 0 => Parent::Batch(batch_id(self.random.below(self.batches))),
                1..=3 if !near.is_empty() => Parent::Job(*self.random.pick(near).unwrap()),
                _ => Parent::Job(job_id(self.random.below(self.jobs))),
            };
            if parent != Parent::Job(id) && !job.edges.iter().any(|edge| edge.parent == parent) {
                job.edges.push(Edge { parent, on });
            }
        }
        job.batch = batch;
        job
    }

    async fn submit(&mut self) {
        let mut submissions = Vec::new();
        for _ in 0..=self.random.below(3) {
            let mut batch = None;
            let mut member_of = None;
            if self.random.one_in(8) {
                let mut new = NewBatch::new(batch_id(self.batches), "batch");
                if self.batches > 0 && self.random.one_in(2) {
                    new.parent = Some(batch_id(self.random.below(self.batches)));
                }
                self.batches += 1;
                if self.random.one_in(2) {
                    new.starts = Starts::WhenStarted;
                }
                member_of = Some(new.id);
                batch = Some(new);
            } else if self.batches > 0 && self.random.one_in(6) {
                member_of = Some(batch_id(self.random.below(self.batches)));
            }
            let mut jobs: Vec<NewRecord> = Vec::new();
            for _ in 0..=self.random.below(4) {
                let near: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
                let member_of = member_of.filter(|_| !self.random.one_in(5));
                jobs.push(self.new_job(&near, member_of));
            }
            if self.random.one_in(3) {
                jobs.reverse();
            }
            submissions.push(Submission { batch, jobs });
        }
        let request = SubmitRequest { submissions: &submissions, now: self.now() };
        let mine = self.mine.submit(request).await.unwrap();
        let theirs = self.theirs.submit(request).await.unwrap();
        assert_eq!(mine, theirs, "submit {submissions:#?}");
    }

    async fn claim(&mut self, settle: Option<(SettleRequest, SettleRequest)>) {
        let server = usize::try_from(self.random.below(2)).unwrap();
        if !self.random.one_in(8) {
            self.sequences[server] += 1;
        }
        let max = usize::try_from(self.random.below(8)).unwrap();
        let mut queues: Vec<QueueQuota> = (0..2)
            .map(|n| QueueQuota { queue: name(format!("queue{n}")), max: max.max(1) - n / 2 })
            .collect();
        // A repeated claim names the queues in the same order.
        if self.sequences[server].is_multiple_of(2) {
            queues.reverse();
        }
        let kinds: Vec<Name> =
            (0..=self.random.below(3)).map(|n| name(format!("kind{n}"))).collect();
        let request = ClaimRequest {
            server: name(format!("server{server}")),
            incarnation: Self::lives()[server],
            sequence: self.sequences[server],
            queues,
            kinds: kinds.into(),
            max,
            started: max / 2,
            lease: LEASE,
            sleeps_if_empty: false,
            hint: None,
            now: self.now(),
        };
        let (mine, theirs) = match settle {
            None => (
                self.mine.claim(&request).await.unwrap().jobs,
                self.theirs.claim(&request).await.unwrap().jobs,
            ),
            Some((settle_mine, settle_theirs)) => {
                let (a, mine) = self.mine.settle_and_claim(&settle_mine, &request).await.unwrap();
                let (b, theirs) =
                    self.theirs.settle_and_claim(&settle_theirs, &request).await.unwrap();
                assert_eq!(a, b, "settle {settle_mine:#?}");
                (mine.jobs, theirs.jobs)
            }
        };
        let plain = |jobs: &[ClaimedJob]| -> Vec<String> {
            jobs.iter()
                .map(|job| {
                    let mut job = job.clone();
                    job.lease.locator = Default::default();
                    format!("{job:?} {:?}", job.args.len())
                })
                .collect()
        };
        assert_eq!(plain(&mine), plain(&theirs), "claim {request:#?}");
        for (mine, theirs) in mine.iter().zip(&theirs) {
            let both = Both { mine: mine.lease, theirs: theirs.lease };
            self.held.retain(|held| held.mine.job != mine.lease.job);
            self.held.push(both);
        }
    }

    fn settles(&mut self) -> (SettleRequest, SettleRequest) {
        let mut pairs = Vec::new();
        for _ in 0..self.random.below(5) {
            let both = if self.random.one_in(8) {
                self.random.pick(&self.past).copied()
            } else {
                let place = self.random.below(self.held.len().max(1) as u64);
                let place = usize::try_from(place).unwrap();
                (place < self.held.len()).then(|| self.held.swap_remove(place))
            };
            let Some(both) = both else { continue };
            self.past.push(both);
            let ending = match self.random.below(10) {
                0 => Ending::Retry { delay: Duration::ZERO },
                1 => Ending::Retry { delay: Duration::from_secs(10) },
                2 => Ending::Failed(Reason::Permanent),
                3 => Ending::Snoozed { delay: Duration::from_secs(5) },
                4 => Ending::GivenBack,
                5 => Ending::Deleted(Reason::Cancelled),
                _ => Ending::Succeeded,
            };
            let mut settle = Settle::new(both.mine, ending);
            if self.random.one_in(2) {
                settle.duration = Some(Duration::from_millis(self.random.below(1000)));
            }
            if self.random.one_in(3) {
                let bytes = usize::try_from(self.random.below(3000)).unwrap();
                settle.result = Some(Payload::from(vec![b'1'; bytes]));
            }
            if matches!(ending, Ending::Retry { .. } | Ending::Failed(_)) {
                settle.error = Some(ErrorDetail::new("k", "E", "message", [], None));
            }
            if self.random.one_in(4) {
                settle.retention = Retention::all(Keep::For(Duration::from_secs(4000)));
            }
            if self.random.one_in(4) {
                settle.log.push(LogLine {
                    at: self.clock.now(),
                    level: LogLevel::Warn,
                    text: "line".into(),
                });
                settle.log_dropped = 2;
                settle.progress.push(Progress {
                    name: format!("bar{}", self.random.below(2)),
                    done: 1,
                    total: 2,
                    message: String::new(),
                });
            }
            pairs.push((settle.clone(), Settle { lease: both.theirs, ..settle }));
        }
        let (mine, theirs) = pairs.into_iter().unzip();
        let request = |settles| SettleRequest { server: name("server"), settles, now: self.now() };
        (request(mine), request(theirs))
    }

    async fn settle(&mut self) {
        let (mine, theirs) = self.settles();
        let a = self.mine.settle(&mine).await.unwrap();
        let b = self.theirs.settle(&theirs).await.unwrap();
        assert_eq!(a, b, "settle {mine:#?}");
    }

    async fn renew(&mut self) {
        let server = usize::try_from(self.random.below(2)).unwrap();
        let incarnation = Self::lives()[server];
        let mut listed = Vec::new();
        for held in &self.held {
            if held.mine.incarnation == incarnation && !self.random.one_in(6) {
                listed.push((*held, self.random.one_in(2)));
            }
        }
        if let Some(past) = self.random.pick(&self.past) {
            listed.push((*past, false));
        }
        let request = |lease: fn(&Both) -> Lease| RenewRequest {
            incarnation,
            sequences: 1..=self.sequences[server],
            held: listed
                .iter()
                .map(|(both, started)| Renewal { lease: lease(both), started: *started })
                .collect(),
            lease: LEASE,
            now: self.now(),
        };
        let mut a = self.mine.renew(&request(|both| both.mine)).await.unwrap();
        let mut b = self.theirs.renew(&request(|both| both.theirs)).await.unwrap();
        a.given_back.sort();
        b.given_back.sort();
        assert_eq!(a, b, "renew");
        self.past.extend(self.held.iter().filter(|held| a.given_back.contains(&held.mine.job)));
        self.held.retain(|held| !a.given_back.contains(&held.mine.job));
    }

    async fn rescue(&mut self) {
        let request = |seen: &[ExpiredLease]| RescueRequest {
            seen: seen.to_vec(),
            crash_limit: 2,
            max: 100,
            now: self.now(),
        };
        let a = self.mine.rescue_expired(&request(&self.expired.0)).await.unwrap();
        let b = self.theirs.rescue_expired(&request(&self.expired.1)).await.unwrap();
        let mut rescued = (a.rescued.clone(), b.rescued.clone());
        rescued.0.sort();
        rescued.1.sort();
        assert_eq!(rescued.0, rescued.1, "rescued");
        let key = |lease: &ExpiredLease| (lease.job, lease.fence, lease.expires_at);
        let sorted = |leases: &[ExpiredLease]| {
            let mut keys: Vec<_> = leases.iter().map(key).collect();
            keys.sort();
            keys
        };
        assert_eq!(sorted(&a.expired), sorted(&b.expired), "expired");
        // In one order, so that both rescue in the same.
        let mut expired = (a.expired, b.expired);
        expired.0.sort_by_key(key);
        expired.1.sort_by_key(key);
        self.expired = expired;
    }

    async fn change(&mut self) {
        let mut changes = Vec::new();
        for _ in 0..=self.random.below(2) {
            let job = job_id(self.random.below(self.jobs + 1));
            let action = match self.random.below(9) {
                0..=2 => Action::Requeue { run_at: None },
                3 => {
                    Action::Requeue { run_at: Some(self.clock.now().plus(Duration::from_secs(5))) }
                }
                4 => Action::Delete { keep: None },
                5 => Action::Delete { keep: Some(Keep::For(Duration::from_secs(5000))) },
                6 => Action::Reschedule { run_at: self.clock.now().plus(Duration::from_secs(9)) },
                7 => Action::RunNow,
                _ => Action::Move {
                    queue: Some(name(format!("queue{}", self.random.below(2)))),
                    priority: Some(u8::try_from(self.random.below(11)).unwrap()),
                },
            };
            let guard = match self.random.below(8) {
                0 => Guard::Version(self.random.below(4)),
                1 => Guard::State(StateName::Enqueued),
                _ => Guard::None,
            };
            if !self.random.one_in(10) {
                self.operations += 1;
            }
            let operation = OperationId::from_bytes(u128::from(self.operations).to_be_bytes());
            changes.push(Change { operation, job, guard, action });
        }
        let actor = self.random.one_in(2).then_some("me");
        let request = ChangeRequest { changes: &changes, actor, now: self.now() };
        let a = self.mine.change_state(request).await.unwrap();
        let b = self.theirs.change_state(request).await.unwrap();
        assert_eq!(a, b, "change {changes:#?}");
    }

    async fn batch(&mut self) {
        if self.batches == 0 {
            return;
        }
        let id = batch_id(self.random.below(self.batches));
        if self.random.one_in(3) {
            let a = self.mine.cancel_batch(id, self.now()).await.unwrap();
            let b = self.theirs.cancel_batch(id, self.now()).await.unwrap();
            assert_eq!(a, b, "cancel batch");
        } else {
            let a = self.mine.start_batch(id, self.now()).await.unwrap();
            let b = self.theirs.start_batch(id, self.now()).await.unwrap();
            assert_eq!(a, b, "start batch");
        }
    }

    async fn operate(&mut self) {
        let target = if self.random.one_in(2) {
            PauseTarget::Queue(name(format!("queue{}", self.random.below(2))))
        } else {
            PauseTarget::Kind(name(format!("kind{}", self.random.below(3))))
        };
        if self.random.one_in(3) {
            let mut pause = Pause::new("me", "why");
            if self.random.one_in(2) {
                pause.until = Some(self.clock.now().plus(Duration::from_secs(20)));
            }
            self.mine.pause(&target, &pause, self.now()).await.unwrap();
            self.theirs.pause(&target, &pause, self.now()).await.unwrap();
        } else {
            let a = self.mine.resume(&target).await.unwrap();
            let b = self.theirs.resume(&target).await.unwrap();
            assert_eq!(a, b, "resume");
        }
        if self.random.one_in(4) {
            let limit = Limit::new("small", u32::try_from(self.random.below(3) + 1).unwrap());
            self.mine.define_limit(&limit).await.unwrap();
            self.theirs.define_limit(&limit).await.unwrap();
        }
        if self.random.one_in(4) {
            // What a server serves decides whom a limit lets go.
            let queues = (0..=self.random.below(2)).map(|n| name(format!("queue{n}"))).collect();
            let kinds = (0..=self.random.below(3)).map(|n| name(format!("kind{n}"))).collect();
            let server = server(1, queues, kinds);
            self.mine.announce(&server, self.now()).await.unwrap();
            self.theirs.announce(&server, self.now()).await.unwrap();
        }
        if self.random.one_in(6) {
            let max = u32::try_from(self.random.below(3) + 1).unwrap();
            let length = Duration::from_secs(10 * (self.random.below(4) + 1));
            let limit = match self.random.below(4) {
                0 => Limit::new("sliding", max),
                1 => Limit::rate("sliding", max, Window::Fixed(length)),
                _ => Limit::rate("sliding", max, Window::Sliding(length)),
            };
            self.mine.define_limit(&limit).await.unwrap();
            self.theirs.define_limit(&limit).await.unwrap();
        }
    }

    async fn janitor(&mut self) {
        let request = StepRequest { max: 500, now: self.now() };
        let a = self.mine.promote_due(request).await.unwrap();
        let b = self.theirs.promote_due(request).await.unwrap();
        assert_eq!(a, b, "promote");
        // Until nothing is left: how much one step does is each storage's own affair.
        while self.mine.sweep(request).await.unwrap().more {}
        while self.theirs.sweep(request).await.unwrap().more {}
        if self.random.one_in(3) {
            while self.mine.purge_expired(request).await.unwrap().more {}
            while self.theirs.purge_expired(request).await.unwrap().more {}
        }
    }

    async fn recurring(&mut self) {
        let id = format!("schedule{}", self.random.below(2));
        let nominal = |n: u64| Timestamp::from_micros(i64::try_from(n).unwrap() * 60_000_000);
        match self.random.below(5) {
            0 => {
                let mut template = NewRecord::new(job_id(0), name("kind0"), b"{}".to_vec());
                if self.random.one_in(2) {
                    template.unique = Some(Unique::new("key0"));
                }
                let spec = RecurringSpec {
                    id: id.clone(),
                    schedule: Schedule::every(Duration::from_secs(60)).unwrap(),
                    time_zone: TimeZone::UTC,
                    misfire: Misfire::RunOnce,
                    overlap: Overlap::Skip,
                    jitter: Duration::ZERO,
                    starts_at: None,
                    ends_at: None,
                    job: JobTemplate::from_record(&template).unwrap(),
                };
                let at = nominal(self.random.below(20));
                let save = [SaveRecurring {
                    spec,
                    next: Some(NextRun { nominal_at: at, due_at: at }),
                    if_etag: None,
                }];
                let a = self.mine.save_recurring(&save, self.now()).await.unwrap();
                let b = self.theirs.save_recurring(&save, self.now()).await.unwrap();
                assert_eq!(a, b, "save");
            }
            1 if self.random.one_in(3) => {
                let a = self.mine.remove_recurring(&id).await.unwrap();
                let b = self.theirs.remove_recurring(&id).await.unwrap();
                assert_eq!(a, b, "remove");
            }
            2 if self.random.one_in(2) => {
                let change = if self.random.one_in(2) {
                    PauseChange::Pause(Pause::new("me", "why"))
                } else {
                    let at = nominal(self.random.below(20));
                    PauseChange::Resume { next: Some(NextRun { nominal_at: at, due_at: at }) }
                };
                let a = self.mine.pause_recurring(&id, change.clone(), self.now()).await.unwrap();
                let b = self.theirs.pause_recurring(&id, change, self.now()).await.unwrap();
                assert_eq!(a, b, "pause");
            }
            3 if self.random.one_in(2) => {
                let job = self.new_job(&[], None);
                let a = self.mine.trigger_recurring(&id, &job, self.now()).await.unwrap();
                let b = self.theirs.trigger_recurring(&id, &job, self.now()).await.unwrap();
                assert_eq!(a, b, "trigger");
            }
            _ => {
                let a = self.mine.due_recurring(5, self.now()).await.unwrap();
                let b = self.theirs.due_recurring(5, self.now()).await.unwrap();
                assert_eq!(a.next_due_at, b.next_due_at);
                let ids = |due: &DueRecurring| {
                    let mut ids: Vec<_> = due.due.iter().map(|r| r.spec.id.clone()).collect();
                    ids.sort();
                    ids
                };
                assert_eq!(ids(&a), ids(&b));
                for record in a.due {
                    let expected = record.next.unwrap().nominal_at;
                    let next = expected.plus(Duration::from_secs(60));
                    let job = self.new_job(&[], None);
                    let fire = [Fire {
                        id: record.spec.id,
                        expected,
                        skipped: Vec::new(),
                        job: Some(FireJob {
                            nominal_at: expected,
                            job,
                            overlap: record.spec.overlap,
                        }),
                        next: Some(NextRun { nominal_at: next, due_at: next }),
                    }];
                    let a = self.mine.fire_recurring(&fire, self.now()).await.unwrap();
                    let b = self.theirs.fire_recurring(&fire, self.now()).await.unwrap();
                    assert_eq!(a, b, "fire");
                }
            }
        }
        let a = self.mine.recurring(&id).await.unwrap();
        let b = self.theirs.recurring(&id).await.unwrap();
        assert_eq!(a, b, "recurring");
        let a = self.mine.recurring_runs(&id, 200).await.unwrap();
        let b = self.theirs.recurring_runs(&id, 200).await.unwrap();
        assert_eq!(a, b, "runs");
    }

    async fn log(&mut self) {
        let Some(both) = self.random.pick(&self.held).copied() else { return };
        let write = |lease| LogWrite {
            lease,
            lines: vec![LogLine {
                at: Timestamp::from_micros(1),
                level: LogLevel::Info,
                text: "t".into(),
            }],
            dropped: 1,
            progress: Vec::new(),
        };
        let a = self.mine.write_log(&[write(both.mine)]).await.unwrap();
        let b = self.theirs.write_log(&[write(both.theirs)]).await.unwrap();
        assert_eq!(a, b, "log");
        let value = Payload::from(vec![u8::try_from(self.random.below(200)).unwrap()]);
        let a = self.mine.put_memo(both.mine, "m", &value).await.unwrap();
        let b = self.theirs.put_memo(both.theirs, "m", &value).await.unwrap();
        assert_eq!(a, b, "memo");
        let a = self.mine.put_checkpoint(both.mine, &value).await.unwrap();
        let b = self.theirs.put_checkpoint(both.theirs, &value).await.unwrap();
        assert_eq!(a, b, "checkpoint");
    }

    async fn compare(&mut self) {
        for n in 0..self.jobs {
            let id = job_id(n);
            let a = self.mine.job(id).await.unwrap().map(plain);
            let b = self.theirs.job(id).await.unwrap().map(plain);
            assert_eq!(a, b, "job {id} at step {}", self.step);
            let a = self.mine.read_log(id, None, 0, 100).await.unwrap();
            let b = self.theirs.read_log(id, None, 0, 100).await.unwrap();
            assert_eq!(a, b, "log of {id}");
            let a = self.mine.checkpoint(id).await.unwrap();
            let b = self.theirs.checkpoint(id).await.unwrap();
            assert_eq!(a, b, "checkpoint of {id}");
            let a = self.mine.memo(id, "m").await.unwrap();
            let b = self.theirs.memo(id, "m").await.unwrap();
            assert_eq!(a, b, "memo of {id}");
            let mut after = (None, None);
            loop {
                let mut a = self.mine.relations(id, after.0, 2).await.unwrap();
                let mut b = self.theirs.relations(id, after.1, 2).await.unwrap();
                after = (a.next.take(), b.next.take());
                assert_eq!(a, b, "relations of {id}");
                assert_eq!(after.0.is_some(), after.1.is_some(), "relations of {id}");
                if after.0.is_none() {
                    break;
                }
            }
        }
        for n in 0..self.batches {
            let a = self.mine.batch(batch_id(n)).await.unwrap();
            let b = self.theirs.batch(batch_id(n)).await.unwrap();
            assert_eq!(a, b, "batch {n}");
        }
        let a = self.mine.batches(None, None, 1000).await.unwrap();
        let b = self.theirs.batches(None, None, 1000).await.unwrap();
        assert_eq!(a, b);
        let a = self.mine.limits(None, 10).await.unwrap();
        let b = self.theirs.limits(None, 10).await.unwrap();
        assert_eq!(a, b, "limits at step {}", self.step);
        let a = self.mine.limit_holders("larger", 10).await.unwrap();
        let b = self.theirs.limit_holders("larger", 10).await.unwrap();
        assert_eq!(a, b, "holders");
        let a = self.mine.limit_holders("sliding", 10).await.unwrap();
        let b = self.theirs.limit_holders("sliding", 10).await.unwrap();
        assert_eq!(a, b, "holders of what an operator changed");
        let a = self.mine.snapshot(self.now()).await.unwrap();
        let b = self.theirs.snapshot(self.now()).await.unwrap();
        assert_eq!(a, b, "snapshot at step {}", self.step);
        for scope in [Scope::Total, Scope::Queue(name("queue0")), Scope::Kind(name("kind1"))] {
            let mut a = self.mine.counters(&scope).await.unwrap();
            let mut b = self.theirs.counters(&scope).await.unwrap();
            // Claims that have not ended are counted by each in its own way.
            (a.gauge, b.gauge) = Default::default();
            assert_eq!(a, b, "counters of {scope:?}");
            for step in [Span::Hour, Span::Day] {
                let query = SeriesQuery {
                    scope: scope.clone(),
                    step,
                    from: Timestamp::MIN,
                    to: Timestamp::MAX,
                };
                let a = self.mine.series(&query).await.unwrap();
                let b = self.theirs.series(&query).await.unwrap();
                assert_eq!(a, b, "series of {scope:?}");
            }
        }
        for state in StateName::ALL {
            for (queue, kind, tag, text) in [
                (false, false, false, false),
                (true, false, false, false),
                (false, true, true, false),
                (true, true, false, true),
            ] {
                let mut query = JobQuery::new(state);
                query.limit = 7;
                query.queue = queue.then(|| name("queue1"));
                query.kind = kind.then(|| name("kind0"));
                query.tag = tag.then(|| "tag".into());
                query.text = text.then(|| "Nam".into());
                let mut other = query.clone();
                loop {
                    let a = self.mine.list(&query).await.unwrap();
                    let b = self.theirs.list(&other).await.unwrap();
                    let records =
                        |page: &JobPage| page.jobs.iter().cloned().map(record).collect::<Vec<_>>();
                    assert_eq!(records(&a), records(&b), "{query:?} at step {}", self.step);
                    assert_eq!(a.count, b.count, "{query:?}");
                    assert_eq!(a.next.is_some(), b.next.is_some(), "{query:?}");
                    if a.next.is_none() {
                        break;
                    }
                    (query.after, other.after) = (a.next, b.next);
                }
            }
        }
    }
}

fn record(mut record: JobRecord) -> JobRecord {
    record.sequence = 0;
    record
}

fn plain(mut details: JobDetails) -> JobDetails {
    details.record.sequence = 0;
    details
}

fn server(n: usize, queues: Vec<Name>, kinds: Vec<Name>) -> ServerInfo {
    ServerInfo {
        name: name(format!("server{n}")),
        incarnation: World::lives()[n],
        pid: 1,
        host: "h".into(),
        version: "0".into(),
        workers: 1,
        queues,
        kinds,
        started_at: Timestamp::MIN,
    }
}

async fn walk(seed: u64, steps: usize) {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::default();
    let mine =
        SqliteOptions::new(dir.path().join("jobs.db")).clock(clock.clone()).open().await.unwrap();
    let theirs = MemoryStorage::with_clock(Arc::new(clock.clone()));
    let mut world = World {
        mine: Arc::new(mine),
        theirs: Arc::new(theirs),
        clock,
        random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
        jobs: 0,
        batches: 0,
        held: Vec::new(),
        past: Vec::new(),
        expired: Default::default(),
        sequences: [0; 2],
        operations: 0,
        step: 0,
    };
    for n in 0..2 {
        let server = server(n, vec![name("queue0")], vec![name("kind0")]);
        world.mine.announce(&server, None).await.unwrap();
        world.theirs.announce(&server, None).await.unwrap();
    }
    for step in 0..steps {
        world.step = step;
        match world.random.below(24) {
            0..=4 => world.submit().await,
            5..=8 => world.claim(None).await,
            9..=12 => world.settle().await,
            13 => {
                let settles = world.settles();
                world.claim(Some(settles)).await;
            }
            14 => world.renew().await,
            15 => world.rescue().await,
            16..=18 => world.change().await,
            19 => world.batch().await,
            20 => world.operate().await,
            21 => world.janitor().await,
            22 => world.recurring().await,
            _ => world.log().await,
        }
        let jump = match world.random.below(60) {
            0 => 5000,
            1..=10 => 12,
            11..=20 => 1,
            _ => 0,
        };
        world.clock.advance(Duration::from_secs(jump));
        if step % 15 == 14 {
            world.compare().await;
        }
    }
}

#[tokio::test]
async fn every_answer_is_that_of_the_storage_in_memory() {
    let from: u64 = std::env::var("JOBKIT_TEST_SEED").map_or(0, |seed| seed.parse().unwrap());
    let seeds: u64 = std::env::var("JOBKIT_TEST_SEEDS").map_or(6, |seeds| seeds.parse().unwrap());
    for seed in from..from + seeds {
        println!("seed {seed}");
        walk(seed, 300).await;
    }
}
