//! Publishing and scheduling in few words.

use protocol::manifest::Manifest;
use protocol::rest::{Application, Chunking, Content, Delivery, Edition, Page, Release, Upload};
use protocol::{EditionId, ReleaseId, TerminalId};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::person::{Person, money};

/// An uploaded edition.
#[derive(Debug, Clone)]
pub struct Published {
    pub content: Content,
    pub edition: Edition,
}

/// What a release is scheduled with; the rest is the same in all tests.
#[derive(Debug, Clone)]
pub struct Plan {
    /// (weight, delay in seconds, capacity)
    pub ranks: Vec<(u32, u32, u32)>,
    /// (seconds, deposit) of each rank that owes a relay duty, from the first one on.
    pub duties: Vec<(u32, u64)>,
    pub sealed: bool,
    pub closes_in_ms: i64,
    pub starts_in_ms: i64,
    pub reserve: u64,
    /// Times the editions' sum, in percent.
    pub budget_percent: u64,
    pub limit_s: u32,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            ranks: vec![(100, 0, 64)],
            duties: Vec::new(),
            sealed: false,
            closes_in_ms: 4_000,
            starts_in_ms: 6_000,
            reserve: 100,
            budget_percent: 110,
            limit_s: 120,
        }
    }
}

pub fn rfc3339(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).expect("a time")
}

impl Person {
    /// Uploads one file as the only edition of a new content.
    pub async fn publish(&self, name: &str, bytes: Vec<u8>) -> Published {
        self.publish_cut_by(Chunking::ContentDefined, name, bytes).await
    }

    pub async fn publish_cut_by(&self, chunking: Chunking, name: &str, bytes: Vec<u8>) -> Published {
        let content: Content = self.post("/v1/contents", &json!({ "title": name })).await.expect();
        self.upload(&content, name, chunking, bytes).await
    }

    pub async fn publish_into(&self, content: &Content, label: &str, bytes: Vec<u8>) -> Published {
        self.upload(content, label, Chunking::ContentDefined, bytes).await
    }

    async fn upload(&self, content: &Content, label: &str, chunking: Chunking, bytes: Vec<u8>) -> Published {
        let new = json!({ "label": label, "chunking": chunking, "files": [{ "path": label, "length": bytes.len() }] });
        let upload: Upload = self.post(&format!("/v1/contents/{}/uploads", content.id), &new).await.expect();
        let request = self.http.put(format!("{}/v1/uploads/{}", self.url, upload.id)).header("Content-Type", "application/octet-stream");
        let edition: Edition = self.send(request.body(bytes)).await.expect();
        Published { content: content.clone(), edition }
    }

    pub async fn manifest(&self, edition: EditionId) -> Manifest {
        let request = self.http.get(format!("{}/v1/editions/{edition}/manifest", self.url)).bearer_auth(&self.token);
        let bytes = request.send().await.expect("an answer").bytes().await.expect("a body");
        Manifest::decode(&bytes).expect("a manifest")
    }

    /// The body of a release of `published` that opens now.
    pub fn release_body(published: &[&Published], plan: &Plan) -> serde_json::Value {
        let now = OffsetDateTime::now_utc();
        let mut ranks: Vec<_> = plan
            .ranks
            .iter()
            .map(|(weight, delay_s, capacity)| json!({ "weight": weight, "delay_s": delay_s, "capacity": capacity }))
            .collect();
        for (rank, (after_s, deposit)) in ranks.iter_mut().zip(&plan.duties) {
            rank["duty"] = json!({ "after_s": after_s, "deposit": money(*deposit) });
        }
        let size: u64 = published.iter().map(|published| published.edition.length.0).sum();
        json!({
            "content_id": published[0].content.id,
            "title": "A release",
            "sealed": plan.sealed,
            "editions": published.iter().map(|published| published.edition.id).collect::<Vec<_>>(),
            "ranks": ranks,
            "reserve": money(plan.reserve),
            "opens_at": rfc3339(now - time::Duration::seconds(1)),
            "closes_at": rfc3339(now + time::Duration::milliseconds(plan.closes_in_ms)),
            "starts_at": rfc3339(now + time::Duration::milliseconds(plan.starts_in_ms)),
            "origin_budget": (size * plan.budget_percent).div_ceil(100),
            "relay_share": 5000,
            "fee": 200,
            "limit_s": plan.limit_s,
        })
    }

    pub async fn schedule(&self, published: &[&Published], plan: &Plan) -> Release {
        self.post("/v1/releases", &Self::release_body(published, plan)).await.expect()
    }

    pub async fn release(&self, id: ReleaseId) -> Release {
        self.get(&format!("/v1/releases/{id}")).await.expect()
    }

    pub async fn apply(&self, release: &Release, terminal_id: TerminalId, rank: u32, maximum: u64) -> crate::person::Answer {
        let body =
            json!({ "terminal_id": terminal_id, "edition_id": release.editions[0].edition_id, "rank": rank, "maximum": money(maximum) });
        self.post(&format!("/v1/releases/{}/applications", release.id), &body).await
    }

    pub async fn applied(&self, release: &Release, terminal_id: TerminalId, rank: u32, maximum: u64) -> Application {
        self.apply(release, terminal_id, rank, maximum).await.expect()
    }

    /// Every delivery that this person may see.
    pub async fn deliveries(&self, release: ReleaseId) -> Vec<Delivery> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let page: Page<Delivery> = self.get(&format!("/v1/releases/{release}/deliveries?limit=100{cursor}")).await.expect();
            items.extend(page.items);
            let Some(next) = page.next_cursor else { return items };
            cursor = format!("&cursor={next}");
        }
    }
}
