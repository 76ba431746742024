//! `ServerRegistry`: who serves what.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::model::bounds;
use crate::model::clock::Timestamp;
use crate::model::error::Result;
use crate::model::ids::Incarnation;
use crate::model::name::Name;
use crate::model::record::Lease;
use crate::model::recurring::Pause;
use crate::storage::call::Call;

/// Servers, their proof of life, and what they are told.
///
/// **Contract**
/// - **SRV-1** After `announce` the server may claim, and `servers` lists it with its queues and kinds.
/// - **SRV-2** A heartbeat proves life at the storage's clock and answers commands and pauses; for an
///   unknown life it answers [`known`](HeartbeatAnswer::known) `false`, and changes nothing.
/// - **SRV-3** `remove_server` forgets the life; attempts it names still run and will count no crash
///   when they are rescued.
/// - **SRV-4** `remove_dead` forgets lives silent for longer than told, and no others: a last heartbeat that
///   lies further ahead than that is silence, too, since the clock has gone back; it takes no lease
///   away.
/// - **SRV-5** An announce of another life under the same name replaces the former one when that is
///   draining, or has been silent for [`SERVER_FRESH`](bounds::SERVER_FRESH); leases of the former stay
///   what they are.
/// - **SRV-6** While a [bulk operation](crate::storage::BulkRecord) has not ended, heartbeats say so.
/// - **SRV-7** While another life holds the name, neither draining nor silent, an announce changes nothing
///   and answers [`Announced::NameTaken`] with that server.
#[async_trait]
pub trait ServerRegistry {
    /// Makes a server known, or changes what is known of it.
    async fn announce(&self, call: &Call, server: &ServerInfo) -> Result<Announced>;

    /// Proves life.
    async fn heartbeat(&self, call: &Call, beat: &Heartbeat) -> Result<HeartbeatAnswer>;

    /// Deregisters, naming the attempts that still run.
    async fn remove_server(
        &self,
        call: &Call,
        incarnation: Incarnation,
        still_running: &[Lease],
    ) -> Result<()>;

    /// Forgets servers that have been silent for longer than `silent_for`; answers their names.
    async fn remove_dead(&self, call: &Call, silent_for: Duration) -> Result<Vec<Name>>;

    /// All servers, by name in the order of bytes.
    async fn servers(&self) -> Result<Vec<ServerStatus>>;
}

/// What a server tells of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// Its name, unique among those that live.
    pub name: Name,
    /// Its life.
    pub incarnation: Incarnation,
    /// The process id.
    pub pid: u32,
    /// The machine's name.
    pub host: String,
    /// The release of JobKit.
    pub version: String,
    /// How many jobs it runs at once.
    pub workers: u32,
    /// The queues it serves.
    pub queues: Vec<Name>,
    /// The kinds it serves.
    pub kinds: Vec<Name>,
    /// When it was started, by its own clock.
    pub started_at: Timestamp,
    /// Whether it takes no more jobs and is about to stop, so that a successor may have its name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
}

/// What an announce answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announced {
    /// The server is known and may claim.
    Known,
    /// Another live server has this name.
    NameTaken(Box<ServerStatus>),
}

/// A proof of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The life.
    pub incarnation: Incarnation,
    /// How many jobs run.
    pub busy: u32,
}

/// What a heartbeat answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeartbeatAnswer {
    /// Whether the life is known; if not, announce again.
    pub known: bool,
    /// What the server is told to do, as long as the order holds.
    pub command: Option<ServerCommand>,
    /// The pauses that hold now.
    pub paused: Vec<PauseTarget>,
    /// Whether a bulk operation has not ended, so that somebody must drive it.
    pub bulk: bool,
    /// The storage's clock.
    pub now: Timestamp,
}

/// What an operator tells a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerCommand {
    /// Claim nothing more, go on running what is held.
    Quiet,
    /// Shut down gracefully.
    Stop,
}

/// What a server was told, by whom, why and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerOrder {
    /// What it is to do.
    pub command: ServerCommand,
    /// By whom, why, since and until when.
    pub given: Pause,
}

impl ServerOrder {
    /// An order without an end.
    pub fn new(command: ServerCommand, by: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { command, given: Pause::new(by, reason) }
    }
}

/// What can be paused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseTarget {
    /// A queue.
    Queue(Name),
    /// A kind.
    Kind(Name),
}

/// A pause that was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PauseRecord {
    /// What is paused.
    pub target: PauseTarget,
    /// By whom, why, and until when.
    pub pause: Pause,
}

/// A server as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerStatus {
    /// What it told of itself.
    pub info: ServerInfo,
    /// Its last proof of life, by the storage's clock.
    pub heartbeat_at: Timestamp,
    /// How many jobs ran then.
    pub busy: u32,
    /// What it was told to do; it may have ended by itself, see [`Pause::holds`].
    pub order: Option<ServerOrder>,
}

impl ServerStatus {
    /// Whether another life may take its name: it is draining, or has been silent for
    /// [`SERVER_FRESH`](bounds::SERVER_FRESH). A heartbeat from the future is of a clock that was wrong.
    pub fn yields_its_name(&self, now: Timestamp) -> bool {
        let distance = now.since(self.heartbeat_at).max(self.heartbeat_at.since(now));
        self.info.draining || distance >= bounds::SERVER_FRESH
    }

    /// Whether it has been silent for so long that nobody counts on it: [`bounds::SERVER_SILENT`].
    pub fn is_silent(&self, now: Timestamp) -> bool {
        // One that lies ahead is of a time when the clock was: a live server would have sent another.
        now.apart(self.heartbeat_at) >= bounds::SERVER_SILENT
    }
}
