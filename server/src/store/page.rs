//! Pages of lists: a cursor names the last item that was given, so that a list that grows meanwhile neither repeats nor skips.

use std::fmt::Display;
use std::str::FromStr;

use protocol::ErrorCode;
use protocol::rest::Page;

use super::StoreError;

/// Most items on one page.
pub const LIMIT_MAX: u32 = 100;

/// Which part of a list is wanted.
#[derive(Debug, Clone)]
pub struct PageRequest {
    /// 1 to [`LIMIT_MAX`]; more is cut to that.
    pub limit: u32,
    /// `next_cursor` of the page before; none for the first page.
    pub cursor: Option<String>,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { limit: LIMIT_MAX, cursor: None }
    }
}

impl PageRequest {
    /// One more than the page takes: the extra row only tells that there is a next page.
    pub(crate) fn rows_wanted(&self) -> i64 {
        i64::from(self.limit.clamp(1, LIMIT_MAX)) + 1
    }

    /// The position after which the page starts.
    pub(crate) fn after<T: FromStr>(&self) -> Result<Option<T>, StoreError> {
        let Some(cursor) = &self.cursor else { return Ok(None) };
        match cursor.parse() {
            Ok(position) => Ok(Some(position)),
            Err(_) => Err(StoreError::refused_because(ErrorCode::InvalidRequest, "the cursor is not one that this list has given")),
        }
    }

    /// Makes the page of up to [`PageRequest::rows_wanted`] items; `position` names an item so that [`PageRequest::after`] can read it back.
    pub(crate) fn page<T, P: Display>(&self, mut items: Vec<T>, position: impl Fn(&T) -> P) -> Page<T> {
        let limit = usize::try_from(self.limit.clamp(1, LIMIT_MAX)).unwrap_or(usize::MAX);
        let more = items.len() > limit;
        items.truncate(limit);
        let next_cursor = items.last().filter(|_| more).map(|item| position(item).to_string());
        Page { items, next_cursor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extra_row_becomes_a_cursor_and_is_not_shown() {
        let request = PageRequest { limit: 2, cursor: None };
        assert_eq!(request.rows_wanted(), 3);
        let page = request.page(vec![10, 20, 30], |item| *item);
        assert_eq!((page.items, page.next_cursor), (vec![10, 20], Some("20".to_owned())));
        let last = PageRequest { limit: 2, cursor: Some("20".to_owned()) };
        assert_eq!(last.after::<i64>().unwrap(), Some(20));
        assert_eq!(last.page(vec![30, 40], |item| *item).next_cursor, None);
    }

    #[test]
    fn a_cursor_of_another_list_is_the_clients_error() {
        let request = PageRequest { limit: 2, cursor: Some("x".to_owned()) };
        assert_eq!(request.after::<i64>().unwrap_err().code(), ErrorCode::InvalidRequest);
    }

    #[test]
    fn a_limit_out_of_range_is_brought_into_it() {
        assert_eq!(PageRequest { limit: 0, cursor: None }.rows_wanted(), 2);
        assert_eq!(PageRequest { limit: u32::MAX, cursor: None }.rows_wanted(), 101);
    }
}
