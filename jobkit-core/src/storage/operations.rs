//! `Operations`: what an operator does to queues, servers, jobs and error groups.

use async_trait::async_trait;

use crate::model::error::{Error, Result};
use crate::model::failure::Fingerprint;
use crate::model::ids::JobId;
use crate::model::name::Name;
use crate::model::record::NewRecord;
use crate::model::recurring::Pause;
use crate::storage::call::Call;
use crate::storage::jobs::{Guard, Submitted};
use crate::storage::servers::{PauseRecord, PauseTarget, ServerOrder};

/// Pauses, commands to servers, edited copies, muted error groups.
///
/// **Contract**
/// - **OPS-1** No claim that begins after `pause` returned takes jobs of that queue or kind. What a claim
///   took that was under way then, servers give back within one renewal interval, as far as it has not
///   started. Running jobs go on; other queues and kinds are not disturbed (G15).
/// - **OPS-2** `resume` makes the waiting jobs claimable at once (G21); it answers `false` if nothing
///   was paused.
/// - **OPS-3** A pause with an end lifts itself at that instant, on the storage's clock.
/// - **OPS-4** `pauses` lists what holds, with who, why, since and until when.
/// - **OPS-5** What is not offered answers `Unsupported` and changes nothing.
/// - **OPS-6** `command_server` is told with every heartbeat of that life until it is taken back or its
///   end has passed; a later life under the same name begins without it; an unknown server answers
///   `false`.
/// - **OPS-7** `edit_job` stores the copy and, where the original waits, deletes it as
///   [`Replaced`](crate::model::state::Reason::Replaced), in one step: its unique key goes over to the copy. A
///   running original, one that waits for others or that others wait for, and a waiting member of a batch
///   are refused; a finished
///   original stays as it is. Repeating it changes nothing and answers
///   [`Already`](crate::storage::JobSubmitted::Already) (G3, G11).
/// - **OPS-10** `mute` marks an error group with who, why and until when; its failures are counted all
///   the same. `false` if there is no such group.
#[async_trait]
#[allow(unused_variables, reason = "default bodies")]
pub trait Operations {
    /// Pauses a queue or kind, or replaces its pause.
    async fn pause(&self, call: &Call, target: &PauseTarget, pause: &Pause) -> Result<()> {
        Err(Error::unsupported("pausing"))
    }

    /// Lifts a pause; `false` if there was none.
    async fn resume(&self, call: &Call, target: &PauseTarget) -> Result<bool> {
        Err(Error::unsupported("pausing"))
    }

    /// The pauses that hold.
    async fn pauses(&self, call: &Call) -> Result<Vec<PauseRecord>> {
        Err(Error::unsupported("pausing"))
    }

    /// Tells a server to be quiet or to stop; `None` takes the order back. `false` if it is unknown.
    async fn command_server(
        &self,
        call: &Call,
        server: &Name,
        order: Option<&ServerOrder>,
    ) -> Result<bool> {
        Err(Error::unsupported("commands to servers"))
    }

    /// Puts an edited copy in the place of a waiting job, or beside a finished one, in one step.
    async fn edit_job(&self, call: &Call, edit: EditJob<'_>) -> Result<Submitted> {
        Err(Error::unsupported("editing jobs"))
    }

    /// Mutes an error group; `None` unmutes it. `false` if there is none.
    async fn mute(&self, call: &Call, group: Fingerprint, mute: Option<&Pause>) -> Result<bool> {
        Err(Error::unsupported("muting"))
    }
}

/// A copy of a job with other content.
#[derive(Clone, Copy, Debug)]
pub struct EditJob<'a> {
    /// The original.
    pub original: JobId,
    /// Only if the original is as it was seen.
    pub guard: Guard,
    /// The copy, which names the original in [`Extras::made_from`](crate::model::record::Extras::made_from)
    /// and has neither edges nor a batch.
    pub copy: &'a NewRecord,
    /// Who wants it, for the history.
    pub actor: Option<&'a str>,
}

impl EditJob<'_> {
    /// Checks the copy (G20).
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), with the field and the reason.
    pub fn check(&self) -> Result<()> {
        self.copy.check()?;
        for (field, set) in
            [("parents", !self.copy.edges.is_empty()), ("batch", self.copy.batch.is_some())]
        {
            if set {
                return Err(Error::invalid(field, "cannot be set on an edited copy"));
            }
        }
        if self.copy.id == self.original {
            return Err(Error::invalid("id", "is that of the original"));
        }
        Ok(())
    }
}
