//! The reference backend of core, telling claimers that sleep one by one as PostgreSQL and Redis do, held
//! to the suite.

use std::sync::Arc;

use conformance_tests::{Connections, Stranger, TestBackend};
use jobkit_core::storage::Storage;
use jobkit_core::testing::Held;
use jobkit_core::{JobId, MemoryStorage, TestClock};

struct Sleepers;

impl TestBackend for Sleepers {
    type Guard = MemoryStorage;

    async fn setup() -> (Arc<dyn Storage>, MemoryStorage) {
        let storage = MemoryStorage::new().tells_sleepers();
        (Arc::new(storage.clone()), storage)
    }

    async fn reopen(guard: &MemoryStorage) -> Option<Arc<dyn Storage>> {
        Some(Arc::new(guard.clone()))
    }

    async fn setup_on(clock: TestClock) -> Option<(Connections, MemoryStorage)> {
        let storage = MemoryStorage::with_clock(Arc::new(clock)).tells_sleepers();
        Some((vec![Arc::new(storage.clone()), Arc::new(storage.clone())], storage))
    }

    async fn hold(guard: &MemoryStorage, held: Held) -> Option<Stranger> {
        Some(Box::new(guard.hold(held)))
    }

    async fn setup_bounded(max_finished: u64) -> Option<(Arc<dyn Storage>, MemoryStorage)> {
        let storage = MemoryStorage::new().tells_sleepers().with_max_finished(max_finished);
        Some((Arc::new(storage.clone()), storage))
    }

    async fn make_unreadable(guard: &MemoryStorage, job: JobId) -> bool {
        guard.make_unreadable(job)
    }
}

conformance_tests::conformance_tests!(Sleepers, groups = [core, standard, full, push, search]);
