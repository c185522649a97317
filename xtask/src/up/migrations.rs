//! What to do when the kept database was made by another version of the migrations.

use std::path::Path;

use crate::failure::Failure;

/// How the server words that a database and its migrations do not fit, whatever the reason. It stands in the end of the server's log, which a failed
/// start quotes.
const MISFIT: &str = "the database was made by another version of spillway-server";

/// A failed start of the server, with the way out if the kept data is the reason. `kept_in`: every folder of that data.
pub(super) fn explained(failure: Failure, is_private: bool, kept_in: &[&Path]) -> Failure {
    let Failure::Told(message) = &failure else { return failure };
    if !message.contains(MISFIT) {
        return failure;
    }
    let remedy = if is_private {
        let folders: Vec<String> = kept_in.iter().map(|folder| format!("'{}'", folder.display())).collect();
        format!("Its data was made by another version. To begin anew, without the old data:\n\n  rm -r {}\n", folders.join(" "))
    } else {
        "The database of DATABASE_URL was made by another version: name an empty one.".to_owned()
    };
    Failure::told(format!("{message}\n\n{remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(message: &str, is_private: bool) -> String {
        let folders = [Path::new("/project/target/spillway/up"), Path::new("/tmp/spillway-1/up")];
        explained(Failure::told(message), is_private, &folders).to_string()
    }

    #[test]
    fn data_of_other_migrations_is_told_with_the_command_that_removes_all_of_it() {
        let message = told(&format!("server ended before it was ready\n    spillway-server: {MISFIT}, as its migration 3 says"), true);
        assert!(message.starts_with("server ended before"), "{message}");
        assert!(message.contains("rm -r '/project/target/spillway/up' '/tmp/spillway-1/up'\n"), "{message}");
    }

    #[test]
    fn the_server_still_words_it_like_that() {
        let store = Path::new(env!("CARGO_MANIFEST_DIR")).join("../server/src/store.rs");
        assert!(std::fs::read_to_string(&store).unwrap().contains(MISFIT), "{} says it in other words now", store.display());
    }

    #[test]
    fn somebodys_own_database_is_never_to_be_removed() {
        let message = told(MISFIT, false);
        assert!(message.contains("DATABASE_URL") && !message.contains("rm -r"), "{message}");
    }

    #[test]
    fn another_failure_stays_as_it_is() {
        assert_eq!(told("the port is taken", true), "the port is taken");
        assert_eq!(explained(Failure::Interrupted(2), true, &[]), Failure::Interrupted(2));
    }
}
