//! `apply`: to bid for a place, to change the bid, to withdraw it.

use protocol::rest::{Application, ApplicationState, ChangeApplication, NewApplication, Release};
use protocol::{Money, TerminalId};
use terminal::api::Api;

use super::{all_pages, edition_named};
use crate::arguments::ApplyArguments;
use crate::failure::{Failure, Outcome};
use crate::folder::Folder;
use crate::screen::{Report, application_line, clean, date_time};
use crate::session::Login;

const BEST_RANK: u32 = 1;

pub(super) async fn apply(arguments: ApplyArguments, folder: &Folder) -> Outcome<Report> {
    let login = Login::from_folder(folder)?;
    let (_, terminal) = login.terminal(folder)?;
    let api = login.api;
    let release = api.release(arguments.release).await?;
    let application = if arguments.withdraw {
        withdraw(&api, &release, terminal).await?
    } else if arguments.change {
        let current = active_application(&api, &release, terminal).await?;
        let change = changed(&arguments, &release, &current)?;
        api.change_application(current.id, current.version, &change).await?
    } else {
        api.create_application(release.id, &new_application(&arguments, &release, terminal)?).await?
    };
    let mut text = format!("{}: {}", clean(&release.title), application_line(&application, &release));
    if application.state == ApplicationState::Active {
        text.push_str(&format!("\nThe release is decided at {}.", date_time(release.closes_at)));
    }
    Report::new(&application, text)
}

async fn withdraw(api: &Api, release: &Release, terminal: TerminalId) -> Outcome<Application> {
    let current = active_application(api, release, terminal).await?;
    api.withdraw_application(current.id).await?;
    Ok(api.application(current.id).await?)
}

async fn active_application(api: &Api, release: &Release, terminal: TerminalId) -> Outcome<Application> {
    let applications = all_pages(async |page| api.applications(release.id, page).await).await?;
    applications
        .into_iter()
        .find(|application| application.terminal_id == terminal && application.state == ApplicationState::Active)
        .ok_or_else(|| {
            Failure::Failed("this terminal has no application to that release that could be changed: see `spillway status`".into())
        })
}

fn new_application(arguments: &ApplyArguments, release: &Release, terminal_id: TerminalId) -> Outcome<NewApplication> {
    let edition_id = match (&arguments.edition, release.editions.as_slice()) {
        (Some(name), editions) => edition_named(editions, name)?.edition_id,
        (None, [only]) => only.edition_id,
        (None, editions) => {
            let labels: Vec<String> = editions.iter().map(|edition| clean(&edition.label)).collect();
            return Err(Failure::Usage(format!("choose one of the editions with --edition: {}", labels.join(", "))));
        }
    };
    // The command line demands it; a maximum of nothing is the safe reading if it ever does not.
    let amount = arguments.maximum.unwrap_or_default();
    let maximum = Money { amount, currency: release.reserve.currency };
    Ok(NewApplication { terminal_id, edition_id, rank: arguments.rank.unwrap_or(BEST_RANK), maximum })
}

