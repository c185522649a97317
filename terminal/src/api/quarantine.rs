//! Quarantines: terminals that are shut out for a while.

use protocol::QuarantineId;
use protocol::rest::{NewAppeal, NewDecision, NewQuarantine, Page, Quarantine};

use super::request::Call;
use super::{Api, ApiError, PageQuery};

impl Api {
    /// Those of the own terminals, for operators all; with `open`, only those with an appeal that is not decided.
    pub async fn quarantines(&self, open: bool, page: &PageQuery) -> Result<Page<Quarantine>, ApiError> {
        self.call(Call::get("v1/quarantines").query("open", open.to_string()).page(page)).await
    }

    /// Says why an own terminal should come back.
    pub async fn appeal(&self, id: QuarantineId, appeal: &NewAppeal) -> Result<Quarantine, ApiError> {
        self.call(Call::put(format!("v1/quarantines/{id}/appeal")).json(appeal)).await
    }

    /// Shuts a terminal out. For the operator.
    pub async fn impose_quarantine(&self, new: &NewQuarantine) -> Result<Quarantine, ApiError> {
        self.call(Call::post("v1/quarantines").json(new).keyed()).await
    }

    /// Lifts a quarantine or upholds it. For the operator.
    pub async fn decide_quarantine(&self, id: QuarantineId, decision: &NewDecision) -> Result<Quarantine, ApiError> {
        self.call(Call::put(format!("v1/quarantines/{id}/decision")).json(decision)).await
    }
}
