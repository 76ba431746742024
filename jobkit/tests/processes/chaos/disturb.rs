//! Server processes, and what happens to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::storages::Place;
use crate::ledger::Ledger;
use crate::worker::{LEASE, Process};

/// Servers that run at a time.
const SERVERS: usize = 3;

/// Seeded numbers, so that a run can be repeated.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

/// Which processes were disturbed, by the number of ledger lines then.
#[derive(Default)]
pub(super) struct Disturbed {
    pub(super) killed: BTreeMap<u32, usize>,
    pub(super) frozen: BTreeSet<u32>,
    pub(super) counts: BTreeMap<&'static str, u32>,
}

/// Kills, freezes, restarts and makes the storage's life hard until the time is up.
pub(super) async fn disturb(
    mut random: Random,
    ledger: Ledger,
    place: Arc<dyn Place>,
    until: Instant,
) -> (Vec<Process>, Disturbed) {
    let url = place.url();
    let mut servers: Vec<_> =
        (0..SERVERS).map(|_| Process::start_with_ticks(&url, &ledger)).collect();
    let mut disturbed = Disturbed::default();
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(300 + random.below(1_200))).await;
        let victim = usize::try_from(random.below(SERVERS as u64)).unwrap();
        let what = match random.below(10) {
            0..=4 => {
                let killed = std::mem::replace(
                    &mut servers[victim],
                    Process::start_with_ticks(&url, &ledger),
                );
                let pid = killed.pid();
                killed.kill();
                disturbed.killed.insert(pid, ledger.read().len());
                "killed"
            }
            5..=6 => {
                servers[victim].freeze();
                disturbed.frozen.insert(servers[victim].pid());
                // Often past the lease and the second look.
                let length = LEASE / 2 + Duration::from_millis(random.below(4_000));
                tokio::time::sleep(length).await;
                servers[victim].thaw();
                "frozen"
            }
            7..=8 => {
                let stopped = std::mem::replace(
                    &mut servers[victim],
                    Process::start_with_ticks(&url, &ledger),
                );
                let pid = stopped.pid();
                stopped.stop(Duration::from_secs(20)).await;
                disturbed.killed.insert(pid, ledger.read().len());
                "stopped"
            }
            _ => {
                let (place, length) = (Arc::clone(&place), 500 + random.below(2_500));
                let disturb = move || place.disturb(Duration::from_millis(length));
                tokio::task::spawn_blocking(disturb).await.unwrap()
            }
        };
        *disturbed.counts.entry(what).or_default() += 1;
        for server in &mut servers {
            if server.has_ended() {
                // Its supervisor starts it again, as after any crash.
                disturbed.killed.insert(server.pid(), ledger.read().len());
                *server = Process::start_with_ticks(&url, &ledger);
                *disturbed.counts.entry("ended by itself").or_default() += 1;
            }
        }
    }
    (servers, disturbed)
}