/// What is not given stays as it was.
fn changed(arguments: &ApplyArguments, release: &Release, current: &Application) -> Outcome<ChangeApplication> {
    let edition_id = match &arguments.edition {
        Some(name) => edition_named(&release.editions, name)?.edition_id,
        None => current.edition_id,
    };
    let amount = arguments.maximum.unwrap_or(current.maximum.amount);
    let maximum = Money { amount, currency: release.reserve.currency };
    Ok(ChangeApplication { edition_id, rank: arguments.rank.unwrap_or(current.rank_wanted), maximum })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Arguments, Command};
    use clap::Parser;
    use protocol::rest::{OriginUsage, Rank, ReleaseEdition, ReleaseState, Selection};
    use protocol::*;
    use time::OffsetDateTime;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-21 12:00 UTC);

    fn release(labels: &[&str]) -> Release {
        let edition = |(label, number): (&&str, u8)| ReleaseEdition {
            swarm_id: SwarmId::from_bytes([number; 16]),
            edition_id: EditionId([number; 32]),
            label: (*label).to_owned(),
            length: Bytes(1),
            chunks: 1,
            applications: 0,
            places: Vec::new(),
        };
        Release {
            id: ReleaseId::from_bytes([9; 16]),
            publisher_id: UserId::from_bytes([1; 16]),
            content_id: ContentId::from_bytes([2; 16]),
            title: "Film".into(),
            state: ReleaseState::Open,
            editions: labels.iter().zip(1..).map(edition).collect(),
            ranks: vec![Rank { weight: 1, delay_s: 0, capacity: Some(1), duty: None }],
            waves: Vec::new(),
            primaries_max: 16,
            places_max: None,
            wave_interval_s: None,
            sealed: false,
            selection: Selection::Auction,
            reserve: Money { amount: Amount(100), currency: "USD".parse().unwrap() },
            opens_at: NOW,
            closes_at: NOW,
            starts_at: NOW,
            deadline_at: NOW,
            relay_share: BasisPoints::ALL,
            fee: BasisPoints::ALL,
            limit_s: 1,
            origin: OriginUsage { budget: Bytes(1), sent: Bytes(0), reserved: Bytes(0) },
            book_hash: None,
        }
    }

    fn arguments(more: &str) -> ApplyArguments {
        let line = format!("spillway apply 09090909-0909-0909-0909-090909090909 {more}");
        let Command::Apply(arguments) = Arguments::try_parse_from(line.split_whitespace()).unwrap().command else {
            panic!("another command")
        };
        arguments
    }

    fn applied() -> Application {
        Application {
            bid_id: protocol::BidId::from_bytes([7; 16]),
            id: ApplicationId::from_bytes([1; 16]),
            release_id: ReleaseId::from_bytes([9; 16]),
            terminal_id: TerminalId::from_bytes([5; 16]),
            edition_id: EditionId([2; 32]),
            rank_wanted: 3,
            maximum: Money { amount: Amount(700), currency: "USD".parse().unwrap() },
            deposit: None,
            state: ApplicationState::Active,
            applied_at: NOW,
            award: None,
            version: 4,
        }
    }

    #[test]
    fn a_bid_is_for_the_only_edition_and_the_best_rank_in_the_releases_currency() {
        let terminal = TerminalId::from_bytes([5; 16]);
        let bid = new_application(&arguments("--maximum 5.50"), &release(&["en"]), terminal).unwrap();
        assert_eq!((bid.terminal_id, bid.edition_id, bid.rank), (terminal, EditionId([1; 32]), 1));
        assert_eq!(bid.maximum.to_string(), "5.50 USD");
        let bid = new_application(&arguments("--maximum 5 --edition fr --rank 2"), &release(&["en", "fr"]), terminal).unwrap();
        assert_eq!((bid.edition_id, bid.rank), (EditionId([2; 32]), 2));
    }

    #[test]
    fn one_of_several_editions_must_be_chosen() {
        let failure = new_application(&arguments("--maximum 5"), &release(&["en", "fr"]), TerminalId::from_bytes([5; 16])).unwrap_err();
        assert_eq!(failure.exit_code(), 2);
        assert!(failure.to_string().contains("en, fr"), "{failure}");
    }

    #[test]
    fn a_change_leaves_what_is_not_given_as_it_was() {
        let cases = [
            ("--change --maximum 9", (2, 3, 900)),
            ("--change --rank 1", (2, 1, 700)),
            ("--change --edition en", (1, 3, 700)),
            ("--change --edition en --rank 2 --maximum 0", (1, 2, 0)),
        ];
        for (line, (edition, rank, maximum)) in cases {
            let change = changed(&arguments(line), &release(&["en", "fr"]), &applied()).unwrap();
            assert_eq!(
                (change.edition_id, change.rank, change.maximum.amount),
                (EditionId([edition; 32]), rank, Amount(maximum)),
                "{line}"
            );
        }
        assert_eq!(changed(&arguments("--change --edition de"), &release(&["en"]), &applied()).unwrap_err().exit_code(), 2);
    }
}
