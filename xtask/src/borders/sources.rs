//! Which file may mention what: the borders inside a crate, which cargo knows nothing about.

use std::collections::BTreeSet;

use super::tokens::{Token, tokens};

/// A crate that only some files may mention.
struct Reserved {
    name: &'static str,
    /// Paths from the root that may; a final `*` stands for anything.
    places: &'static [&'static str],
}

const RESERVED: [Reserved; 4] = [
    Reserved { name: "sqlx", places: &["server/src/store/*", "server/src/store.rs"] },
    Reserved { name: "redis", places: &["server/src/live/*", "server/src/live.rs"] },
    Reserved { name: "webrtc", places: &["terminal/src/link*", "terminal/tests/link*"] },
    // The example is what the library does without us.
    Reserved { name: "rtc", places: &["terminal/src/link*", "terminal/tests/link*", "terminal/examples/bare_channel.rs"] },
];

/// The one file that turns errors into HTTP answers.
const ERROR_ANSWERS: &str = "server/src/error.rs";

/// What breaks the rules in a file (path from the root, text), as sentences; at most one per rule. In a crate without the dependency
/// the same name is a module of its own.
pub(super) fn violations(path: &str, text: &str, dependencies: &BTreeSet<String>) -> Vec<String> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    for reserved in RESERVED.iter().filter(|reserved| dependencies.contains(reserved.name)) {
        let is_allowed =
            reserved.places.iter().any(|place| place.strip_suffix('*').map_or(path == *place, |prefix| path.starts_with(prefix)));
        if let Some(line) = mention(&tokens, reserved.name).filter(|_| !is_allowed) {
            found.push(format!("{path}:{line} mentions {}, which only {} may", reserved.name, reserved.places.join(" and ")));
        }
    }
    if let Some(line) = error_answer(&tokens).filter(|_| path != ERROR_ANSWERS) {
        found.push(format!("{path}:{line} implements ResponseError, which only {ERROR_ANSWERS} may"));
    }
    found
}

