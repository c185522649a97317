//! Releases, applications and deliveries.

use protocol::rest::*;
use protocol::{ApplicationId, EditionId, ReleaseId};

use super::request::Call;
use super::{Api, ApiError, PageQuery};

impl Api {
    /// Schedules a release. For publishers.
    pub async fn create_release(&self, new: &NewRelease) -> Result<Release, ApiError> {
        self.call(Call::post("v1/releases").json(new).keyed()).await
    }

    pub async fn releases(&self, page: &PageQuery) -> Result<Page<Release>, ApiError> {
        self.call(Call::get("v1/releases").page(page)).await
    }

    pub async fn release(&self, id: ReleaseId) -> Result<Release, ApiError> {
        self.call(Call::get(format!("v1/releases/{id}"))).await
    }

    /// Ends a release before its start: every hold is released.
    pub async fn cancel_release(&self, id: ReleaseId) -> Result<Release, ApiError> {
        self.call(Call::post(format!("v1/releases/{id}/cancel")).keyed()).await
    }

    /// Ends a release that is live: verified bytes are settled, the rest of every hold is released.
    pub async fn abort_release(&self, id: ReleaseId) -> Result<Release, ApiError> {
        self.call(Call::post(format!("v1/releases/{id}/abort")).keyed()).await
    }

    /// All deliveries for the release's publisher and the operator, the own ones for others.
    pub async fn deliveries(&self, release: ReleaseId, page: &PageQuery) -> Result<Page<Delivery>, ApiError> {
        self.call(Call::get(format!("v1/releases/{release}/deliveries")).page(page)).await
    }

    /// How a release went, or goes so far, with a page of its terminals: all for its publisher and the operator, the own ones for who has won in it.
    pub async fn report(&self, release: ReleaseId, page: &PageQuery) -> Result<ReleaseReport, ApiError> {
        self.call(Call::get(format!("v1/releases/{release}/report")).page(page)).await
    }

    /// The closed books of a release, without their bids.
    pub async fn book(&self, release: ReleaseId) -> Result<ReleaseBook, ApiError> {
        self.call(Call::get(format!("v1/releases/{release}/book"))).await
    }

    /// The bids of an edition's closed book.
    pub async fn book_bids(&self, release: ReleaseId, edition: EditionId, page: &PageQuery) -> Result<Page<BookBid>, ApiError> {
        self.call(Call::get(format!("v1/releases/{release}/book/{edition}/bids")).page(page)).await
    }

    /// Why an own application costs what it costs, or got no place.
    pub async fn explanation(&self, id: ApplicationId) -> Result<Explanation, ApiError> {
        self.call(Call::get(format!("v1/applications/{id}/explanation"))).await
    }

    /// Applies for an edition and a rank; the maximum is held in the wallet.
    pub async fn create_application(&self, release: ReleaseId, new: &NewApplication) -> Result<Application, ApiError> {
        self.call(Call::post(format!("v1/releases/{release}/applications")).json(new).keyed()).await
    }

    /// The own applications to a release.
    pub async fn applications(&self, release: ReleaseId, page: &PageQuery) -> Result<Page<Application>, ApiError> {
        self.call(Call::get(format!("v1/releases/{release}/applications")).page(page)).await
    }

    pub async fn application(&self, id: ApplicationId) -> Result<Application, ApiError> {
        self.call(Call::get(format!("v1/applications/{id}"))).await
    }

    /// Changes an application if it still is at `version`; refused with `precondition_failed` otherwise.
    pub async fn change_application(&self, id: ApplicationId, version: u32, change: &ChangeApplication) -> Result<Application, ApiError> {
        let call = Call::put(format!("v1/applications/{id}")).json(change).header("If-Match", format!("\"{version}\""));
        self.call(call.keyed()).await
    }

    /// Takes an application back; its hold is released.
    pub async fn withdraw_application(&self, id: ApplicationId) -> Result<Application, ApiError> {
        self.call(Call::delete(format!("v1/applications/{id}")).keyed()).await
    }
}
