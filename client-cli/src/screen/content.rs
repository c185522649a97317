//! A content and its editions as text.

use protocol::rest::Content;

use super::clean;

/// The title, the id, and two lines per edition: an edition's id alone nearly fills one.
pub(crate) fn content_page(content: &Content) -> String {
    let mut text = format!("{}\ncontent {}\n", clean(&content.title), content.id);
    if content.editions.is_empty() {
        text.push_str("no edition yet: add one with `spillway publish --content`\n");
    }
    for edition in &content.editions {
        text.push_str(&format!("edition {} ({} in {} chunks)\n  {}\n", clean(&edition.label), edition.length, edition.chunks, edition.id));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::table::{LINE_CHARACTERS_MAX, width};
    use super::*;
    use protocol::rest::Edition;
    use protocol::{Blake3, Bytes, ContentId, EditionId, UserId};
    use time::macros::datetime;

    fn content(editions: Vec<Edition>) -> Content {
        let created_at = datetime!(2026-11-21 12:00 UTC);
        Content {
            id: ContentId::from_bytes([9; 16]),
            publisher_id: UserId::from_bytes([1; 16]),
            title: "Film".into(),
            editions,
            created_at,
        }
    }

    #[test]
    fn a_content_shows_its_editions_and_their_whole_ids_in_eighty_columns() {
        let edition = Edition {
            id: EditionId([0xAB; 32]),
            label: "director's cut\u{1b}[2J".into(),
            directory: false,
            length: Bytes(u64::MAX >> 11),
            chunks: 99_999_999,
            blake3: Blake3([0; 32]),
            created_at: datetime!(2026-11-21 12:00 UTC),
        };
        let text = content_page(&content(vec![edition]));
        assert!(text.contains(&"ab".repeat(32)) && text.contains("director's cut?[2J"), "{text}");
        assert!(text.lines().all(|line| width(line) <= LINE_CHARACTERS_MAX), "{text}");
    }

    #[test]
    fn a_content_without_an_edition_says_how_to_add_one() {
        assert!(content_page(&content(Vec::new())).contains("`spillway publish --content`"));
    }
}
