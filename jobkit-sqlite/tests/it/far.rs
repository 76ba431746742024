//! The behaviour suite once more, as on a database far away: each call takes its time, and the model has no
//! clock that it could set.

use std::sync::Arc;
use std::time::Duration;

use conformance_tests::TestBackend;
use jobkit_core::JobId;
use jobkit_core::storage::Storage;
use jobkit_core::testing::{FaultyStorage, Pace};
use tempfile::TempDir;

use crate::conformance::Sqlite;

struct Far;

/// How long a call takes besides.
const AWAY: Duration = Duration::from_millis(1);

fn far(storage: Arc<dyn Storage>) -> Arc<dyn Storage> {
    let far = FaultyStorage::new(storage);
    far.pace(Pace { call: AWAY, ..Pace::default() });
    Arc::new(far)
}

impl TestBackend for Far {
    type Guard = TempDir;

    async fn setup() -> (Arc<dyn Storage>, TempDir) {
        let (storage, dir) = Sqlite::setup().await;
        (far(storage), dir)
    }

    async fn reopen(dir: &TempDir) -> Option<Arc<dyn Storage>> {
        Sqlite::reopen(dir).await.map(far)
    }

    async fn make_unreadable(dir: &TempDir, job: JobId) -> bool {
        Sqlite::make_unreadable(dir, job).await
    }
}

conformance_tests::conformance_tests!(Far);
