//! Contents at any time: terms and downloads.

use protocol::rest::{Download, NewDownload, NewTariff, OnDemand, OnDemandTerms, Page, PriceQuote, Tariff, TariffTerms};
use protocol::{ContentId, DownloadId, EditionId, ErrorCode, TariffId, TerminalId};

use super::request::Call;
use super::{Api, ApiError, PageQuery};

impl Api {
    /// On what terms a content can be had at any time; `None` if it cannot.
    pub async fn on_demand(&self, content: ContentId) -> Result<Option<OnDemand>, ApiError> {
        match self.call(Call::get(format!("v1/contents/{content}/on-demand"))).await {
            Ok(terms) => Ok(Some(terms)),
            Err(error) if error.code() == Some(ErrorCode::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets the terms of an own content, in the place of those of `seen`; refused with `precondition_failed` if they have changed since. For publishers.
    pub async fn set_on_demand(&self, content: ContentId, terms: &OnDemandTerms, seen: Option<u32>) -> Result<OnDemand, ApiError> {
        let call = Call::put(format!("v1/contents/{content}/on-demand")).json(terms);
        // A repetition after a lost answer would find its own change.
        let call = match seen {
            Some(version) => call.header("If-Match", format!("\"{version}\"")),
            None => call,
        };
        self.call(call.repeat_if_unreached()).await
    }

    /// Takes an own content off. For publishers.
    pub async fn remove_on_demand(&self, content: ContentId, seen: u32) -> Result<(), ApiError> {
        let call = Call::delete(format!("v1/contents/{content}/on-demand")).header("If-Match", format!("\"{seen}\""));
        self.call_empty(call.repeat_if_unreached()).await
    }

    /// What an edition would cost now; `None` if it is not offered.
    pub async fn quote(&self, content: ContentId, edition: EditionId, terminal: TerminalId) -> Result<Option<PriceQuote>, ApiError> {
        let call = Call::get(format!("v1/contents/{content}/on-demand/quote"));
        match self.call(call.query("edition_id", edition.to_string()).query("terminal_id", terminal.to_string())).await {
            Ok(quote) => Ok(Some(quote)),
            Err(error) if error.code() == Some(ErrorCode::NotOnDemand) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a tariff. For publishers.
    pub async fn create_tariff(&self, new: &NewTariff) -> Result<Tariff, ApiError> {
        self.call(Call::post("v1/tariffs").json(new).keyed()).await
    }

    /// Adds a version to an own tariff after version `seen`; refused if there is a later one. For publishers.
    pub async fn change_tariff(&self, id: TariffId, seen: u32, terms: &TariffTerms) -> Result<Tariff, ApiError> {
        let call = Call::post(format!("v1/tariffs/{id}/versions")).json(terms).header("If-Match", format!("\"{seen}\""));
        self.call(call.keyed()).await
    }

    /// A tariff in this version, or in its latest one.
    pub async fn tariff(&self, id: TariffId, version: Option<u32>) -> Result<Tariff, ApiError> {
        let call = Call::get(format!("v1/tariffs/{id}"));
        self.call(match version {
            Some(version) => call.query("version", version.to_string()),
            None => call,
        })
        .await
    }

    /// The own tariffs. For publishers.
    pub async fn tariffs(&self, page: &PageQuery) -> Result<Page<Tariff>, ApiError> {
        self.call(Call::get("v1/tariffs").page(page)).await
    }

    /// Asks for an edition; the price is held. The answer is the download that runs already, if one does.
    pub async fn create_download(&self, content: ContentId, new: &NewDownload) -> Result<Download, ApiError> {
        self.call(Call::post(format!("v1/contents/{content}/downloads")).json(new).keyed()).await
    }

    pub async fn download(&self, id: DownloadId) -> Result<Download, ApiError> {
        self.call(Call::get(format!("v1/downloads/{id}"))).await
    }

    /// The own downloads of a content, also those that have ended.
    pub async fn downloads(&self, content: ContentId, page: &PageQuery) -> Result<Page<Download>, ApiError> {
        self.call(Call::get(format!("v1/contents/{content}/downloads")).page(page)).await
    }

    /// Ends a download: what has arrived is paid for, the rest is released.
    pub async fn cancel_download(&self, id: DownloadId) -> Result<Download, ApiError> {
        self.call(Call::delete(format!("v1/downloads/{id}")).keyed()).await
    }
}
