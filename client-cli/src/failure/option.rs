//! Which part of the command line a refused part of a request came from.
//!
//! The server points into the JSON that this program has sent, which nobody has seen who typed the command. The pointer itself stays in the output
//! for programs.

/// The option (or the argument) behind a pointer such as `/maximum/amount`; `None` for what no option sets.
pub(super) fn option_of(pointer: &str) -> Option<&'static str> {
    // The innermost part that an option sets: `/ranks/0/weight` is a part of `--rank`.
    pointer.split('/').rev().find_map(known)
}

fn known(field: &str) -> Option<&'static str> {
    Some(match field {
        "title" => "--title",
        "content_id" => "--content",
        "edition_id" | "editions" => "--edition",
        "rank" | "ranks" => "--rank",
        "selection" => "--selection",
        "reserve" => "--reserve",
        "opens_at" => "--opens",
        "closes_at" => "--closes",
        "starts_at" => "--starts",
        "origin_budget" => "--origin-budget",
        "relay_share" => "--relay-share",
        "fee" => "--fee",
        "limit_s" => "--limit",
        "primaries_max" => "--primaries-max",
        "places_max" => "--places-max",
        "wave_interval_s" => "--wave-interval",
        "maximum" => "--maximum",
        "label" => "--label",
        "chunking" => "--chunking",
        "files" => "PATH",
        "name" => "--name",
        "up" => "--up-mbit",
        "down" => "--down-mbit",
        "email" => "the e-mail address",
        "password" => "the password",
        "current" => "the present password",
        "new" => "the new password",
        "code" => "the voucher code",
        "count" => "--count",
        "value" => "--value",
        "expires_at" => "--expires",
        "role" => "the role",
        "url" => "URL",
        "events" => "--event",
        "description" => "--description",
        "terminal_id" => "this terminal",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_leads_to_the_option_that_a_person_has_typed() {
        let cases = [
            ("/reserve", "--reserve"),
            ("/reserve/currency", "--reserve"),
            ("/editions/0/reserve", "--reserve"),
            ("/editions/1", "--edition"),
            ("/ranks/2/delay_s", "--rank"),
            ("/maximum/amount", "--maximum"),
            ("/closes_at", "--closes"),
            ("/files/3/path", "PATH"),
            ("/capabilities/up", "--up-mbit"),
            ("/current", "the present password"),
        ];
        for (pointer, option) in cases {
            assert_eq!(option_of(pointer), Some(option), "{pointer}");
        }
        for unknown in ["", "/", "/0", "header/Idempotency-Key", "query/cursor"] {
            assert_eq!(option_of(unknown), None, "{unknown:?}");
        }
    }
}