/// The first line where the crate itself is named: at the head of a path or in `use` and `extern crate`. A module, a field or a variable
/// of the same name is something else.
fn mention(tokens: &[Token<'_>], name: &str) -> Option<usize> {
    let text = |index: Option<usize>| index.and_then(|index| tokens.get(index)).map_or("", |token| token.text);
    (0..tokens.len()).filter(|index| tokens[*index].text == name).find_map(|index| {
        let before = index.checked_sub(1);
        let is_inside_path = text(before) == "::" && before.is_some_and(|at| ends_path(&tokens[..at]));
        let is_imported = matches!(text(before), "use" | "crate");
        let is_head = text(Some(index + 1)) == "::";
        (!is_inside_path && (is_imported || is_head)).then(|| tokens[index].line)
    })
}

/// Whether `::` after these tokens continues a path; after anything else (`use ::redis`, `-> ::redis`, `(::redis`) it begins one.
fn ends_path(tokens: &[Token<'_>]) -> bool {
    const NOT_PATHS: [&str; 9] = ["use", "as", "in", "return", "if", "match", "mut", "dyn", "impl"];
    match tokens {
        [.., arrow, last] if last.text == ">" => !matches!(arrow.text, "-" | "="),
        [.., last] => last.is_word() && !NOT_PATHS.contains(&last.text),
        [] => false,
    }
}

/// The first line of an `impl … ResponseError for …`.
fn error_answer(tokens: &[Token<'_>]) -> Option<usize> {
    tokens.windows(2).find(|pair| pair[0].text == "ResponseError" && pair[1].text == "for").map(|pair| pair[0].line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The violations of a small tree, whose crates all depend on everything that is reserved.
    fn found_in<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<String> {
        let dependencies = RESERVED.iter().map(|reserved| reserved.name.to_owned()).collect();
        files.into_iter().flat_map(|(path, text)| violations(path, text, &dependencies)).collect()
    }

    #[test]
    fn each_reserved_crate_is_reported_outside_its_place_with_file_and_line() {
        let found = found_in([
            ("server/src/routes/users.rs", "//! Users.\n\nuse sqlx::PgPool;\n"),
            ("server/src/app.rs", "fn run(client: &redis::Client) {}"),
            ("client-cli/src/main.rs", "use webrtc;\nuse ::rtc::shared;"),
            ("server/src/routes.rs", "impl actix_web::ResponseError for Refusal {}"),
        ]);
        assert_eq!(
            found,
            [
                "server/src/routes/users.rs:3 mentions sqlx, which only server/src/store/* and server/src/store.rs may",
                "server/src/app.rs:1 mentions redis, which only server/src/live/* and server/src/live.rs may",
                "client-cli/src/main.rs:1 mentions webrtc, which only terminal/src/link* and terminal/tests/link* may",
                "client-cli/src/main.rs:2 mentions rtc, which only terminal/src/link* and terminal/tests/link* and terminal/examples/bare_channel.rs may",
                "server/src/routes.rs:1 implements ResponseError, which only server/src/error.rs may",
            ]
        );
    }

    #[test]
    fn each_reserved_crate_may_be_mentioned_in_its_place() {
        let found = found_in([
            ("server/src/store/users.rs", "use sqlx::PgPool;"),
            ("server/src/store.rs", "pub(crate) type Pool = sqlx::PgPool;"),
            ("server/src/live/presence.rs", "use redis::AsyncCommands;"),
            ("terminal/src/link/connection.rs", "use webrtc::peer; use rtc::shared;"),
            ("terminal/src/link.rs", "use webrtc::peer;"),
            ("terminal/tests/link/hostile.rs", "use webrtc::peer;"),
            ("server/src/error.rs", "impl ResponseError for Refusal {}"),
        ]);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn a_place_of_one_crate_is_no_place_of_another() {
        assert_eq!(
            found_in([("server/src/live/presence.rs", "use sqlx::Row;"), ("server/src/store/users.rs", "redis::cmd(\"GET\")")]).len(),
            2
        );
        assert_eq!(found_in([("server/src/store_cache.rs", "use sqlx::Row;"), ("client-cli/src/link.rs", "use webrtc::peer;")]).len(), 2);
    }

    #[test]
    fn comments_text_fields_and_modules_of_the_same_name_are_no_mentions() {
        let source = "/// Like `sqlx::Row`.\nuse crate::live::redis;\nfn f(c: &Config) { live::redis::go(c.redis, \"use sqlx::Row\"); let rtc = 1; rtc + 1; Vec::<u8>::redis::x(); }";
        assert_eq!(found_in([("server/src/app.rs", source)]), Vec::<String>::new());
    }

    #[test]
    fn in_a_crate_without_the_dependency_the_name_is_a_module_of_its_own() {
        let source = "mod redis; fn f() { redis::lose() }";
        assert!(violations("tests/src/stack.rs", source, &BTreeSet::new()).is_empty());
        assert_eq!(violations("tests/src/stack.rs", source, &BTreeSet::from(["redis".to_owned()])).len(), 1);
    }

    #[test]
    fn every_way_to_name_a_crate_is_seen() {
        for source in [
            "use sqlx;",
            "pub use sqlx as database;",
            "extern crate sqlx;",
            "use {std::fmt, sqlx::Row};",
            "#[derive(sqlx::FromRow)] struct S;",
            "fn f() -> ::sqlx::Result<()> {}",
            "match x { 1 => ::sqlx::query(y) }",
            "let x = y as sqlx::types::Json<u8>;",
            "use ::sqlx::Row;",
            "f::<sqlx::Postgres>()",
            "#[cfg(test)] mod tests { use sqlx::Row; }",
        ] {
            assert_eq!(found_in([("server/src/app.rs", source)]).len(), 1, "{source}");
        }
    }
}
