//! How an edition gets in: announced with its layout, then sent as one stream of bytes.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use protocol::rest::{Edition, NewUpload, Upload};
use protocol::{ContentId, UploadId};

use super::answers::created;
use super::input::Body;
use super::input::body::ANNOUNCEMENT_MAX;
use super::openapi::RawBytes;
use super::refusals::{Conflict, NotFound, Unprocessable};
use crate::app::contents;
use crate::auth::Publisher;
use crate::clock;
use crate::error::ApiError;
use crate::state::AppState;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/v1/contents/{id}/uploads").route(web::post().to(announce)))
        .service(web::resource("/v1/uploads/{id}").route(web::put().to(receive)));
}

/// Announce an edition of an own content. The bytes follow with `PUT /v1/uploads/{id}`.
#[utoipa::path(post, path = "/v1/contents/{id}/uploads", tag = "contents", operation_id = "create_upload", params(("id" = ContentId, Path)),
    request_body = NewUpload,
    responses((status = 201, description = "Announced.", body = Upload), NotFound, Conflict, Unprocessable))]
pub async fn announce(
    state: web::Data<AppState>,
    publisher: Publisher,
    id: web::Path<ContentId>,
    body: Body<NewUpload, ANNOUNCEMENT_MAX>,
) -> Result<HttpResponse, ApiError> {
    let upload = contents::announce(&state, publisher.user_id, *id, body.0, clock::now()).await?;
    Ok(created(format!("/v1/uploads/{}", upload.id), upload))
}

/// Send the bytes of an announced edition: all files one after the other, in the announced order. An upload that breaks off or has another length
/// makes no edition and may be sent again.
#[utoipa::path(put, path = "/v1/uploads/{id}", tag = "contents", operation_id = "put_upload", params(("id" = UploadId, Path)),
    request_body(content = RawBytes, content_type = "application/octet-stream"),
    responses((status = 201, description = "The edition was made.", body = Edition), NotFound, Conflict))]
pub async fn receive(
    state: web::Data<AppState>,
    publisher: Publisher,
    id: web::Path<UploadId>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let upload = contents::find_upload(&state, publisher.user_id, *id).await?;
    let stated = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if let Some(stated) = stated.filter(|stated| *stated != upload.length.0) {
        let announced = upload.length.0;
        return Err(ApiError::invalid("header/Content-Length", format!("{stated} bytes are not the {announced} announced")));
    }
    let edition = contents::receive(&state, upload, payload, clock::now()).await?;
    Ok(created(format!("/v1/editions/{}", edition.id), edition))
}
