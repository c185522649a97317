//! Contents, announced uploads and editions. The bytes themselves are in the chunk store.
//!
//! A content can be seen by its publisher, by operators, and by everybody once there is a release of it; then everybody sees those of its editions that a
//! release names, and no others. What can be had on demand can be seen whole.

use protocol::rest::{Chunking, Content, Edition, Page, UploadFile};
use protocol::{Blake3, Bytes, ContentId, EditionId, ErrorCode, UploadId, UserId};
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::conversions::{bigint, byte_array, bytes, integer, small, stored_time};
use super::{PageRequest, Store, StoreError};

/// An upload that was announced and never finished is forgotten after this.
const UPLOAD_DAYS: i64 = 7;

/// Who is looking: decides which contents exist for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Viewer {
    User(UserId),
    /// Sees everything.
    Operator,
}

impl Viewer {
    /// The user whose unreleased contents are included; none stands for everybody's.
    pub(super) fn user(self) -> Option<Uuid> {
        match self {
            Self::User(id) => Some(id.0),
            Self::Operator => None,
        }
    }
}

/// An announced edition whose bytes have not all arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnouncedUpload {
    pub id: UploadId,
    pub content_id: ContentId,
    pub label: String,
    pub directory: bool,
    pub chunking: Chunking,
    pub files: Vec<UploadFile>,
    pub length: Bytes,
    pub created_at: OffsetDateTime,
}

/// Of contents.
const VISIBLE: &str = "($1::uuid IS NULL OR contents.publisher_id = $1 OR EXISTS (SELECT FROM releases WHERE content_id = contents.id)
    OR EXISTS (SELECT FROM on_demand_terms WHERE content_id = contents.id))";
/// Of contents and their `content_editions`: what is released is an edition, not all that was ever uploaded beside it.
const EDITION_VISIBLE: &str = "($1::uuid IS NULL OR contents.publisher_id = $1
    OR EXISTS (SELECT FROM on_demand_terms WHERE content_id = contents.id) OR EXISTS (
    SELECT FROM releases JOIN release_editions ON release_id = releases.id
    WHERE releases.content_id = contents.id AND release_editions.edition_id = content_editions.edition_id))";

fn chunking_word(chunking: Chunking) -> &'static str {
    match chunking {
        Chunking::ContentDefined => "content_defined",
        Chunking::Fixed => "fixed",
    }
}

fn chunking_of(word: &str) -> Result<Chunking, StoreError> {
    match word {
        "content_defined" => Ok(Chunking::ContentDefined),
        "fixed" => Ok(Chunking::Fixed),
        other => Err(StoreError::Invariant(format!("{other:?} is no way to cut chunks"))),
    }
}

fn content_of(row: &PgRow) -> Result<Content, StoreError> {
    Ok(Content {
        id: ContentId(row.try_get("id")?),
        publisher_id: UserId(row.try_get("publisher_id")?),
        title: row.try_get("title")?,
        editions: Vec::new(),
        created_at: row.try_get("created_at")?,
    })
}

fn edition_of(row: &PgRow) -> Result<Edition, StoreError> {
    Ok(Edition {
        id: EditionId(byte_array(row.try_get("id")?)?),
        label: row.try_get("label")?,
        directory: row.try_get("directory")?,
        length: bytes(row.try_get("length")?)?,
        chunks: small(row.try_get("chunks")?)?,
        blake3: Blake3(byte_array(row.try_get("blake3")?)?),
        created_at: row.try_get("created_at")?,
    })
}

impl Store {
    pub async fn create_content(&self, content: &Content) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO contents (id, publisher_id, title, created_at) VALUES ($1, $2, $3, $4)")
            .bind(content.id.0)
            .bind(content.publisher_id.0)
            .bind(&content.title)
            .bind(stored_time(content.created_at))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// A content with its editions, if it exists for the viewer.
    pub async fn content(&self, id: ContentId, viewer: Viewer) -> Result<Option<Content>, StoreError> {
        let query = format!("SELECT id, publisher_id, title, created_at FROM contents WHERE id = $2 AND {VISIBLE}");
        let row = sqlx::query(sqlx::AssertSqlSafe(query)).bind(viewer.user()).bind(id.0).fetch_optional(&self.pool).await?;
        let Some(row) = row else { return Ok(None) };
        let mut contents = [content_of(&row)?];
        self.add_editions(&mut contents, viewer).await?;
        let [content] = contents;
        Ok(Some(content))
    }

