//! Columns of text. The last column takes what is left of the line.

/// The width that every table keeps to, so that it can be read in the narrowest usual window.
pub(super) const LINE_CHARACTERS_MAX: usize = 80;
const GAP: &str = "  ";

/// Rows under a heading. Every column is as wide as its longest cell; the last one is cut where the line ends.
pub(super) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let lines: Vec<Vec<&str>> =
        std::iter::once(heading.to_vec()).chain(rows.iter().map(|row| row.iter().map(String::as_str).collect())).collect();
    let columns = heading.len();
    let widths: Vec<usize> =
        (0..columns).map(|column| lines.iter().filter_map(|line| line.get(column)).map(|cell| width(cell)).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines {
        let mut printed = String::new();
        for (column, cell) in line.iter().enumerate() {
            if column + 1 == columns {
                printed.push_str(&cut(cell, LINE_CHARACTERS_MAX.saturating_sub(width(&printed))));
            } else {
                printed.push_str(cell);
                printed.push_str(&" ".repeat(widths[column] - width(cell)));
                printed.push_str(GAP);
            }
        }
        text.push_str(printed.trim_end());
        text.push('\n');
    }
    text
}

/// How many cells a text takes: East Asian wide characters and emoji take two (the common ranges of Unicode's annex 11), combining marks none.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(character_width).sum()
}

fn character_width(character: char) -> usize {
    match u32::from(character) {
        0x0300..=0x036F | 0x200B..=0x200D | 0xFE00..=0xFE0F => 0,
        0x1100..=0x115F
        | 0x2E80..=0x303E
        | 0x3041..=0x33FF
        | 0x3400..=0x4DBF
        | 0x4E00..=0x9FFF
        | 0xA000..=0xA4CF
        | 0xAC00..=0xD7A3
        | 0xF900..=0xFAFF
        | 0xFE30..=0xFE6F
        | 0xFF00..=0xFF60
        | 0xFFE0..=0xFFE6
        | 0x1F300..=0x1F64F
        | 0x1F900..=0x1F9FF
        | 0x20000..=0x3FFFD => 2,
        _ => 1,
    }
}

/// The text, or its beginning with an ellipsis if it is wider than `room`.
fn cut(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = 1;
    for character in text.chars() {
        used += character_width(character);
        if used > room {
            break;
        }
        kept.push(character);
    }
    kept.push('…');
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other_and_no_line_is_too_long() {
        let rows = vec![vec!["a".into(), "1".into(), "x".repeat(100)], vec!["longer".into(), "22".into(), "短い映画".into()]];
        let text = table(&["NAME", "N", "TITLE"], &rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "NAME    N   TITLE");
        assert_eq!(lines[2], "longer  22  短い映画");
        assert!(lines[1].starts_with("a       1   xxx") && lines[1].ends_with('…'));
        assert_eq!(width(lines[1]), LINE_CHARACTERS_MAX);
    }

    #[test]
    fn wide_characters_are_cut_by_their_width() {
        let text = table(&["TITLE"], &[vec!["映".repeat(60)]]);
        let line = text.lines().nth(1).unwrap();
        assert!(width(line) <= LINE_CHARACTERS_MAX && width(line) >= LINE_CHARACTERS_MAX - 1, "{}", width(line));
    }
}
