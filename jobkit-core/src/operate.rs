//! For operators: bulk operations, searches, why a job does not run, jobs as JSON, figures,
//! moves between storages.
//! It imports from `client` and below.

pub mod bulk;
pub mod operator;
pub mod prometheus;
pub mod search;
pub mod transfer;
pub mod view;
pub mod why;
