//! `get`: one edition now, at what it costs now, from terminals that have it.

use std::path::PathBuf;

use protocol::rest::{Content, Download, DownloadState, Edition, NewDownload, PriceQuote, TariffTerms};
use protocol::{Amount, Bytes, ContentId, EditionId, Money, TerminalId};
use serde_json::json;
use terminal::api::Api;
use terminal::engine::EngineError;
use terminal::store::{Store, most_room};

use super::running::{Signals, Work, attend, engine_failure, make_folder, quota};
use super::{Setting, all_pages, chosen_edition, currency};
use crate::arguments::{GetArguments, RunArguments};
use crate::failure::{Failure, Outcome};
use crate::screen::{Report, clean, date_time, print_line, quote_line};
use crate::session::Login;

pub(super) async fn get(arguments: GetArguments, setting: &Setting) -> Outcome<()> {
    // Before anything else, so that no interrupt is lost.
    let signals = Signals::listen()?;
    let login = Login::from_folder(&setting.folder)?;
    let (file, terminal) = login.terminal(&setting.folder)?;
    let content = login.api.content(arguments.content).await?;
    let edition = chosen_edition(&content, arguments.edition.as_deref())?;
    let name = format!("{} ({})", clean(&content.title), clean(&edition.label));
    if arguments.quote {
        return quote(&login.api, &content, edition, terminal, &name).await?.print(setting.json);
    }
    if arguments.cancel {
        return cancel(&login.api, &content, edition, terminal, &name).await?.print(setting.json);
    }
    let _claim = setting.folder.claim_run()?;
    make_folder(&arguments.dir)?;
    if let Some(path) = held(arguments.dir.clone(), edition).await {
        let facts = json!({ "event": "held", "edition_id": edition.id, "path": path });
        return Report::new(&facts, format!("{name} is here already, in {}; nothing to pay", path.display()))?.print(setting.json);
    }
    if let Some(quota) = quota(arguments.store_quota, &file) {
        // Said before the price is held: no eviction makes room for it.
        let needed = most_room(&login.api.manifest(edition.id).await?);
        if needed > quota {
            return Err(engine_failure(EngineError::Quota { needed, quota }));
        }
    }
    let priced = Priced::now(&login.api, content.id, edition.id, terminal).await?;
    if !setting.json {
        print_line(&price_line(&name, edition, priced.as_ref()))?;
    }
    let maximum = match (arguments.maximum, &priced) {
        (Some(amount), _) => Money { amount, currency: currency(&login.api).await? },
        (None, Some(priced)) => priced.quote.price,
        // What is not offered any more may run still; if it does not, the server says what is wrong.
        (None, None) => Money { amount: Amount(0), currency: currency(&login.api).await? },
    };
    let asked = NewDownload { terminal_id: terminal, edition_id: edition.id, maximum };
    let download = login.api.create_download(content.id, &asked).await?;
    // Its sources were selected behind the answer.
    let download = login.api.download(download.id).await?;
    if setting.json {
        print_line(&json!({ "event": "download", "download": download }).to_string())?;
    } else {
        download_lines(&name, &download).iter().try_for_each(|line| print_line(line))?;
    }
    let run = RunArguments {
        up_mbit: arguments.up_mbit,
        down_mbit: arguments.down_mbit,
        dir: arguments.dir,
        turn_only: arguments.turn_only,
        store_quota: arguments.store_quota,
        releases: vec![download.release_id],
        exit_when_done: false,
    };
    attend(run, Work::Download, signals, login, setting).await
}

/// Where the edition lies, if an earlier run has completed it in this folder.
async fn held(dir: PathBuf, edition: &Edition) -> Option<PathBuf> {
    let (release, _) = Store::complete_editions(dir.clone()).await.into_iter().find(|(_, held)| *held == edition.id)?;
    let (store, _) = Store::open_complete(dir.clone(), release, edition.id).await.ok().flatten()?;
    // Files that were removed or changed are not held; the first chunk tells of most.
    store.read(0).await.ok()?;
    Store::asked_for(dir, (release, edition.id)).await;
    Some(store.finish().await.ok()?.path)
}

/// Ends the download that runs for this terminal.
async fn cancel(api: &Api, content: &Content, edition: &Edition, terminal: TerminalId, name: &str) -> Outcome<Report> {
    let mine = all_pages(async |page| api.downloads(content.id, page).await).await?;
    let is_this = |download: &&Download| {
        download.state == DownloadState::Running && download.edition_id == edition.id && download.terminal_id == terminal
    };
    let running = mine.iter().find(is_this).map(|download| download.id);
    let running = running.ok_or_else(|| Failure::Failed(format!("no download of {name} runs for this terminal")))?;
    api.cancel_download(running).await?;
    let ended = api.download(running).await?;
    let text = format!("{name}: ended with {} of {}; paid {}", ended.verified, ended.length, ended.charged);
    Report::new(&ended, text)
}

