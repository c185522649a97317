//! Who may depend on whom.
//!
//! ```text
//! client-cli → terminal → swarm → rules → protocol
//!                server ──────────→ rules
//! ```
//! A crate may also use what is further down its arrow. Nothing imports `server`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::failure::Failure;

/// Per workspace crate: the workspace crates that it may depend on, in its tests too. A crate that is missing here is a violation, so
/// that a new one gets its place in the picture.
const ARROWS: [(&str, &[&str]); 9] = [
    ("protocol", &[]),
    ("rules", &["protocol"]),
    ("swarm", &["rules", "protocol"]),
    ("sim", &["swarm", "rules", "protocol"]),
    ("terminal", &["swarm", "rules", "protocol"]),
    ("client-cli", &["terminal", "swarm", "rules", "protocol"]),
    ("server", &["rules", "protocol"]),
    // The end-to-end tests drive the built programs; they use the crates for their types and to act as a terminal.
    ("tests", &["terminal", "swarm", "rules", "protocol"]),
    ("xtask", &["sim", "swarm", "rules", "protocol"]),
];

/// Crates that only `server` may depend on directly.
const SERVER_ONLY: [&str; 3] = ["sqlx", "redis", "actix-*"];

/// Pure crates, and what must not even reach them through others: runtimes, databases, networks.
const PURE: [&str; 3] = ["protocol", "rules", "swarm"];
const IMPURE: [&str; 10] = ["tokio", "actix-*", "sqlx", "sqlx-*", "redis", "reqwest", "hyper", "webrtc", "rtc", "async-std"];

/// One crate of the workspace or of the registry.
#[derive(Debug)]
pub(super) struct Package {
    name: String,
    /// Where its manifest is.
    pub(super) folder: PathBuf,
    /// The direct dependencies by name, development ones included, as the manifest lists them.
    pub(super) listed: BTreeSet<String>,
    /// The package ids that it is built with; without development dependencies.
    resolved: Vec<String>,
}

/// The dependency graph, by package id.
#[derive(Debug)]
pub(super) struct Graph {
    packages: BTreeMap<String, Package>,
    members: Vec<String>,
}

impl Graph {
    /// Reads `cargo metadata --format-version 1`.
    pub(super) fn read(metadata: &Value) -> Result<Self, Failure> {
        parse(metadata).ok_or_else(|| Failure::told("cargo metadata prints something that the border check does not understand"))
    }

    /// What breaks the rules, as sentences.
    pub(super) fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        for id in &self.members {
            let Some(package) = self.packages.get(id) else { continue };
            found.extend(self.arrow_violations(package));
            if package.name != "server" {
                let reserved = package.listed.iter().filter(|name| matches_any(name, &SERVER_ONLY));
                found.extend(reserved.map(|name| format!("{} depends on {name}, which is for server alone", package.name)));
            }
            if PURE.contains(&package.name.as_str()) {
                found.extend(self.impurities(id));
            }
        }
        found
    }

    /// The workspace's crates.
    pub(super) fn members(&self) -> impl Iterator<Item = &Package> {
        self.members.iter().filter_map(|id| self.packages.get(id))
    }

    fn arrow_violations(&self, package: &Package) -> Vec<String> {
        let name = &package.name;
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| from == name) else {
            return vec![format!("{name} has no place among the arrows: add it to ARROWS in xtask/src/borders/graph.rs")];
        };
        let members: BTreeSet<&str> = self.members().map(|member| member.name.as_str()).collect();
        let used = package.listed.iter().filter(|listed| members.contains(listed.as_str()) && !allowed.contains(&listed.as_str()));
        used.map(|listed| format!("{name} depends on {listed}: no arrow leads there")).collect()
    }

    /// The shortest chain from a pure crate to each impure one.
    fn impurities(&self, pure: &str) -> Vec<String> {
        let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
        let mut waiting = VecDeque::from([pure]);
        let mut found = Vec::new();
        while let Some(id) = waiting.pop_front() {
            let Some(package) = self.packages.get(id) else { continue };
            if matches_any(&package.name, &IMPURE) {
                found.push(self.chain(id, &came_from));
                continue;
            }
            for next in package.resolved.iter().map(String::as_str) {
                if next != pure && !came_from.contains_key(next) {
                    came_from.insert(next, id);
                    waiting.push_back(next);
                }
            }
        }
        found.into_iter().map(|chain| format!("a pure crate reaches a runtime, a database or the network: {chain}")).collect()
    }

    fn chain(&self, end: &str, came_from: &BTreeMap<&str, &str>) -> String {
        let mut names = Vec::new();
        let mut current = Some(end);
        while let Some(id) = current {
            names.push(self.packages.get(id).map_or(id, |package| package.name.as_str()));
            current = came_from.get(id).copied();
        }
        names.reverse();
        names.join(" → ")
    }
}

/// Whether `name` is one of the patterns; a final `*` stands for anything.
fn matches_any(name: &str, patterns: &[&str]) -> bool {
    patterns.iter().any(|pattern| pattern.strip_suffix('*').map_or(name == *pattern, |prefix| name.starts_with(prefix)))
}

fn parse(metadata: &Value) -> Option<Graph> {
    let mut packages = BTreeMap::new();
    for package in metadata.get("packages")?.as_array()? {
        let manifest = Path::new(package.get("manifest_path")?.as_str()?);
        let mut listed = BTreeSet::new();
        for dependency in package.get("dependencies")?.as_array()? {
            listed.insert(dependency.get("name")?.as_str()?.to_owned());
        }
        let (name, folder) = (package.get("name")?.as_str()?.to_owned(), manifest.parent()?.to_path_buf());
        packages.insert(package.get("id")?.as_str()?.to_owned(), Package { name, folder, listed, resolved: Vec::new() });
    }
    for node in metadata.get("resolve")?.get("nodes")?.as_array()? {
        let mut resolved = Vec::new();
        for dependency in node.get("deps")?.as_array()? {
            let kinds = dependency.get("dep_kinds")?.as_array()?;
            // A `null` kind is an ordinary dependency.
            if kinds.iter().any(|kind| kind.get("kind").and_then(Value::as_str) != Some("dev")) {
                resolved.push(dependency.get("pkg")?.as_str()?.to_owned());
            }
        }
        packages.get_mut(node.get("id")?.as_str()?)?.resolved = resolved;
    }
    let members = metadata.get("workspace_members")?.as_array()?;
    let members = members.iter().map(|id| id.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()?;
    Some(Graph { packages, members })
}

#[cfg(test)]
mod tests;
