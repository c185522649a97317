//! Counting uses.

use std::time::Duration;

use super::Fixture;

#[tokio::test]
async fn uses_are_counted_for_each_user_until_the_window_ends() {
    let fixture = Fixture::new().await;
    let window = Duration::from_millis(400);
    let count = |what: &'static str, who: &'static str| {
        let live = fixture.live.clone();
        async move { live.count_use(what, who, window).await.unwrap() }
    };
    assert_eq!(count("login", "anna").await.count, 1);
    let second = count("login", "anna").await;
    assert_eq!(second.count, 2);
    assert!(second.resets_in <= window);
    assert_eq!((count("login", "bert").await.count, count("register", "anna").await.count), (1, 1));
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while count("login", "anna").await.count != 1 {
        assert!(std::time::Instant::now() < deadline, "the window never ends");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    fixture.lose_everything().await;
}
