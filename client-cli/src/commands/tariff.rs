//! `tariff`: made from a file, changed by another version, shown.

use std::path::Path;

use protocol::rest::{NewTariff, Tariff, TariffTerms};
use serde::Serialize;

use super::all_pages;
use crate::arguments::TariffCommand;
use crate::failure::{Failure, Outcome};
use crate::folder::Folder;
use crate::screen::{Report, tariff_page, tariffs_table};
use crate::session::Login;

/// Longer than any terms can be.
const FILE_BYTES_MAX: u64 = 1 << 20;

pub(super) async fn tariff(command: TariffCommand, folder: &Folder) -> Outcome<Report> {
    let api = Login::from_folder(folder)?.api;
    match command {
        TariffCommand::Create(arguments) => {
            let terms = read_terms(&arguments.file)?;
            page(&api.create_tariff(&NewTariff { name: arguments.name, terms }).await?)
        }
        TariffCommand::Change(arguments) => {
            let terms = read_terms(&arguments.file)?;
            let seen = api.tariff(arguments.tariff, None).await?.version;
            page(&api.change_tariff(arguments.tariff, seen, &terms).await?)
        }
        TariffCommand::Show(arguments) => match arguments.tariff {
            Some(tariff) => page(&api.tariff(tariff, arguments.version).await?),
            None => {
                let tariffs = all_pages(async |page| api.tariffs(page).await).await?;
                let text = tariffs_table(&tariffs);
                Report::new(&tariffs, text)
            }
        },
    }
}

fn page(tariff: &Tariff) -> Outcome<Report> {
    Report::new(tariff, tariff_page(tariff))
}

/// The terms in a file, or in what `tariff show --json` has printed: checked here already, because the file's own words say best where a fault is.
fn read_terms(path: &Path) -> Outcome<TariffTerms> {
    let failed = |reason: String| Failure::Usage(format!("{}: {reason}", path.display()));
    let length = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(failed("this is no file of terms: it has more than 1 MiB".into()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let terms = terms_of(&text).map_err(failed)?;
    Ok(terms)
}

#[derive(Debug, Serialize, serde::Deserialize)]
struct Shown {
    terms: serde_json::Value,
}

fn terms_of(text: &str) -> Result<TariffTerms, String> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let value = serde_json::from_value::<Shown>(value.clone()).map_or(value, |shown| shown.terms);
    let terms: TariffTerms = serde_json::from_value(value).map_err(|error| error.to_string())?;
    match rules::tariff::Tariff::new(terms) {
        Ok(tariff) => Ok(tariff.terms().clone()),
        Err(error) => Err(format!("at {}: {error}", error.pointer())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: &str = r#"{"currency": "EUR", "time_zone": "Europe/Berlin", "period": "month", "flat": 10, "per_gib": 5, "minimum": 5, "fee": 200,
        "relay_share": 5000, "windows": [{"from": "22:00", "to": "06:00", "price_bp": 8000}]}"#;

    #[test]
    fn a06_terms_are_read_alone_and_as_they_are_shown() {
        let alone = terms_of(TERMS).unwrap();
        assert_eq!(terms_of(&format!("{{\"id\": 1, \"terms\": {TERMS}}}")).unwrap(), alone);
        assert_eq!(alone.windows[0].from.minutes(), 22 * 60);
    }

    #[test]
    fn a06_a_fault_in_a_file_is_named_where_it_is() {
        let faults = [
            (TERMS.replace("Berlin", "Atlantis"), "at /time_zone: no such time zone"),
            (TERMS.replace("22:00", "24:00"), "at /windows/0/from: "),
            (TERMS.replace("06:00", "6:00"), "expected one as 07:30"),
            (TERMS.replace("\"flat\": 10,", ""), "missing field `flat`"),
            (TERMS.replace("\"flat\"", "\"flatt\""), "unknown field `flatt`"),
            ("{".to_owned(), "EOF"),
        ];
        for (text, told) in faults {
            let error = terms_of(&text).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }
}
