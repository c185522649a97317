use super::*;

fn program(folder: &Path, name: &str) {
    fs::create_dir_all(folder).unwrap();
    let file = folder.join(name);
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
}

fn installation(folder: &Path) {
    for name in ["initdb", "postgres", "psql"] {
        program(folder, name);
    }
}

/// The tests' installations carry their version in their path.
fn version(server: &Path) -> Option<u32> {
    server.parent()?.parent()?.file_name()?.to_str()?.parse().ok()
}

#[test]
fn the_newest_complete_versioned_postgres_wins() {
    let root = tempfile::tempdir().unwrap();
    let versioned = root.path().join("postgresql");
    installation(&versioned.join("9/bin"));
    installation(&versioned.join("15/bin"));
    // Only client programs: Debian leaves such folders behind.
    program(&versioned.join("17/bin"), "psql");
    let places = Places { path: vec![], versioned: vec![versioned.clone()] };
    let found = places.postgres(version).unwrap();
    assert_eq!((found.major, found.initdb), (15, versioned.join("15/bin/initdb")));
}

#[test]
fn a_link_in_the_path_leads_to_the_rest_of_its_installation() {
    let root = tempfile::tempdir().unwrap();
    let (real, bin) = (root.path().join("16/bin"), root.path().join("local"));
    installation(&real);
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(real.join("postgres"), bin.join("postgres")).unwrap();
    let found = Places { path: vec![bin], versioned: vec![] }.postgres(version).unwrap();
    assert_eq!(found.initdb, real.canonicalize().unwrap().join("initdb"));
}

#[test]
fn what_is_not_executable_is_not_found() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("redis-server"), "").unwrap();
    let places = Places { path: vec![root.path().to_path_buf()], versioned: vec![] };
    assert_eq!((places.in_path("redis-server"), places.postgres(version)), (None, None));
    program(root.path(), "redis-server");
    assert_eq!(places.in_path("redis-server"), Some(root.path().join("redis-server")));
}

#[test]
fn only_what_is_needed_can_be_missing() {
    let none = Programs::default();
    let needs = |postgres, redis, turn| missing(Needs { postgres, redis, turn }, &none);
    assert_eq!(needs(false, true, false), [REDIS]);
    assert_eq!(needs(true, true, true), [POSTGRES, REDIS, TURN]);
    assert_eq!(needs(false, false, true), [TURN]);
    assert_eq!(needs(false, false, false), []);
}

#[test]
fn the_major_version_is_read_from_what_servers_print() {
    assert_eq!(parse_version("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"), Some(15));
    assert_eq!(parse_version("postgres (PostgreSQL) 18beta2\n"), Some(18));
    assert_eq!(parse_version("postgres: error\n"), None);
}
