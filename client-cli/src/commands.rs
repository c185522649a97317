//! What each command does: read the folder, ask the server, report. The output is made in `screen`.

mod account;
mod application;
mod audit;
mod book;
mod contents;
mod credentials;
mod getting;
mod kit;
mod listing;
mod measure;
mod money;
mod offering;
mod publication;
mod quarantine;
mod release;
mod report;
mod running;
mod status;
mod tariff;
mod webhook;

use std::path::{Path, PathBuf};

use protocol::rest::{Content, Edition, Page, Release, ReleaseEdition};
use protocol::{Currency, EditionId, ReleaseId};
use terminal::api::{Api, ApiError, PageQuery};

use crate::arguments::{Command, ReleaseCommand, VoucherCommand};
use crate::failure::{Failure, Outcome};
use crate::folder::Folder;
use crate::kit::Kit;
use crate::password;
use crate::screen::clean;
use crate::session::Login;

/// What every command needs.
#[derive(Debug)]
pub(crate) struct Setting {
    /// The kit's, if there is one.
    pub folder: Folder,
    pub kit: Option<Kit>,
    pub json: bool,
}

impl Setting {
    /// Opens the kit, or finds the configuration folder.
    pub(crate) fn open(config: Option<PathBuf>, kit: Option<&Path>, json: bool) -> Outcome<Self> {
        let Some(dir) = kit else { return Ok(Self { folder: Folder::locate(config)?, kit: None, json }) };
        Kit::expect(dir)?;
        let kit = Kit::open(dir, &password::kit_passphrase()?)?;
        Ok(Self { folder: kit.folder.clone(), kit: Some(kit), json })
    }
}

/// Runs one command and prints its result. A kit's balance is brought up to date before, which finds out a copy, and after.
pub(crate) async fn run(command: Command, setting: &Setting) -> Outcome<()> {
    let Some(kit) = setting.kit.as_ref().filter(|_| asks_for_the_balance(&command)) else {
        return run_command(command, setting).await;
    };
    let api = Login::from_folder(&setting.folder)?.api;
    if let Some(fault) = kit.catch_up(&api).await? {
        kit::warn(&format!("{fault}; the service's stands there again"));
    }
    let outcome = run_command(command, setting).await;
    if let Err(failure) = kit.catch_up(&api).await {
        kit::warn(&format!("the balance in the kit is not the last one: {failure}"));
    }
    outcome
}

/// Whether a command needs the service anyway, with the login that the kit has.
fn asks_for_the_balance(command: &Command) -> bool {
    !matches!(command, Command::Kit(_) | Command::Register(_) | Command::Login(_) | Command::Logout)
}

async fn run_command(command: Command, setting: &Setting) -> Outcome<()> {
    let folder = &setting.folder;
    let report = match command {
        // Prints while it runs.
        Command::Run(arguments) => return running::run(arguments, setting).await,
        Command::Get(arguments) => return getting::get(arguments, setting).await,
        Command::Register(arguments) => account::register(arguments, folder).await,
        Command::Login(arguments) => account::login(arguments, folder).await,
        Command::Logout => credentials::logout(folder).await,
        Command::Password(arguments) => credentials::change_password(arguments, folder).await,
        Command::Publish(arguments) => publication::publish(arguments, setting).await,
        Command::Offer(arguments) => offering::offer(arguments, folder).await,
        Command::Tariff(command) => tariff::tariff(command, folder).await,
        Command::Webhook(command) => webhook::webhook(command, folder).await,
        Command::Contents(arguments) => contents::contents(arguments, folder).await,
        Command::Release(ReleaseCommand::Create(arguments)) => release::create(*arguments, folder).await,
        Command::Release(ReleaseCommand::Cancel(arguments)) => release::cancel(arguments.release, folder).await,
        Command::Release(ReleaseCommand::Abort(arguments)) => release::abort(arguments.release, folder).await,
        Command::Voucher(VoucherCommand::Create(arguments)) => money::create_vouchers(arguments, folder).await,
        Command::Role(arguments) => account::change_role(arguments, folder).await,
        Command::Redeem(arguments) => money::redeem(arguments, folder).await,
        Command::Wallet(arguments) => money::wallet(arguments, folder).await,
        Command::Kit(command) => kit::kit(command, setting).await,
        Command::Quarantine(command) => quarantine::quarantine(command, folder).await,
        Command::List(arguments) => listing::list(arguments, folder).await,
        Command::Apply(arguments) => application::apply(arguments, folder).await,
        Command::Measure(arguments) => measure::measure(arguments, folder).await,
        Command::Explain(arguments) => book::explain(arguments, folder).await,
        Command::Audit(arguments) => audit::audit(arguments, folder).await,
        Command::Report(arguments) => report::report(arguments, folder).await,
        Command::Status(arguments) => status::status(arguments, folder).await,
    }?;
    report.print(setting.json)
}

/// As many items a page as the server gives.
const PAGE_ITEMS: u32 = 100;

