//! `release create`, `release cancel` and `release abort`.

use protocol::rest::{Content, Edition, NewRelease, Rank, RelayDuty};
use protocol::{Bytes, Currency, Money, ReleaseId};
use time::OffsetDateTime;

use super::{currency, edition_named};
use crate::arguments::NewReleaseArguments;
use crate::failure::{Failure, Outcome};
use crate::folder::Folder;
use crate::screen::{Report, release_page};
use crate::session::Login;
use crate::values::DutyOfRank;

pub(super) async fn create(arguments: NewReleaseArguments, folder: &Folder) -> Outcome<Report> {
    let api = Login::from_folder(folder)?.api;
    let content = api.content(arguments.content).await?;
    let currency = currency(&api).await?;
    let now = OffsetDateTime::now_utc();
    let release = api.create_release(&described(arguments, &content, currency, now)?).await?;
    let mut text = release_page(&release, now);
    if release.reserve.amount.0 == 0 {
        text.push_str(FREE_PLACES);
    }
    Report::new(&release, text)
}

/// What a publisher who left `--reserve` out may not have meant.
const FREE_PLACES: &str = "\nNote: without a --reserve, places that nobody competes for cost nothing.\n";

/// The release that the arguments describe.
fn described(arguments: NewReleaseArguments, content: &Content, currency: Currency, now: OffsetDateTime) -> Outcome<NewRelease> {
    let editions: Vec<&Edition> = if arguments.editions.is_empty() {
        content.editions.iter().collect()
    } else {
        arguments.editions.iter().map(|name| edition_named(&content.editions, name)).collect::<Outcome<_>>()?
    };
    if editions.is_empty() {
        return Err(Failure::Usage("the content has no edition yet: add one with `spillway publish --content`".into()));
    }
    let sum = Bytes(editions.iter().map(|edition| edition.length.0).sum());
    Ok(NewRelease {
        content_id: content.id,
        title: arguments.title.unwrap_or_else(|| content.title.clone()),
        sealed: arguments.sealed,
        editions: editions.iter().map(|edition| edition.id).collect(),
        ranks: with_duties(arguments.ranks, &arguments.duties, currency)?,
        selection: arguments.selection.into(),
        reserve: Money { amount: arguments.reserve, currency },
        opens_at: arguments.opens.resolve(now),
        closes_at: arguments.closes.resolve(now),
        starts_at: arguments.starts.resolve(now),
        origin_budget: arguments.origin_budget.bytes(sum),
        relay_share: arguments.relay_share,
        fee: arguments.fee,
        limit_s: arguments.limit_s,
        primaries_max: arguments.primaries_max,
        places_max: arguments.places_max,
        wave_interval_s: arguments.wave_interval_s,
    })
}

/// The ranks with what each of them owes.
fn with_duties(mut ranks: Vec<Rank>, duties: &[DutyOfRank], currency: Currency) -> Outcome<Vec<Rank>> {
    let count = ranks.len();
    for duty in duties {
        let rank = usize::try_from(duty.rank).ok().and_then(|number| ranks.get_mut(number.checked_sub(1)?));
        let rank = rank.ok_or_else(|| Failure::Usage(format!("--duty names rank {}, and there are {count}", duty.rank)))?;
        let deposit = Money { amount: duty.deposit, currency };
        if rank.duty.replace(RelayDuty { after_s: duty.after_s, deposit }).is_some() {
            return Err(Failure::Usage(format!("--duty names rank {} twice", duty.rank)));
        }
    }
    Ok(ranks)
}

pub(super) async fn cancel(release: ReleaseId, folder: &Folder) -> Outcome<Report> {
    let release = Login::from_folder(folder)?.api.cancel_release(release).await?;
    let text = release_page(&release, OffsetDateTime::now_utc());
    Report::new(&release, text)
}

