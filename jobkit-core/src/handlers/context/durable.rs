//! What a handler leaves for its next attempt, and for its children: memos, checkpoints, outputs.

use std::future::Future;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::handlers::context::{FromContext, JobContext};
use crate::jobs::codec::Place;
use crate::jobs::outcome::Failure;
use crate::model::bounds::RESULT_BYTES;
use crate::model::edge::Parent;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::ids::JobId;
use crate::model::lossless::to_json;
use crate::model::name::{Name, check_label};
use crate::model::record::{AttemptError, Payload};
use crate::model::state::{Reason, StateName};
use crate::storage::{Call, WriteAnswer};

impl JobContext {
    /// Does something once per run of the job: what `effect` gave is kept under `key`, and a later
    /// attempt is given that instead of doing it again.
    ///
    /// The effect can still happen twice, if the process dies between the effect and the moment its
    /// value is kept. Where that must not be, hand the job's id and `key` to the other system as an
    /// idempotency key. The value is kept until the job is removed or requeued; at most 64 KiB.
    ///
    /// # Errors
    /// The effect's own; or the value could not be kept, since the storage was away or the lease lost,
    /// as the same type: `anyhow::Error`, a boxed error, [`Failure`], or any that an [`Error`] converts
    /// into. All of them fail the attempt.
    ///
    /// # Example: charge once, however often the rest is repeated
    /// ```
    /// # use jobkit::{Failure, JobContext};
    /// # async fn charge(_: u64) -> Result<String, Failure> { Ok("r-1".into()) }
    /// # async fn send(_: &str) -> Result<(), std::io::Error> { Ok(()) }
    /// async fn pay(order: u64, ctx: JobContext) -> Result<(), Failure> {
    ///     let receipt: String = ctx.once("charge", || charge(order)).await?;
    ///     Ok(send(&receipt).await?)
    /// }
    /// ```
    pub async fn once<T, E, F, Fut>(&self, key: &str, effect: F) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned,
        E: From<Error>,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        check_label("key", key)?;
        let storage = self.client().storage();
        if let Some(memo) = storage.memo(self.id(), key).await? {
            return Ok(self.decode("memo", &memo)?);
        }
        let value = effect().await?;
        let memo = self.encode("memo", &value)?;
        match storage.put_memo(&Call::default(), self.lease(), key, &memo).await? {
            // Its own, or that of a call whose answer was lost.
            Some(kept) => Ok(self.decode("memo", &kept)?),
            None => Err(lease_lost().into()),
        }
    }

    /// Keeps how far the work is, so that the next attempt can go on from there; at most 64 KiB. It
    /// outlives attempts, and is cleared by a requeue.
    ///
    /// # Errors
    /// The storage was away, or the lease is lost: both fail the attempt.
    ///
    /// # Example: a job of a million rows
    /// ```
    /// # use jobkit::{Failure, JobContext};
    /// # async fn import(_: std::ops::Range<u64>) -> Result<(), std::io::Error> { Ok(()) }
    /// async fn import_all(ctx: JobContext) -> Result<(), Failure> {
    ///     let mut row: u64 = ctx.last_checkpoint().await?.unwrap_or(0);
    ///     while row < 1_000_000 {
    ///         import(row..row + 1_000).await?;
    ///         row += 1_000;
    ///         ctx.checkpoint(&row).await?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub async fn checkpoint<T: Serialize>(&self, cursor: &T) -> Result<()> {
        let cursor = self.encode("checkpoint", cursor)?;
        match self
            .client()
            .storage()
            .put_checkpoint(&Call::default(), self.lease(), &cursor)
            .await?
        {
            WriteAnswer::Written => Ok(()),
            WriteAnswer::LeaseLost => Err(lease_lost()),
        }
    }

    /// What was kept last by [`checkpoint`](Self::checkpoint), also by an earlier attempt.
    ///
    /// # Errors
    /// The storage was away, or what is kept does not decode as `T`.
    pub async fn last_checkpoint<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        let kept = self.client().storage().checkpoint(self.id()).await?;
        kept.map(|kept| self.decode("checkpoint", &kept)).transpose()
    }

    /// The jobs this one waited for, in the order in which they were named, with their outcomes.
    /// Those that were removed since are left out.
    ///
    /// # Errors
    /// The storage was away.
    pub async fn parents(&self) -> Result<Vec<ParentOutcome>> {
        let storage = self.client().storage();
        let Some(me) = storage.job(self.id()).await? else { return Ok(Vec::new()) };
        let mut parents = Vec::new();
        for status in me.parents {
            let Parent::Job(id) = status.edge.parent else { continue };
            if let Some(parent) = storage.job(id).await? {
                parents.push(ParentOutcome {
                    id,
                    state: parent.record.state(),
                    reason: parent.record.head.reason,
                    kind: parent.record.kind,
                    output: parent
                        .result
                        .map(|result| self.client().open_result(id, &result))
                        .transpose()?,
                    error: parent.errors.into_iter().next_back(),
                });
            }
        }
        Ok(parents)
    }
}