    /// The contents that exist for the viewer, oldest first.
    pub async fn contents(&self, viewer: Viewer, request: &PageRequest) -> Result<Page<Content>, StoreError> {
        let after = request.after::<Uuid>()?;
        let query = format!(
            "SELECT id, publisher_id, title, created_at FROM contents
             WHERE {VISIBLE} AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(viewer.user())
            .bind(after)
            .bind(request.rows_wanted())
            .fetch_all(&self.pool)
            .await?;
        let contents = rows.iter().map(content_of).collect::<Result<Vec<_>, _>>()?;
        let mut page = request.page(contents, |content| content.id);
        self.add_editions(&mut page.items, viewer).await?;
        Ok(page)
    }

    async fn add_editions(&self, contents: &mut [Content], viewer: Viewer) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = contents.iter().map(|content| content.id.0).collect();
        let query = format!(
            "SELECT content_editions.content_id, editions.id, label, directory, length, chunks, blake3, content_editions.created_at
             FROM content_editions JOIN editions ON editions.id = edition_id JOIN contents ON contents.id = content_editions.content_id
             WHERE contents.id = ANY($2) AND {EDITION_VISIBLE} ORDER BY content_editions.created_at, label"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(query)).bind(viewer.user()).bind(&ids).fetch_all(&self.pool).await?;
        for row in &rows {
            let content_id = ContentId(row.try_get("content_id")?);
            if let Some(content) = contents.iter_mut().find(|content| content.id == content_id) {
                content.editions.push(edition_of(row)?);
            }
        }
        Ok(())
    }

    /// An edition, if it exists for the viewer in one of its contents; labelled as the viewer's own content has it, else as the oldest one has.
    pub async fn edition(&self, id: EditionId, viewer: Viewer) -> Result<Option<Edition>, StoreError> {
        let query = format!(
            "SELECT editions.id, label, directory, length, chunks, blake3, content_editions.created_at
             FROM editions JOIN content_editions ON edition_id = editions.id JOIN contents ON contents.id = content_id
             WHERE editions.id = $2 AND {EDITION_VISIBLE}
             ORDER BY contents.publisher_id IS DISTINCT FROM $1, content_editions.created_at LIMIT 1"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(query)).bind(viewer.user()).bind(id.0.as_slice()).fetch_optional(&self.pool).await?;
        row.as_ref().map(edition_of).transpose()
    }

    /// Announces an edition of a publisher's own content.
    ///
    /// # Errors
    /// Not found if the content is not the publisher's; `conflict` if it has an edition of that label.
    pub async fn create_upload(&self, publisher: UserId, upload: &AnnouncedUpload) -> Result<(), StoreError> {
        let now = stored_time(upload.created_at);
        let mut tx = self.begin().await?;
        let taken: Option<bool> = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM content_editions WHERE content_id = contents.id AND label = $3)
             FROM contents WHERE id = $1 AND publisher_id = $2",
        )
        .bind(upload.content_id.0)
        .bind(publisher.0)
        .bind(&upload.label)
        .fetch_optional(&mut *tx)
        .await?;
        if taken.ok_or(StoreError::NotFound("content"))? {
            return Err(label_taken());
        }
        sqlx::query("DELETE FROM uploads WHERE created_at < $1").bind(now - time::Duration::days(UPLOAD_DAYS)).execute(&mut *tx).await?;
        sqlx::query(
            "INSERT INTO uploads (id, content_id, label, directory, chunking, files, length, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(upload.id.0)
        .bind(upload.content_id.0)
        .bind(&upload.label)
        .bind(upload.directory)
        .bind(chunking_word(upload.chunking))
        .bind(Json(&upload.files))
        .bind(bigint(upload.length.0)?)
        .bind(now)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// A publisher's own announced upload.
    pub async fn upload(&self, publisher: UserId, id: UploadId) -> Result<Option<AnnouncedUpload>, StoreError> {
        let row = sqlx::query(
            "SELECT uploads.id, content_id, label, directory, chunking, files, length, uploads.created_at
             FROM uploads JOIN contents ON contents.id = content_id WHERE uploads.id = $1 AND publisher_id = $2",
        )
        .bind(id.0)
        .bind(publisher.0)
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(AnnouncedUpload {
            id: UploadId(row.try_get("id")?),
            content_id: ContentId(row.try_get("content_id")?),
            label: row.try_get("label")?,
            directory: row.try_get("directory")?,
            chunking: chunking_of(row.try_get("chunking")?)?,
            files: row.try_get::<Json<Vec<UploadFile>>, _>("files")?.0,
            length: bytes(row.try_get("length")?)?,
            created_at: row.try_get("created_at")?,
        }))
    }

    /// Turns an upload whose bytes are all stored into an edition of its content.
    ///
    /// # Errors
    /// `conflict` if the upload was finished by somebody else, or the content has this edition or one of that label by now.
    pub async fn finish_upload(&self, id: UploadId, edition: &Edition) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let content: Option<Uuid> =
            sqlx::query_scalar("DELETE FROM uploads WHERE id = $1 RETURNING content_id").bind(id.0).fetch_optional(&mut *tx).await?;
        let finished = || StoreError::refused_because(ErrorCode::Conflict, "This upload was finished by another request.");
        let content = content.ok_or_else(finished)?;
        sqlx::query(
            "INSERT INTO editions (id, directory, length, chunks, blake3, created_at) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (id) DO NOTHING",
        )
        .bind(edition.id.0.as_slice())
        .bind(edition.directory)
        .bind(bigint(edition.length.0)?)
        .bind(integer(edition.chunks)?)
        .bind(edition.blake3.0.as_slice())
        .bind(stored_time(edition.created_at))
        .execute(&mut *tx)
        .await?;
        let added = sqlx::query("INSERT INTO content_editions (content_id, edition_id, label, created_at) VALUES ($1, $2, $3, $4)")
            .bind(content)
            .bind(edition.id.0.as_slice())
            .bind(&edition.label)
            .bind(stored_time(edition.created_at))
            .execute(&mut *tx)
            .await
            .map_err(StoreError::from);
        match added {
            Ok(_) => {}
            Err(error) if error.constraint() == Some("content_editions_pkey") => {
                return Err(StoreError::refused_because(ErrorCode::Conflict, "The content has an edition with these very files."));
            }
            Err(error) if error.constraint() == Some("content_editions_content_id_label_key") => return Err(label_taken()),
            Err(error) => return Err(error),
        }
        tx.commit().await?;
        Ok(())
    }
}

fn label_taken() -> StoreError {
    StoreError::refused_because(ErrorCode::Conflict, "The content has an edition of this label.")
}
