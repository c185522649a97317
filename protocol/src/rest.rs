//! Bodies of the REST API. Plural kebab-case paths, snake_case fields, RFC 3339 UTC times, money as integer minor units with a currency.

mod account;
mod book;
mod content;
mod kit;
mod measurement;
mod on_demand;
mod quarantine;
mod release;
mod report;
mod tariff;
mod webhook;

pub use account::*;
pub use book::*;
pub use content::*;
pub use kit::*;
pub use measurement::*;
pub use on_demand::*;
pub use quarantine::*;
pub use release::*;
pub use report::*;
pub use tariff::*;
pub use webhook::*;

use serde::{Deserialize, Serialize};

/// One page of a list, oldest first unless the operation says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Pass it as `cursor` to read on; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_cursor: Option<String>,
}
