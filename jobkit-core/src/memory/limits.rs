//! `impl LimitStore`.

use std::collections::BTreeSet;
use std::ops::Bound;

use async_trait::async_trait;

use crate::error::Result;
use crate::limit::Limit;
use crate::memory::MemoryStorage;
use crate::state::State;
use crate::storage::{LimitHolder, LimitStore, LimitUsage};

use super::state::LimitRow;

#[async_trait]
impl LimitStore for MemoryStorage {
    async fn define_limit(&self, limit: &Limit) -> Result<()> {
        limit.check()?;
        self.write(None, |tables, work| {
            let row = tables.limits.entry(limit.name.clone()).or_insert_with(|| LimitRow {
                max: limit.max,
                by_operator: true,
                holders: BTreeSet::new(),
                waiting: BTreeSet::new(),
            });
            row.max = limit.max;
            row.by_operator = true;
            tables.admit(work, &limit.name, usize::MAX);
        });
        Ok(())
    }

    async fn limits(&self, after: Option<&str>, limit: usize) -> Result<Vec<LimitUsage>> {
        Ok(self.read(None, |tables, _| {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let rows = tables.limits.range::<str, _>((from, Bound::Unbounded));
            rows.take(limit).map(|(name, row)| usage(name, row)).collect()
        }))
    }

    async fn limit(&self, name: &str) -> Result<Option<LimitUsage>> {
        Ok(self.read(None, |tables, _| tables.limits.get(name).map(|row| usage(name, row))))
    }

    async fn limit_holders(&self, name: &str, limit: usize) -> Result<Vec<LimitHolder>> {
        Ok(self.read(None, |tables, _| {
            let Some(row) = tables.limits.get(name) else { return Vec::new() };
            let holder = |place| {
                let record = &tables.job(place).record;
                match &record.head.state {
                    State::Processing(hold) => Some(LimitHolder {
                        job: record.id,
                        fence: record.head.fence,
                        claimed_at: hold.claimed_at,
                        expires_at: hold.expires_at,
                    }),
                    _ => None,
                }
            };
            row.holders.iter().take(limit).filter_map(|(_, place)| holder(*place)).collect()
        }))
    }
}

fn usage(name: &str, row: &LimitRow) -> LimitUsage {
    LimitUsage {
        limit: Limit::new(name, row.max),
        used: row.used(),
        waiting: row.waiting.len() as u64,
        defined_by_operator: row.by_operator,
    }
}