/// The outcome of a parent.
#[derive(Clone, Debug, PartialEq)]
pub struct ParentOutcome {
    /// Its id.
    pub id: JobId,
    /// Its kind.
    pub kind: Name,
    /// Its state now.
    pub state: StateName,
    /// Why it is in this state, such as why it was deleted.
    pub reason: Reason,
    /// What it returned, as JSON; `None` where that was nothing.
    pub output: Option<Payload>,
    /// Its last failure.
    pub error: Option<AttemptError>,
}

impl ParentOutcome {
    /// What it returned.
    ///
    /// # Errors
    /// It has not succeeded, or its output does not decode as `T`.
    pub fn output<T: DeserializeOwned>(&self) -> Result<T> {
        if self.state != StateName::Succeeded {
            let (state, reason) = (self.state, self.reason.as_str());
            let text = format!("parent {} of kind {} is {state}: {reason}", self.id, self.kind);
            return Err(Error::new(ErrorKind::NotFound, text));
        }
        serde_json::from_slice(self.output.as_deref().unwrap_or(b"null")).map_err(|error| {
            Error::corrupt(format!("the output of the parent does not decode: {error}"))
        })
    }
}

/// The output of the one parent a job waited for; asked for with `#[inject]`.
///
/// # Example: a receipt for what was charged
/// ```
/// # use jobkit::{FromContext, FromParent, JobContext, Failure};
/// # #[derive(serde::Deserialize)] struct Receipt { cents: u64 }
/// async fn send_receipt(ctx: JobContext) -> Result<u64, Failure> {
///     let FromParent(receipt) = FromParent::<Receipt>::from_context(&ctx).await?;
///     Ok(receipt.cents)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FromParent<T>(pub T);

impl<T: DeserializeOwned + Send> FromContext for FromParent<T> {
    async fn from_context(context: &JobContext) -> Result<Self, Failure> {
        let parents = context.parents().await?;
        match parents.as_slice() {
            [parent] => Ok(Self(parent.output()?)),
            others => {
                let text =
                    format!("there are {} parent jobs, where one is asked for", others.len());
                Err(Failure::message("no output", text))
            }
        }
    }
}

/// The outputs of all parents a job waited for, in the order in which they were named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FromParents<T>(pub Vec<T>);

impl<T: DeserializeOwned + Send> FromContext for FromParents<T> {
    async fn from_context(context: &JobContext) -> Result<Self, Failure> {
        let parents = context.parents().await?;
        Ok(Self(parents.iter().map(ParentOutcome::output).collect::<Result<_>>()?))
    }
}

fn lease_lost() -> Error {
    Error::new(ErrorKind::Conflict, "the lease was lost, so nothing more of this attempt counts")
}

impl JobContext {
    /// As it is kept; `part` is a memo or a checkpoint.
    fn encode<T: Serialize>(&self, part: &'static str, value: &T) -> Result<Payload> {
        let bytes = to_json(value)
            .map_err(|loss| Error::invalid(part, format_args!("cannot be kept: {loss}")))?;
        let owner = self.id().to_string();
        let bytes = self.client().codecs().seal(Place { owner: &owner, part }, bytes.into())?;
        if bytes.len() > RESULT_BYTES {
            let reason =
                format!("has {} bytes, where at most {RESULT_BYTES} are kept", bytes.len());
            return Err(Error::invalid(part, reason));
        }
        Ok(bytes)
    }

    fn decode<T: DeserializeOwned>(&self, part: &'static str, kept: &Payload) -> Result<T> {
        let owner = self.id().to_string();
        let bytes = self.client().codecs().open(Place { owner: &owner, part }, kept)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::corrupt(format!("the {part} does not decode: {error}")))
    }
}
