//! `impl Storage`.

use async_trait::async_trait;

use crate::memory::MemoryStorage;
use crate::model::clock::Timestamp;
use crate::model::error::Result;
use crate::model::name::check_label;
use crate::storage::{Call, Capabilities, Finding, Migrated, Severity, Storage};

#[async_trait]
impl Storage for MemoryStorage {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn backend(&self) -> &'static str {
        "memory"
    }

    fn namespace(&self) -> &str {
        "memory"
    }

    async fn migrate(&self) -> Result<Migrated> {
        Ok(Migrated { from: 1, to: 1 })
    }

    async fn check(&self) -> Result<Vec<Finding>> {
        Ok(vec![Finding {
            severity: Severity::Info,
            code: "memory",
            message: "jobs are lost when the process ends; use a database to keep them".into(),
        }])
    }

    async fn now(&self) -> Result<Timestamp> {
        Ok(self.shared.clock.now())
    }

    async fn secret(&self, call: &Call, name: &str) -> Result<[u8; 32]> {
        check_label("secret", name)?;
        Ok(self.write(call, |tables, _| tables.operator_state.secret(name)))
    }
}
