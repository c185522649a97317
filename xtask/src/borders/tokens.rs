//! Just enough of Rust's lexical structure to see what a file mentions outside of comments and text.

/// A word or a sign, with its line (from 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) text: &'a str,
    pub(super) line: usize,
}

impl Token<'_> {
    /// Whether it is an identifier or keyword (or a number, which never matters here).
    pub(super) fn is_word(&self) -> bool {
        self.text.starts_with(is_word_character)
    }
}

/// The words and signs of a source file; `::` is one sign. Comments, text, characters and lifetimes are left out.
pub(super) fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut cursor = Cursor { source, at: 0, line: 1 };
    let mut found = Vec::new();
    while let Some(first) = cursor.rest().chars().next() {
        if cursor.skip_ignored() {
            continue;
        }
        let length = if is_word_character(first) {
            cursor.rest().find(|character: char| !is_word_character(character)).unwrap_or(cursor.rest().len())
        } else if cursor.rest().starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        let text = &source[cursor.at..cursor.at + length];
        if !first.is_whitespace() {
            found.push(Token { text, line: cursor.line });
        }
        cursor.advance(length);
    }
    found
}

fn is_word_character(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

struct Cursor<'a> {
    source: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn advance(&mut self, length: usize) {
        let end = (self.at + length).min(self.source.len());
        self.line += self.source[self.at..end].matches('\n').count();
        self.at = end;
    }

    /// Skips one comment, text, character or lifetime, if one begins here.
    fn skip_ignored(&mut self) -> bool {
        let rest = self.rest();
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_text(rest) {
            length
        } else if rest.starts_with('"') {
            quoted(rest, 1)
        } else if rest.starts_with("b\"") || rest.starts_with("c\"") {
            quoted(rest, 2)
        } else if let Some(length) = raw_identifier_mark(rest) {
            length
        } else if rest.starts_with('\'') {
            character_or_lifetime(rest)
        } else {
            return false;
        };
        self.advance(length);
        true
    }
}

/// Block comments nest.
fn block_comment(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let (mut depth, mut at) = (0_usize, 0);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

/// `r"…"`, `r#"…"#` and so on, with `b` or `c` before.
fn raw_text(rest: &str) -> Option<usize> {
    let after_prefix =
        ["r", "br", "cr"].iter().find_map(|prefix| rest.strip_prefix(prefix).filter(|after| after.starts_with(['"', '#'])))?;
    let hashes = after_prefix.bytes().take_while(|byte| *byte == b'#').count();
    let body = after_prefix[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let closing = body.find(&end).map_or(body.len(), |found| found + end.len());
    Some(rest.len() - body.len() + closing)
}

/// `r#` before an identifier: `r#use` mentions what `use` would.
fn raw_identifier_mark(rest: &str) -> Option<usize> {
    rest.strip_prefix("r#").filter(|after| after.starts_with(is_word_character)).map(|_| 2)
}

/// The length of text that opens with `opening` bytes and ends at the first quote that is not escaped.
fn quoted(rest: &str, opening: usize) -> usize {
    let bytes = rest.as_bytes();
    let mut at = opening;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// `'a'` and `'\n'` are characters; `'a` is a lifetime, whose name is left out too.
fn character_or_lifetime(rest: &str) -> usize {
    let mut characters = rest.char_indices().skip(1);
    match characters.next() {
        Some((_, '\\')) => {
            let escaped = characters.next().map_or(rest.len(), |(at, character)| at + character.len_utf8());
            rest[escaped..].find('\'').map_or(rest.len(), |end| escaped + end + 1)
        }
        Some((at, character)) => {
            let after = at + character.len_utf8();
            if rest[after..].starts_with('\'') {
                after + 1
            } else {
                rest[1..].find(|character: char| !is_word_character(character)).map_or(rest.len(), |end| end + 1)
            }
        }
        None => rest.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<&str> {
        tokens(source).into_iter().filter(Token::is_word).map(|token| token.text).collect()
    }

    #[test]
    fn comments_and_text_mention_nothing() {
        let source = "// one\n/* two /* three */ four */ kept(\"five \\\" six\", b\"seven\", r\"eight\", r#\"nine \" ten\"#, br##\"\"# eleven\"##) // twelve";
        assert_eq!(words(source), ["kept"]);
    }

    #[test]
    fn characters_and_lifetimes_do_not_open_text() {
        assert_eq!(words("a('\"', b, '\\'', c, '\\u{1f600}', d: &'long e, f<'_>, 'g')"), ["a", "b", "c", "d", "e", "f"]);
    }

    #[test]
    fn identifiers_that_only_begin_like_raw_text_are_kept() {
        assert_eq!(words("r#use br cr r bread"), ["use", "br", "cr", "r", "bread"]);
    }

    #[test]
    fn lines_are_counted_through_everything_that_is_left_out() {
        let source = "one\n/* \n */ two \"\n\n\" three\n'\n' four";
        let lines: Vec<(&str, usize)> = tokens(source).into_iter().map(|token| (token.text, token.line)).collect();
        assert_eq!(lines, [("one", 1), ("two", 3), ("three", 5), ("four", 7)]);
    }

    #[test]
    fn a_file_that_ends_in_the_middle_of_something_is_read_to_its_end() {
        for source in ["a \"b", "a /* b", "a r#\"b", "a '", "a '\\", "a \"b\\", "a //", "ä '\u{e9}"] {
            assert!(words(source).contains(&&source[..source.find(' ').unwrap()]), "{source}");
        }
    }
}
