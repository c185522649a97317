//! What swarms are called: the release's title and the edition's label, asked of the server once per swarm.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use protocol::{EditionId, ReleaseId, SwarmId};
use terminal::api::Api;
use tokio::task::JoinSet;

use crate::screen::{Named, clean};

/// A name is a convenience: longer than this nobody waits for one.
const ASK_MAX: Duration = Duration::from_secs(3);

/// Names that are being asked for.
#[derive(Debug)]
pub(super) struct Names {
    api: Arc<Api>,
    known: BTreeSet<SwarmId>,
    asking: JoinSet<Named>,
}

impl Names {
    pub(super) fn new(api: Arc<Api>) -> Self {
        Self { api, known: BTreeSet::new(), asking: JoinSet::new() }
    }

    /// Asks, unless this swarm's name was asked for before.
    pub(super) fn ask(&mut self, swarm: SwarmId, release: ReleaseId, edition: EditionId) {
        if !self.known.insert(swarm) {
            return;
        }
        let api = Arc::clone(&self.api);
        self.asking.spawn(async move {
            let name = match tokio::time::timeout(ASK_MAX, api.release(release)).await {
                Ok(Ok(release)) => {
                    let label = release.editions.iter().find(|candidate| candidate.edition_id == edition).map(|found| found.label.as_str());
                    label.map_or_else(|| clean(&release.title), |label| format!("{} ({})", clean(&release.title), clean(label)))
                }
                Ok(Err(_)) | Err(_) => release.to_string(),
            };
            Named { swarm, name }
        });
    }

    /// The next answer; `None` if none is being waited for.
    pub(super) async fn next(&mut self) -> Option<Named> {
        self.asking.join_next().await?.ok()
    }
}
