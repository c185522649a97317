//! The files for running the stack in containers fit together, as far as that can be told without a container engine: a machine that has
//! `docker compose` is asked too.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// One line of the subset of YAML that the compose file is written in.
#[derive(Debug)]
struct Entry {
    /// The keys that lead to it, from the top.
    path: Vec<String>,
    /// What stands behind the key or the dash; empty if more lines follow below it.
    value: String,
}

impl Entry {
    fn is_under(&self, pattern: &[&str]) -> bool {
        self.path.len() == pattern.len() && self.path.iter().zip(pattern).all(|(key, wanted)| *wanted == "*" || key == wanted)
    }
}

/// Reads mappings and lists in block form, two blanks per level; panics at anything that would mean something else to a YAML reader.
fn entries(text: &str) -> Vec<Entry> {
    let mut open: Vec<String> = Vec::new();
    let mut found = Vec::new();
    let mut may_deepen = true;
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        assert!(!line.contains('\t'), "line {number}: a tab");
        assert_eq!(line, line.trim_end(), "line {number}: blanks at its end");
        let content = line.trim_start();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let indent = line.len() - content.len();
        assert!(indent.is_multiple_of(2), "line {number}: an odd indentation");
        let depth = indent / 2;
        assert!(depth < open.len() || (depth == open.len() && may_deepen), "line {number}: nothing above it to belong to");
        open.truncate(depth);
        let (key, value) = match content.strip_prefix("- ") {
            Some(item) => ("-".to_owned(), item.to_owned()),
            None => {
                let (key, value) = content.split_once(':').unwrap_or_else(|| panic!("line {number}: neither a key nor an item"));
                assert!(value.is_empty() || value.starts_with(' '), "line {number}: no blank behind the colon");
                (key.to_owned(), value.trim().to_owned())
            }
        };
        let balance = |open: char, close: char| value.matches(open).count() == value.matches(close).count();
        assert!(
            balance('[', ']') && balance('{', '}') && value.matches('"').count().is_multiple_of(2),
            "line {number}: something is not closed"
        );
        may_deepen = value.is_empty() || value.starts_with('&');
        open.push(key);
        found.push(Entry { path: open.clone(), value });
    }
    found
}

fn compose() -> Vec<Entry> {
    entries(&read("docker-compose.yml"))
}

fn services(entries: &[Entry]) -> BTreeSet<&str> {
    entries.iter().filter(|entry| entry.is_under(&["services", "*"])).map(|entry| entry.path[1].as_str()).collect()
}

/// `name:tag@sha256:digest`, with a tag that says which version it is.
fn assert_pinned(image: &str) {
    let (tagged, digest) = image.split_once("@sha256:").unwrap_or_else(|| panic!("{image} has no digest"));
    assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{image}: not a digest");
    let (_, tag) = tagged.rsplit_once(':').unwrap_or_else(|| panic!("{image} has no tag"));
    assert!(tag != "latest" && tag.bytes().any(|byte| byte.is_ascii_digit()), "{image}: its tag names no version");
}

#[test]
fn every_image_is_pinned_by_version_and_digest_or_built_from_this_tree() {
    let compose = compose();
    let images: Vec<&Entry> = compose.iter().filter(|entry| entry.path.last().is_some_and(|key| key == "image")).collect();
    assert_eq!(images.len(), 4);
    let version = env!("CARGO_PKG_VERSION");
    for entry in images {
        match entry.value.strip_prefix("spillway-server:") {
            Some(tag) => assert_eq!(tag, version, "the image is not of this version"),
            None => assert_pinned(&entry.value),
        }
    }
    let builds = compose.iter().filter(|entry| entry.path.last().is_some_and(|key| key == "build"));
    assert_eq!(builds.count(), 1, "two builds of one image at the same time get in each other's way");
}

#[test]
fn every_file_that_the_stack_refers_to_exists() {
    let compose = compose();
    let mounted = compose.iter().filter(|entry| entry.value.starts_with("./")).map(|entry| entry.value.split(':').next().unwrap());
    let built = compose.iter().filter(|entry| entry.path.last().is_some_and(|key| key == "dockerfile")).map(|entry| entry.value.as_str());
    let files: Vec<&str> = mounted.chain(built).collect();
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        assert!(root().join(file).is_file(), "{file} does not exist");
    }
}