/// What an edition costs now, with the terms that say why.
struct Priced {
    quote: PriceQuote,
    terms: Option<TariffTerms>,
}

impl Priced {
    /// `None` if it is not offered.
    async fn now(api: &Api, content: ContentId, edition: EditionId, terminal: TerminalId) -> Outcome<Option<Self>> {
        let Some(quote) = api.quote(content, edition, terminal).await? else { return Ok(None) };
        let terms = match quote.tariff {
            Some(tariff) => Some(api.tariff(tariff.tariff_id, Some(tariff.version)).await?.terms),
            None => None,
        };
        Ok(Some(Self { quote, terms }))
    }
}

async fn quote(api: &Api, content: &Content, edition: &Edition, terminal: TerminalId, name: &str) -> Outcome<Report> {
    let priced = Priced::now(api, content.id, edition.id, terminal).await?;
    let text = price_line(name, edition, priced.as_ref());
    let priced = priced.ok_or_else(|| Failure::Failed(text.clone()))?;
    Report::new(&priced.quote, text)
}

fn price_line(name: &str, edition: &Edition, priced: Option<&Priced>) -> String {
    match priced {
        Some(Priced { quote, terms }) => {
            format!("{name}: {} for {}; what does not arrive is not paid for", edition.length, quote_line(quote, terms.as_ref()))
        }
        None => format!("{name}: {}, not offered on demand", edition.length),
    }
}

fn download_lines(name: &str, download: &Download) -> Vec<String> {
    let mut lines = vec![format!("{name}: {} held until {}", download.price, date_time(download.deadline_at))];
    let serving: Vec<_> = download.sources.iter().filter(|source| source.serving).collect();
    for source in &serving {
        lines.push(format!("  from terminal {}: {}", source.terminal_id, clean(&source.reason)));
    }
    if serving.is_empty() {
        let left = Bytes(download.origin.budget.0.saturating_sub(download.origin.reserved.0));
        lines.push(if left.0 == 0 {
            "  nobody who has it is connected, and its publisher lets the origin send nothing (more): waiting for somebody; Ctrl-C keeps what has come".into()
        } else {
            format!("  nobody who has it is connected; the origin may send {left}")
        });
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::rest::{DownloadSource, OriginUsage};
    use protocol::*;
    use time::macros::datetime;

    fn download(sources: Vec<DownloadSource>, budget: u64, reserved: u64) -> Download {
        let money = |amount| Money { amount: Amount(amount), currency: Currency::EUR };
        Download {
            id: DownloadId::from_bytes([1; 16]),
            release_id: ReleaseId::from_bytes([1; 16]),
            swarm_id: SwarmId::from_bytes([2; 16]),
            delivery_id: DeliveryId::from_bytes([3; 16]),
            content_id: ContentId::from_bytes([4; 16]),
            edition_id: EditionId([5; 32]),
            label: "en".into(),
            length: Bytes(1 << 20),
            terminal_id: TerminalId::from_bytes([6; 16]),
            state: DownloadState::Running,
            tariff: None,
            price: money(150),
            charged: money(0),
            verified: Bytes(0),
            sources,
            origin: OriginUsage { budget: Bytes(budget), sent: Bytes(0), reserved: Bytes(reserved) },
            requested_at: datetime!(2026-11-21 12:00 UTC),
            deadline_at: datetime!(2026-11-22 12:00 UTC),
            completed_at: None,
        }
    }

    #[test]
    fn who_waits_is_told_for_what() {
        let text = |download: &Download| download_lines("Film (en)", download).join("\n");
        let nobody = text(&download(vec![], 0, 0));
        assert!(nobody.contains("1.50 EUR held until 2026-11-22") && nobody.contains("waiting for somebody"), "{nobody}");
        assert!(text(&download(vec![], 10, 10)).contains("waiting for somebody"));
        assert!(text(&download(vec![], 10 << 20, 0)).contains("the origin may send 10.0 MiB"));
        let source = |serving| DownloadSource {
            relay_share: None,
            terminal_id: TerminalId::from_bytes([9; 16]),
            serving,
            reason: "same region".into(),
            failure: None,
            bytes: Bytes(0),
            earned: Money { amount: Amount(0), currency: Currency::EUR },
        };
        assert!(text(&download(vec![source(true)], 0, 0)).contains(": same region"));
        assert!(text(&download(vec![source(false)], 0, 0)).contains("waiting for somebody"), "one that left does not count");
    }
}
