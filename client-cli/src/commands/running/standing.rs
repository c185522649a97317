//! How this terminal's applications stand: told when it changes. The engine hears nothing before a release is decided, and nothing at all when an
//! application has lost.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use protocol::rest::{Application, ApplicationState, Release};
use protocol::{ApplicationId, ReleaseId, TerminalId};
use terminal::api::Api;
use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::super::{all_pages, chosen_releases, has_ended};
use crate::failure::Outcome;
use crate::screen::Standing;

/// For applications that are made, changed or withdrawn while this runs.
const ASK_SELDOM: Duration = Duration::from_secs(30);
/// After a closing the decision is a matter of moments.
const ASK_OFTEN: Duration = Duration::from_secs(2);
/// Changes that wait to be shown; whoever tells them waits for room.
pub(super) const CHANGES_MAX: usize = 4;

/// The applications of this terminal to the releases named (or to all) that have not ended.
pub(super) async fn own_applications(api: &Api, terminal: TerminalId, named: &[ReleaseId]) -> Outcome<Vec<(Release, Application)>> {
    let mut own = Vec::new();
    for release in chosen_releases(api, named, false).await?.releases.into_iter().filter(|release| !has_ended(release)) {
        let applications = all_pages(async |page| api.applications(release.id, page).await).await?;
        own.extend(
            applications
                .into_iter()
                .filter(|application| application.terminal_id == terminal)
                .map(|application| (release.clone(), application)),
        );
    }
    Ok(own)
}

/// Asks for ever. The first answer is how all of them stand, even if there are none; each later one is what has changed.
pub(super) async fn watch(api: &Api, terminal: TerminalId, named: &[ReleaseId], news: mpsc::Sender<Vec<Standing>>) -> Infallible {
    let mut told = Told::default();
    let mut is_first = true;
    loop {
        // A server that cannot be asked now is asked again; the engine tells that the connection is gone.
        if let Ok(standings) = current(api, terminal, named, &told).await {
            let changed = told.news(standings);
            if is_first || !changed.is_empty() {
                // Whoever listens no more polls this no more either.
                let _ = news.send(changed).await;
            }
            is_first = false;
        }
        tokio::time::sleep(told.ask_in(OffsetDateTime::now_utc())).await;
    }
}

/// Those of releases that go on, and those that were undecided and whose release has ended meanwhile.
async fn current(api: &Api, terminal: TerminalId, named: &[ReleaseId], told: &Told) -> Outcome<Vec<Standing>> {
    let mut standings: Vec<Standing> =
        own_applications(api, terminal, named).await?.iter().map(|(release, application)| Standing::of(release, application)).collect();
    for id in told.undecided() {
        if !standings.iter().any(|standing| standing.application.id == id) {
            let application = api.application(id).await?;
            standings.push(Standing::of(&api.release(application.release_id).await?, &application));
        }
    }
    Ok(standings)
}

/// What the screen knows.
#[derive(Debug, Default)]
struct Told(BTreeMap<ApplicationId, Standing>);

impl Told {
    fn undecided(&self) -> Vec<ApplicationId> {
        self.0
            .values()
            .filter(|standing| standing.application.state == ApplicationState::Active)
            .map(|standing| standing.application.id)
            .collect()
    }

    /// What of `now` is new. An application that was withdrawn before it was seen is nobody's news.
    fn news(&mut self, now: Vec<Standing>) -> Vec<Standing> {
        let mut news = Vec::new();
        for standing in now {
            let known = self.0.get(&standing.application.id).map(|known| known.application.state);
            if known == Some(standing.application.state) || (known.is_none() && standing.application.state == ApplicationState::Withdrawn) {
                continue;
            }
            self.0.insert(standing.application.id, standing.clone());
            news.push(standing);
        }
        news
    }

    /// How long to wait before asking again: until shortly after the next decision, and not for long.
    fn ask_in(&self, now: OffsetDateTime) -> Duration {
        let undecided = self.0.values().filter(|standing| standing.application.state == ApplicationState::Active);
        let next = undecided.map(|standing| standing.decided_at).min();
        let left = next.map(|decided_at| Duration::try_from(decided_at - now).unwrap_or_default());
        left.map_or(ASK_SELDOM, |left| left.clamp(ASK_OFTEN, ASK_SELDOM))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screen::standing_for_tests as standing;

    #[test]
    fn a_change_is_told_once() {
        let mut told = Told::default();
        let states = |news: Vec<Standing>| news.into_iter().map(|standing| standing.application.state).collect::<Vec<_>>();
        assert_eq!(states(told.news(vec![standing(1, ApplicationState::Active)])), [ApplicationState::Active]);
        assert_eq!(told.undecided().len(), 1);
        assert_eq!(states(told.news(vec![standing(1, ApplicationState::Active)])), []);
        assert_eq!(states(told.news(vec![standing(1, ApplicationState::Lost)])), [ApplicationState::Lost]);
        assert_eq!(states(told.news(vec![standing(1, ApplicationState::Lost)])), []);
        assert!(told.undecided().is_empty());
    }

    #[test]
    fn an_application_that_was_withdrawn_is_told_only_to_whom_it_was_told_before() {
        let mut told = Told::default();
        assert!(told.news(vec![standing(1, ApplicationState::Withdrawn)]).is_empty());
        told.news(vec![standing(2, ApplicationState::Active)]);
        assert_eq!(told.news(vec![standing(2, ApplicationState::Withdrawn)]).len(), 1);
    }

    #[test]
    fn the_server_is_asked_soon_after_a_decision_and_seldom_otherwise() {
        let mut told = Told::default();
        let decided_at = standing(1, ApplicationState::Active).decided_at;
        assert_eq!(told.ask_in(decided_at), ASK_SELDOM);
        told.news(vec![standing(1, ApplicationState::Active)]);
        for (before_s, seconds) in [(3600, 30), (10, 10), (1, 2), (0, 2), (-60, 2)] {
            assert_eq!(told.ask_in(decided_at - time::Duration::seconds(before_s)), Duration::from_secs(seconds), "{before_s}");
        }
        told.news(vec![standing(1, ApplicationState::Won)]);
        assert_eq!(told.ask_in(decided_at), ASK_SELDOM);
    }
}
