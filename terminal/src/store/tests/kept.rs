//! What is said of that which lies in a folder: how much room it takes up, and when it was last useful.

use super::evicting::{kept_in, place, received};
use super::*;
use crate::store::kept;

#[tokio::test]
async fn x09_useful_is_what_was_received_asked_for_passed_on_or_used_last() {
    let dir = tempfile::tempdir().unwrap();
    let (old, content) = single();
    let (new, of_new) = manifest(&[("film-2.bin", 5500, false)], false);
    received(dir.path(), 1, &old, &content).await;
    let (x, of_x) = manifest(&[("x", 10, false)], false);
    received(dir.path(), 2, &x, &of_x).await;
    let order = || async {
        let mut kept = kept_in(dir.path()).await;
        kept.sort_by_key(|kept| kept.useful_at);
        kept.iter().map(|kept| kept.path.file_name().unwrap().to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(order().await, ["film.bin", "x"]);
    let set = |release: u8, manifest: &Manifest, at| {
        let state =
            dir.path().join(STATE_FOLDER).join(ReleaseId::from_bytes([release; 16]).to_string()).join(manifest.edition_id().to_string());
        for entry in std::fs::read_dir(state).unwrap().map(Result::unwrap) {
            std::fs::File::options().write(true).open(entry.path()).unwrap().set_modified(at).unwrap();
        }
    };
    let past = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    // Times of files have the grain of the system's clock tick.
    set(2, &x, past + std::time::Duration::from_secs(60));
    set(1, &old, past);
    assert_eq!(order().await, ["film.bin", "x"]);
    let (held, _) = Store::open_complete(dir.path().to_owned(), place(&old).0, place(&old).1).await.unwrap().unwrap();
    held.passed_on();
    held.read(0).await.unwrap();
    assert_eq!(order().await, ["x", "film.bin"], "what is passed on is useful");
    drop(held);
    set(1, &old, past);
    Store::asked_for(dir.path().to_owned(), place(&old)).await;
    assert_eq!(order().await, ["x", "film.bin"], "what is asked for is useful");
    set(1, &old, past);
    received(dir.path(), 4, &new, &of_new).await;
    let order = order().await;
    assert_eq!(order[0], "x", "what an update takes chunks from is useful: {order:?}");
}

#[tokio::test]
async fn x09_the_room_that_an_edition_needs_is_an_upper_bound_and_its_sources_are_known() {
    for (manifest, content) in [single(), tree()] {
        let dir = tempfile::tempdir().unwrap();
        received(dir.path(), 1, &manifest, &content).await;
        let kept = Store::kept(dir.path().to_owned(), Arc::clone(&manifest)).await.unwrap();
        assert!(kept[0].is_source && kept[0].deliveries[0].is_whole);
        assert!(kept[0].bytes() <= most_room(&manifest), "{} of {}", kept[0].bytes(), most_room(&manifest));
        let (another, _) = self::manifest(&[("y", 3, false)], false);
        assert!(!Store::kept(dir.path().to_owned(), another).await.unwrap()[0].is_source);
        std::fs::remove_file(dir.path().join(&manifest.files[0].path)).unwrap();
        assert!(!kept::kept(dir.path(), None).unwrap()[0].deliveries[0].is_whole, "it has to be fetched again");
    }
    assert!(Store::kept(PathBuf::from("/nowhere/at/all"), single().0).await.unwrap().is_empty());
}

#[tokio::test]
async fn x09_many_small_files_take_up_a_page_each_and_still_no_more_than_was_said() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..100).map(|number| format!("{}/{number}", number % 7)).collect();
    let files: Vec<(&str, usize, bool)> = names.iter().map(|name| (name.as_str(), 30, false)).collect();
    let (manifest, content) = manifest(&files, true);
    received(dir.path(), 1, &manifest, &content).await;
    let kept = kept_in(dir.path()).await;
    assert!(
        kept[0].bytes().0 > 2 * content.len() as u64 && kept[0].bytes() <= most_room(&manifest),
        "{} of {}",
        kept[0].bytes(),
        most_room(&manifest)
    );
}