pub(super) async fn abort(release: ReleaseId, folder: &Folder) -> Outcome<Report> {
    let release = Login::from_folder(folder)?.api.abort_release(release).await?;
    let text = release_page(&release, OffsetDateTime::now_utc());
    Report::new(&release, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Arguments, Command, ReleaseCommand};
    use clap::Parser;
    use protocol::rest::Selection;
    use protocol::{Amount, Blake3, ContentId, EditionId, UserId};
    use time::Duration;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);

    fn content(labels: &[&str]) -> Content {
        let edition = |(label, number): (&&str, u8)| Edition {
            id: EditionId([number; 32]),
            label: (*label).to_owned(),
            directory: false,
            length: Bytes(1_000_000),
            chunks: 16,
            blake3: Blake3([0; 32]),
            created_at: NOW,
        };
        Content {
            id: ContentId::from_bytes([9; 16]),
            publisher_id: UserId::from_bytes([1; 16]),
            title: "Film".into(),
            editions: labels.iter().zip(1..).map(edition).collect(),
            created_at: NOW,
        }
    }

    fn arguments(more: &str) -> NewReleaseArguments {
        let line = format!(
            "spillway release create --content 09090909-0909-0909-0909-090909090909 --rank 100:0:1 --rank 60:5:16 --closes +10s --starts +15s {more}"
        );
        let parsed = Arguments::try_parse_from(line.split_whitespace()).unwrap();
        let Command::Release(ReleaseCommand::Create(arguments)) = parsed.command else { panic!("another command") };
        *arguments
    }

    #[test]
    fn a_release_takes_all_editions_and_the_contents_title_unless_told_otherwise() {
        let release = described(arguments(""), &content(&["en", "fr"]), Currency::EUR, NOW).unwrap();
        assert_eq!(release.title, "Film");
        assert_eq!(release.editions, [EditionId([1; 32]), EditionId([2; 32])]);
        assert_eq!(
            release.ranks,
            [
                Rank { weight: 100, delay_s: 0, capacity: Some(1), duty: None },
                Rank { weight: 60, delay_s: 5, capacity: Some(16), duty: None }
            ]
        );
        assert_eq!(release.selection, Selection::Auction);
        assert_eq!(
            (release.opens_at, release.closes_at, release.starts_at),
            (NOW, NOW + Duration::seconds(10), NOW + Duration::seconds(15))
        );
        assert_eq!(release.origin_budget, Bytes(2_200_000));
        assert_eq!((release.relay_share.get(), release.fee.get(), release.limit_s), (5000, 200, 3600));
        assert_eq!(release.reserve, Money { amount: Amount(0), currency: Currency::EUR });
    }

    #[test]
    fn a_multiple_as_budget_counts_the_editions_that_take_part() {
        let line = "--edition fr --origin-budget 1.5x --title Premiere --reserve 1.00 --selection first-come";
        let release = described(arguments(line), &content(&["en", "fr"]), Currency::EUR, NOW).unwrap();
        assert_eq!(release.editions, [EditionId([2; 32])]);
        assert_eq!(release.origin_budget, Bytes(1_500_000));
        assert_eq!((release.title.as_str(), release.reserve.amount, release.selection), ("Premiere", Amount(100), Selection::FirstCome));
    }

    #[test]
    fn a_content_without_the_edition_is_refused_here() {
        assert_eq!(described(arguments("--edition de"), &content(&["en"]), Currency::EUR, NOW).unwrap_err().exit_code(), 2);
        assert!(described(arguments(""), &content(&[]), Currency::EUR, NOW).unwrap_err().to_string().contains("no edition yet"));
    }

    #[test]
    fn a18_a_duty_belongs_to_a_rank_that_there_is_once() {
        let named = |duties| described(arguments(duties), &content(&["en"]), Currency::EUR, NOW);
        let release = named("--duty 1:30m:2 --duty 2:90s:0.50").unwrap();
        let duty = |after_s, amount| Some(RelayDuty { after_s, deposit: Money { amount: Amount(amount), currency: Currency::EUR } });
        assert_eq!(release.ranks.iter().map(|rank| rank.duty).collect::<Vec<_>>(), [duty(1_800, 200), duty(90, 50)]);
        for wrong in ["--duty 3:30m:2", "--duty 1:30m:2 --duty 1:60m:3"] {
            assert!(matches!(named(wrong), Err(Failure::Usage(_))), "{wrong}");
        }
    }
}
