//! Pages of a list: as many items as asked for, and a cursor to where the next page begins.
//!
//! A cursor holds the sort key of the last item shown, so a page is a range of an index, however far down the list it
//! is, and what is added or removed meanwhile moves nothing else. It also holds a digest of the list (path, filters,
//! order), so that a cursor of another list is refused instead of skipping something silently.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::Problem;
use crate::model::Sha256;
use crate::store::Slice;

/// Items of a page where the client says nothing.
const DEFAULT_LIMIT: i64 = 50;
/// Most items of a page.
pub(super) const MAX_LIMIT: i64 = 500;
/// The longest cursor that is looked at.
const MAX_CURSOR: usize = 4096;

/// One page of a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// The items, in the list's order.
    pub(super) items: Vec<T>,
    /// Where the next page begins; absent on the last page. With filters a page may be short, or empty, and not the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "WyI1ZjM0YTEiLCIwMTkzZjJhMCJd")]
    pub(super) next_cursor: Option<String>,
}

/// Which page of which list.
#[derive(Clone, Debug)]
pub(super) struct Window<K> {
    /// Where it begins: after the item with this key.
    pub(super) after: Option<K>,
    limit: i64,
    list: String,
}

impl<K: Serialize + DeserializeOwned> Window<K> {
    /// Reads `limit` and `cursor` of a request for `list`.
    ///
    /// # Errors
    /// `bad_cursor`.
    pub(super) fn read(limit: Option<i64>, cursor: Option<&str>, list: &str) -> Result<Self, Problem> {
        let list: String = Sha256::of(list.as_bytes()).hex().chars().take(12).collect();
        let after = cursor.map(|cursor| decode(cursor, &list)).transpose()?;
        Ok(Self { after, limit: limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT), list })
    }

    /// How many rows to read: one more than are shown, to know whether there is another page.
    pub(super) const fn rows(&self) -> i64 {
        self.limit + 1
    }

    /// The page of these rows. `key` is the row's place in the order.
    pub(super) fn page<R, T>(&self, rows: Vec<R>, key: impl Fn(&R) -> K, show: impl FnMut(R) -> T) -> Page<T> {
        self.slice(Slice::whole(rows), key, show)
    }

    /// The page of what was found in a part of the list: it may be short although there is more.
    pub(super) fn slice<R, T>(&self, slice: Slice<R, K>, key: impl Fn(&R) -> K, show: impl FnMut(R) -> T) -> Page<T> {
        let Slice { mut rows, more } = slice;
        let limit = usize::try_from(self.limit).unwrap_or(0);
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let next = if has_more { rows.last().map(key) } else { more };
        let next_cursor = next.map(|key| {
            // Ids and texts can always be written.
            let written = serde_json::to_vec(&Cursor { list: self.list.clone(), key }).unwrap_or_default();
            URL_SAFE_NO_PAD.encode(written)
        });
        Page { items: rows.into_iter().map(show).collect(), next_cursor }
    }
}

#[derive(Serialize, Deserialize)]
struct Cursor<K> {
    #[serde(rename = "l")]
    list: String,
    #[serde(rename = "k")]
    key: K,
}

fn decode<K: DeserializeOwned>(cursor: &str, list: &str) -> Result<K, Problem> {
    let read = |cursor: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(cursor.get(..cursor.len().min(MAX_CURSOR))?).ok()?;
        // Texts of a key go into comparisons, where PostgreSQL refuses U+0000.
        let read: Cursor<K> = serde_json::from_slice(&bytes).ok()?;
        let is_clean = !String::from_utf8_lossy(&bytes).contains("\\u0000");
        (read.list == list && is_clean).then_some(read.key)
    };
    read(cursor).ok_or_else(|| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "bad_cursor",
            "the cursor is none of this list with these filters and this order; begin without one",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(limit: i64, cursor: Option<&str>, list: &str) -> Result<Window<(String, u32)>, &'static str> {
        Window::read(Some(limit), cursor, list).map_err(|problem| problem.code())
    }

    #[test]
    fn a_cursor_leads_to_the_next_page_of_its_own_list() {
        let rows = |from: u32, count: u32| (from..from + count).collect::<Vec<_>>();
        let first = window(2, None, "a").unwrap();
        assert_eq!((first.rows(), first.after.clone()), (3, None));
        let page = first.page(rows(1, 3), |row| ("x".to_owned(), *row), |row| row * 10);
        assert_eq!(page.items, [10, 20]);
        let cursor = page.next_cursor.unwrap();
        let second = window(2, Some(&cursor), "a").unwrap();
        assert_eq!(second.after, Some(("x".to_owned(), 2)));
        let last = second.page(rows(3, 2), |row| ("x".to_owned(), *row), |row| row);
        assert_eq!(last.next_cursor, None);
        let short =
            second.slice(Slice { rows: rows(3, 1), more: Some(("x".to_owned(), 9)) }, |_| unreachable!(), |row| row);
        assert_eq!(short.items, [3]);
        assert_eq!(window(2, short.next_cursor.as_deref(), "a").unwrap().after, Some(("x".to_owned(), 9)));
        assert_eq!(window(2, Some(&cursor), "b").unwrap_err(), "bad_cursor");
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        let nul = URL_SAFE_NO_PAD.encode(r#"{"l":"ca978112ca1b","k":["\u0000",1]}"#);
        for wrong in ["", "x", "AAAA", "e30", &nul, &"A".repeat(100_000)] {
            assert_eq!(window(2, Some(wrong), "a").unwrap_err(), "bad_cursor", "{wrong}");
        }
    }
}