#[test]
fn what_services_depend_on_and_mount_is_declared() {
    let compose = compose();
    let services = services(&compose);
    let aliases: BTreeSet<&str> = compose.iter().filter_map(|entry| entry.value.strip_prefix('*')).collect();
    let anchors: BTreeSet<&str> = compose.iter().filter_map(|entry| entry.value.strip_prefix('&')).collect();
    assert_eq!(aliases, anchors);
    let wanted = compose.iter().filter(|entry| entry.path.iter().rev().nth(1).is_some_and(|key| key == "depends_on"));
    let wanted: BTreeSet<&str> = wanted.map(|entry| entry.path.last().unwrap().as_str()).collect();
    assert!(!wanted.is_empty() && wanted.is_subset(&services), "{wanted:?} against {services:?}");
    let declared: BTreeSet<&str> =
        compose.iter().filter(|entry| entry.is_under(&["volumes", "*"])).map(|entry| entry.path[1].as_str()).collect();
    let mounts = compose.iter().filter(|entry| entry.path.len() > 2 && entry.path.iter().rev().nth(1).is_some_and(|key| key == "volumes"));
    let named: BTreeSet<&str> =
        mounts.map(|entry| entry.value.split(':').next().unwrap()).filter(|source| !source.starts_with('.')).collect();
    assert_eq!(named, declared);
}

#[test]
fn the_proxy_serves_both_instances_and_is_all_that_is_published() {
    let compose = compose();
    let instances: BTreeSet<String> =
        services(&compose).into_iter().filter(|name| name.starts_with("server-")).map(|name| format!("{name}:8080")).collect();
    assert_eq!(instances.len(), 2);
    let proxy = read("deploy/nginx.conf");
    let upstreams = proxy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("server "))
        .filter_map(|rest| rest.split_once(' '))
        .filter(|(name, _)| *name != "{");
    assert_eq!(upstreams.map(|(name, _)| name.to_owned()).collect::<BTreeSet<String>>(), instances);
    assert_eq!(proxy.matches('{').count(), proxy.matches('}').count());

    let published: Vec<&Entry> =
        compose.iter().filter(|entry| entry.path.iter().any(|key| key == "ports") && !entry.value.is_empty()).collect();
    assert_eq!(published.len(), 1);
    assert_eq!(published[0].path[1], "proxy");
    assert!(published[0].value.starts_with("\"127.0.0.1:"), "{}", published[0].value);
}

#[test]
fn the_image_is_built_from_pinned_images_and_from_what_the_build_may_see() {
    let dockerfile = read("deploy/Dockerfile");
    let mut stages = BTreeSet::new();
    for line in dockerfile.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["FROM", image, rest @ ..] => {
                assert_pinned(image);
                if let ["AS", stage] = rest {
                    stages.insert((*stage).to_owned());
                }
            }
            ["COPY", source, ..] if source.starts_with("--from=") => assert!(stages.contains(&source["--from=".len()..]), "{line}"),
            _ => {}
        }
    }
    assert!(dockerfile.contains("USER spillway"), "the server must not run as root");
    assert!(dockerfile.contains("--locked"));

    // Cargo refuses a workspace with a member that it cannot see.
    let visible = read("deploy/Dockerfile.dockerignore");
    let manifest = read("Cargo.toml");
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = [")).unwrap().trim_end_matches(']');
    for member in members.split(',').map(|member| member.trim().trim_matches('"')).chain(["Cargo.toml", "Cargo.lock"]) {
        assert!(visible.lines().any(|line| line == format!("!{member}")), "the build does not see {member}");
    }
}

/// The plugin of today, and the program of its own that Debian 12 still has.
const COMPOSERS: [&[&str]; 2] = [&["docker", "compose"], &["docker-compose"]];

#[test]
fn docker_compose_accepts_the_file_where_it_is_installed() {
    let mut asked = 0;
    for composer in COMPOSERS {
        let command = || {
            let mut command = Command::new(composer[0]);
            command.args(&composer[1..]).current_dir(root());
            command
        };
        if !command().arg("version").output().is_ok_and(|output| output.status.success()) {
            continue;
        }
        let output = command().args(["--file", "docker-compose.yml", "config", "--quiet"]).output().unwrap();
        assert!(output.status.success(), "{composer:?}: {}", String::from_utf8_lossy(&output.stderr));
        asked += 1;
    }
    if asked == 0 {
        eprintln!("docker compose is not installed here: only the structure was checked, by the other tests");
    }
}

#[test]
fn the_reader_of_these_tests_refuses_what_yaml_would_read_differently() {
    for broken in ["a:\n\tb: c", "a:\n   b: c", "a: b\n  c: d", "a: [b", "a:b", "just words", "a:\n    b: c", "a: b "] {
        assert!(std::panic::catch_unwind(|| entries(broken)).is_err(), "{broken:?}");
    }
    let read = entries("# note\na: &x\n  b:\n    - one: two\n  c: d\ne: f\n");
    let seen: Vec<(String, &str)> = read.iter().map(|entry| (entry.path.join("."), entry.value.as_str())).collect();
    assert_eq!(seen, [("a".into(), "&x"), ("a.b".into(), ""), ("a.b.-".into(), "one: two"), ("a.c".into(), "d"), ("e".into(), "f")]);
}
