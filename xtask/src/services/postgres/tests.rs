use super::*;

fn cluster_in(folder: &Path) -> Cluster {
    let cluster = Cluster { folder: folder.join("postgres"), password: folder.join("password"), made: folder.join("made") };
    fs::create_dir(&cluster.folder).unwrap();
    fs::write(cluster.folder.join("PG_VERSION"), "14\n").unwrap();
    cluster
}

#[test]
fn the_server_is_ready_when_its_own_lock_file_says_so() {
    let text = |id: u32, state: &str| format!("{id}\n/data/postgres\n1795000000\n40001\n\n127.0.0.1\n  1234567         0\n{state}\n");
    assert!(is_ready(&text(77, "ready   "), 77));
    assert!(!is_ready(&text(77, "starting"), 77));
    assert!(!is_ready(&text(76, "ready   "), 77), "the file of an earlier server");
    assert!(!is_ready("77\n/data/postgres\n", 77), "a file that is being written");
    assert!(!is_ready("", 77));
}

#[test]
fn a_half_made_cluster_is_removed_whoever_wants_its_data() {
    for data in [Data::Kept, Data::Scratch, Data::Flushed] {
        let folder = tempfile::tempdir().unwrap();
        let cluster = cluster_in(folder.path());
        set_aside(&cluster, data).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_finished_cluster_of_another_version_is_moved_if_its_data_matters_and_removed_if_not() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster_in(folder.path());
    fs::write(&cluster.made, "layout 1, Postgres 14\n").unwrap();
    set_aside(&cluster, Data::Kept).unwrap();
    assert!(!cluster.folder.exists() && !cluster.made.exists());
    assert!(folder.path().join("postgres.layout1Postgres14").join("PG_VERSION").exists());

    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster_in(folder.path());
    fs::write(&cluster.made, "layout 1, Postgres 14\n").unwrap();
    set_aside(&cluster, Data::Scratch).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn only_a_scratch_cluster_gives_up_durability() {
    assert!(settings(Data::Scratch).contains(&"fsync=off"));
    for flushed in [Data::Kept, Data::Flushed] {
        assert!(!settings(flushed).iter().any(|setting| setting.contains("off") && !setting.starts_with("jit")));
    }
}
