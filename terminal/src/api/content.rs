//! Contents, uploads and editions. The bytes themselves move in `transfer`.

use protocol::rest::*;
use protocol::{ContentId, EditionId};

use super::request::Call;
use super::{Api, ApiError, PageQuery};

impl Api {
    /// For publishers.
    pub async fn create_content(&self, new: &NewContent) -> Result<Content, ApiError> {
        self.call(Call::post("v1/contents").json(new)).await
    }

    pub async fn contents(&self, page: &PageQuery) -> Result<Page<Content>, ApiError> {
        self.call(Call::get("v1/contents").page(page)).await
    }

    pub async fn content(&self, id: ContentId) -> Result<Content, ApiError> {
        self.call(Call::get(format!("v1/contents/{id}"))).await
    }

    /// Announces an edition; its bytes follow with [`Api::upload_bytes`].
    pub async fn create_upload(&self, content: ContentId, new: &NewUpload) -> Result<Upload, ApiError> {
        self.call(Call::post(format!("v1/contents/{content}/uploads")).json(new)).await
    }

    pub async fn edition(&self, id: EditionId) -> Result<Edition, ApiError> {
        self.call(Call::get(format!("v1/editions/{id}"))).await
    }
}
