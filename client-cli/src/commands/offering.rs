//! `offer`: a content on demand, at a flat price or by a tariff.

use protocol::rest::{OnDemand, OnDemandTerms};
use protocol::{Bytes, Money};

use super::currency;
use crate::arguments::OfferArguments;
use crate::failure::{Failure, Outcome};
use crate::folder::Folder;
use crate::screen::{Report, clean, percent};
use crate::session::Login;

pub(super) async fn offer(arguments: OfferArguments, folder: &Folder) -> Outcome<Report> {
    let api = Login::from_folder(folder)?.api;
    let content = api.content(arguments.content).await?;
    let title = clean(&content.title);
    let present = api.on_demand(content.id).await?;
    if arguments.withdraw {
        let present = present.ok_or_else(|| Failure::Failed(format!("{title} is not offered on demand")))?;
        api.remove_on_demand(content.id, present.version).await?;
        return Report::new(&present, format!("{title} is not offered any longer. Downloads that run go on."));
    }
    let sum = Bytes(content.editions.iter().map(|edition| edition.length.0).sum());
    let price = match arguments.price {
        Some(amount) => Some(Money { amount, currency: currency(&api).await? }),
        None => None,
    };
    let terms = OnDemandTerms {
        price,
        relay_share: price.map(|_| arguments.relay_share),
        fee: price.map(|_| arguments.fee),
        tariff_id: arguments.tariff,
        origin_budget: arguments.origin_budget.bytes(sum),
        limit_s: arguments.limit_s,
    };
    let set = api.set_on_demand(content.id, &terms, present.map(|present| present.version)).await?;
    let text = format!("{title}: {}", terms_line(&set));
    Report::new(&set, text)
}

fn terms_line(terms: &OnDemand) -> String {
    let origin = match terms.origin.budget {
        Bytes(0) => "the origin sends nothing".to_owned(),
        budget => format!("the origin sends at most {budget}, {} of it so far", terms.origin.sent),
    };
    let (relay_share, fee) = (percent(terms.relay_share), percent(terms.fee));
    let price = match (terms.price, terms.tariff) {
        (Some(price), _) => format!("{price} an edition"),
        (None, Some(tariff)) => format!("by tariff {} (now version {})", tariff.tariff_id, tariff.version),
        (None, None) => "at no price".to_owned(),
    };
    format!("{price} at any time; relays get {relay_share} of what is left after the fee of {fee}; {origin}")
}