/// Every item of a list, page after page.
async fn all_pages<T>(read: impl AsyncFn(&PageQuery) -> Result<Page<T>, ApiError>) -> Outcome<Vec<T>> {
    let mut items = Vec::new();
    let mut query = PageQuery { limit: Some(PAGE_ITEMS), cursor: None };
    loop {
        let page = read(&query).await?;
        items.extend(page.items);
        match page.next_cursor {
            None => return Ok(items),
            next if next == query.cursor => return Err(Failure::Unavailable("the server's list does not end".into())),
            next => query.cursor = next,
        }
    }
}

/// The currency of the service: amounts are typed without one.
async fn currency(api: &Api) -> Outcome<Currency> {
    Ok(api.wallet().await?.available.currency)
}

/// An edition that can be named by its label or its id.
trait Named {
    fn label(&self) -> &str;
    fn id(&self) -> EditionId;
}

impl Named for Edition {
    fn label(&self) -> &str {
        &self.label
    }
    fn id(&self) -> EditionId {
        self.id
    }
}

impl Named for ReleaseEdition {
    fn label(&self) -> &str {
        &self.label
    }
    fn id(&self) -> EditionId {
        self.edition_id
    }
}

/// The edition that `name` names, by label first.
fn edition_named<'a, E: Named>(editions: &'a [E], name: &str) -> Outcome<&'a E> {
    let by_id = |edition: &&E| edition.id().to_string() == name;
    editions.iter().find(|edition| edition.label() == name).or_else(|| editions.iter().find(by_id)).ok_or_else(|| {
        let labels: Vec<String> = editions.iter().map(|edition| clean(edition.label())).collect();
        Failure::Usage(format!("there is no edition {name:?}; there are: {}", labels.join(", ")))
    })
}

/// The edition of a content that `name` names, or its only one.
fn chosen_edition<'a>(content: &'a Content, name: Option<&str>) -> Outcome<&'a Edition> {
    match (name, content.editions.as_slice()) {
        (Some(name), editions) => edition_named(editions, name),
        (None, [only]) => Ok(only),
        (None, []) => Err(Failure::Failed(format!("{} has no edition yet", clean(&content.title)))),
        (None, editions) => {
            let labels: Vec<String> = editions.iter().map(|edition| clean(&edition.label)).collect();
            Err(Failure::Usage(format!("choose one of the editions with --edition: {}", labels.join(", "))))
        }
    }
}

/// The states after which nothing more happens.
fn has_ended(release: &Release) -> bool {
    use protocol::rest::ReleaseState;
    match release.state {
        ReleaseState::Draft | ReleaseState::Open | ReleaseState::Closed | ReleaseState::Live => false,
        ReleaseState::Settled | ReleaseState::Cancelled | ReleaseState::Aborted => true,
    }
}

/// Releases to show, and how many were left out because they are over.
#[derive(Debug, Default)]
struct Chosen {
    releases: Vec<Release>,
    over: usize,
}

/// The releases that were named, or all that have not ended, or all.
async fn chosen_releases(api: &Api, named: &[ReleaseId], all: bool) -> Outcome<Chosen> {
    if !named.is_empty() {
        let mut releases = Vec::with_capacity(named.len());
        for &id in named {
            releases.push(api.release(id).await?);
        }
        return Ok(Chosen { releases, over: 0 });
    }
    let mut releases = all_pages(async |page| api.releases(page).await).await?;
    let found = releases.len();
    releases.retain(|release| all || !has_ended(release));
    let over = found - releases.len();
    Ok(Chosen { releases, over })
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Blake3, Bytes};
    use std::cell::RefCell;

    fn edition(label: &str, id: u8) -> Edition {
        Edition {
            id: EditionId([id; 32]),
            label: label.into(),
            directory: false,
            length: Bytes(1),
            chunks: 1,
            blake3: Blake3([0; 32]),
            created_at: time::OffsetDateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn an_edition_is_found_by_its_label_before_its_id() {
        let hostile_label = EditionId([1; 32]).to_string();
        let editions = [edition("en", 1), edition("fr", 2), edition(&hostile_label, 3)];
        assert_eq!(edition_named(&editions, "fr").unwrap().id, EditionId([2; 32]));
        assert_eq!(edition_named(&editions, &EditionId([2; 32]).to_string()).unwrap().label, "fr");
        assert_eq!(edition_named(&editions, &hostile_label).unwrap().id, EditionId([3; 32]));
        let failure = edition_named(&editions[..2], "de").unwrap_err();
        assert_eq!(failure.exit_code(), 2);
        assert!(failure.to_string().contains("en, fr"), "{failure}");
    }

    #[tokio::test]
    async fn pages_are_read_to_the_end_and_a_list_that_repeats_itself_is_not_followed() {
        let asked = RefCell::new(Vec::new());
        let read = async |query: &PageQuery| {
            asked.borrow_mut().push(query.clone());
            let page: u32 = query.cursor.as_deref().map_or(0, |cursor| cursor.parse().unwrap());
            Ok(Page { items: vec![page], next_cursor: (page < 2).then(|| (page + 1).to_string()) })
        };
        assert_eq!(all_pages(read).await.unwrap(), [0, 1, 2]);
        assert!(asked.borrow().iter().all(|query| query.limit == Some(100)));
        let endless = async |_: &PageQuery| Ok(Page { items: vec![1], next_cursor: Some("same".into()) });
        assert_eq!(all_pages(endless).await.unwrap_err().exit_code(), 5);
    }
}
