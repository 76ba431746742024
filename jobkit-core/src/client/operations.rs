//! What operators do to queues, kinds and limits.

use crate::client::Client;
use crate::model::error::Result;
use crate::model::limit::Limit;
use crate::model::name::Name;
use crate::model::recurring::Pause;
use crate::storage::{Call, LimitUsage, PauseTarget};

impl Client {
    /// Pauses a queue: nothing more of it is claimed by any server; what runs goes on (G15).
    ///
    /// # Errors
    /// Invalid input names the field; otherwise the storage's.
    ///
    /// # Example: no mails while the provider is down
    /// ```
    /// # use jobkit::recurring::Pause;
    /// # use jobkit::{Client, Error, MemoryStorage};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Error> {
    /// # let client = Client::new(MemoryStorage::new());
    /// client.pause_queue("mail", Pause::new("ann", "provider is down")).await?;
    /// client.resume_queue("mail").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn pause_queue(&self, queue: &str, pause: Pause) -> Result<()> {
        let target = PauseTarget::Queue(Name::new("queue", queue)?);
        self.pause(&target, &pause).await
    }

    /// Resumes a queue; nothing happens if it was not paused.
    ///
    /// # Errors
    /// As [`pause_queue`](Self::pause_queue).
    pub async fn resume_queue(&self, queue: &str) -> Result<()> {
        self.resume(&PauseTarget::Queue(Name::new("queue", queue)?)).await
    }

    /// Pauses a kind of job, in every queue.
    ///
    /// # Errors
    /// As [`pause_queue`](Self::pause_queue).
    pub async fn pause_kind(&self, kind: &str, pause: Pause) -> Result<()> {
        let target = PauseTarget::Kind(Name::new("kind", kind)?);
        self.pause(&target, &pause).await
    }

    /// Resumes a kind; nothing happens if it was not paused.
    ///
    /// # Errors
    /// As [`pause_queue`](Self::pause_queue).
    pub async fn resume_kind(&self, kind: &str) -> Result<()> {
        self.resume(&PauseTarget::Kind(Name::new("kind", kind)?)).await
    }

    /// Sets a limit's number, over what jobs name; more room lets waiting jobs run at once.
    ///
    /// # Errors
    /// As [`pause_queue`](Self::pause_queue).
    pub async fn define_limit(&self, limit: Limit) -> Result<()> {
        let storage = self.dyn_storage();
        super::changes::repeated(|| async { storage.define_limit(&Call::default(), &limit).await })
            .await
    }

    /// How full a limit is; `None` if no job has named it yet.
    ///
    /// # Errors
    /// The storage's.
    pub async fn limit(&self, name: &str) -> Result<Option<LimitUsage>> {
        self.dyn_storage().limit(&Call::default(), name).await
    }

    async fn pause(&self, target: &PauseTarget, pause: &Pause) -> Result<()> {
        pause.check()?;
        let storage = self.dyn_storage();
        super::changes::repeated(|| async { storage.pause(&Call::default(), target, pause).await })
            .await
    }

    async fn resume(&self, target: &PauseTarget) -> Result<()> {
        let storage = self.dyn_storage();
        super::changes::repeated(|| async { storage.resume(&Call::default(), target).await })
            .await
            .map(drop)
    }
}
