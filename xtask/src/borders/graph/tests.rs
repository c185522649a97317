use serde_json::json;

use super::*;

/// A workspace in the form that cargo prints. A dependency is written `name` or `name dev`.
fn workspace(members: &[(&str, &[&str])], registry: &[(&str, &[&str])]) -> Graph {
    let split = |text: &str| -> (String, Option<String>) {
        let mut words = text.split(' ').map(str::to_owned);
        (words.next().unwrap(), words.next())
    };
    let everything = || members.iter().chain(registry);
    let packages: Vec<Value> = everything()
        .map(|(name, dependencies)| {
            let dependencies: Vec<Value> = dependencies.iter().map(|text| json!({ "name": split(text).0, "kind": split(text).1 })).collect();
            json!({ "name": name, "id": format!("id of {name}"), "manifest_path": format!("/w/{name}/Cargo.toml"), "dependencies": dependencies })
        })
        .collect();
    let nodes: Vec<Value> = everything()
        .map(|(name, dependencies)| {
            let deps: Vec<Value> = dependencies
                .iter()
                .map(|text| json!({ "pkg": format!("id of {}", split(text).0), "dep_kinds": [{ "kind": split(text).1 }] }))
                .collect();
            json!({ "id": format!("id of {name}"), "deps": deps })
        })
        .collect();
    let ids: Vec<String> = members.iter().map(|(name, _)| format!("id of {name}")).collect();
    Graph::read(&json!({ "packages": packages, "resolve": { "nodes": nodes }, "workspace_members": ids })).unwrap()
}

#[test]
fn the_intended_workspace_has_no_violations() {
    let members: [(&str, &[&str]); 7] = [
        ("protocol", &["serde"]),
        ("rules", &["protocol", "proptest dev"]),
        ("swarm", &["rules", "protocol"]),
        ("terminal", &["swarm", "protocol", "tokio", "webrtc"]),
        ("client-cli", &["terminal", "protocol", "tokio"]),
        ("server", &["rules", "protocol", "sqlx", "redis", "actix-web"]),
        ("tests", &["protocol dev", "terminal dev", "tokio dev"]),
    ];
    let registry: [(&str, &[&str]); 8] = [
        ("serde", &[]),
        ("proptest", &["tokio"]),
        ("tokio", &[]),
        ("webrtc", &["tokio"]),
        ("sqlx", &[]),
        ("redis", &[]),
        ("actix-web", &[]),
        ("x", &[]),
    ];
    assert_eq!(workspace(&members, &registry).violations(), Vec::<String>::new());
}

#[test]
fn an_arrow_against_the_order_is_reported_even_for_tests_only() {
    let graph = workspace(&[("protocol", &["rules dev"]), ("rules", &["protocol"])], &[]);
    assert_eq!(graph.violations(), ["protocol depends on rules: no arrow leads there"]);
}

#[test]
fn nothing_may_import_the_server() {
    for importer in ["client-cli", "tests", "xtask", "terminal"] {
        let graph = workspace(&[(importer, &["server dev"]), ("server", &[])], &[]);
        assert_eq!(graph.violations(), [format!("{importer} depends on server: no arrow leads there")]);
    }
}

#[test]
fn only_the_server_may_use_the_database_redis_and_the_web_framework() {
    for reserved in ["sqlx", "redis", "actix-web", "actix-ws"] {
        let members: [(&str, &[&str]); 2] = [("tests", &[]), ("server", &[reserved])];
        assert!(workspace(&members, &[(reserved, &[])]).violations().is_empty());
        let used = format!("{reserved} dev");
        let graph = workspace(&[("tests", &[&used]), ("server", &[])], &[(reserved, &[])]);
        assert_eq!(graph.violations(), [format!("tests depends on {reserved}, which is for server alone")]);
    }
}

#[test]
fn a_runtime_that_reaches_a_pure_crate_through_others_is_reported_with_the_whole_chain() {
    let graph = workspace(&[("rules", &["handy"])], &[("handy", &["inner"]), ("inner", &["tokio"]), ("tokio", &[])]);
    assert_eq!(graph.violations(), ["a pure crate reaches a runtime, a database or the network: rules → handy → inner → tokio"]);
}

#[test]
fn a_runtime_that_a_pure_crate_only_tests_with_is_no_violation() {
    let graph = workspace(&[("rules", &["proptest dev"])], &[("proptest", &["tokio"]), ("tokio", &[])]);
    assert!(graph.violations().is_empty());
}

#[test]
fn a_crate_without_a_place_among_the_arrows_is_reported() {
    let found = workspace(&[("gadget", &[])], &[]).violations();
    assert!(matches!(found.as_slice(), [one] if one.starts_with("gadget has no place")), "{found:?}");
}

#[test]
fn metadata_in_another_form_is_an_error_and_not_an_empty_workspace() {
    assert!(Graph::read(&json!({ "packages": [] })).is_err());
    assert!(Graph::read(&json!({ "packages": [{}], "resolve": { "nodes": [] }, "workspace_members": [] })).is_err());
}
