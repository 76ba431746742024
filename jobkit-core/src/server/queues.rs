//! Which queues a claim asks, in which order, and for how many jobs.

use std::collections::BTreeMap;

use crate::model::ids::random_fraction;
use crate::model::name::Name;
use crate::storage::QueueQuota;

/// The queues a server serves, and in which order it asks them.
#[derive(Debug)]
pub(crate) struct Queues {
    pub(super) names: Vec<Name>,
    /// Empty: strictly in order.
    pub(super) weights: Vec<f64>,
    /// How many of a queue run here at once, where that was said.
    pub(super) most: BTreeMap<Name, usize>,
}

impl Queues {
    pub(super) fn names(&self) -> &[Name] {
        &self.names
    }

    pub(super) fn most(&self) -> &BTreeMap<Name, usize> {
        &self.most
    }

    /// The queues of one claim, without those that have no room. Weighted ones are drawn anew each time, a
    /// heavier one first more often; every queue may give everything, so that no worker idles.
    pub(super) fn quotas(&self, max: usize, room: impl Fn(&Name) -> usize) -> Vec<QueueQuota> {
        let quota = |queue: &Name| {
            let max = max.min(room(queue));
            (max > 0).then(|| QueueQuota { queue: queue.clone(), max })
        };
        if self.weights.is_empty() || self.names.len() == 1 {
            return self.names.iter().filter_map(quota).collect();
        }
        // Exponential keys draw without replacement, by weight (Efraimidis and Spirakis,
        // https://doi.org/10.1016/j.ipl.2005.11.003).
        let key = |weight: &f64| -random_fraction().max(f64::MIN_POSITIVE).ln() / weight;
        let mut drawn: Vec<_> = self.names.iter().zip(self.weights.iter().map(key)).collect();
        drawn.sort_by(|a, b| a.1.total_cmp(&b.1));
        drawn.into_iter().filter_map(|(queue, _)| quota(queue)).collect()
    }
}
