/// Rows of a list with filters, as far as it was looked through.
///
/// Where few rows fit the filters, a page would be the whole table. So a page looks through so many rows and no more: then it
/// is short, or empty, and says where to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice<T, K> {
    /// Those that fit, in the list's order.
    pub rows: Vec<T>,
    /// Where to go on, if fewer were found than asked for, and there may be more: after this place.
    pub more: Option<K>,
}

impl<T, K> Slice<T, K> {
    /// Rows of a list that was looked through to its end, or of which as many were found as asked for.
    pub const fn whole(rows: Vec<T>) -> Self {
        Self { rows, more: None }
    }
}

/// How many rows are looked through for one page, in steps: most pages are full after the first.
pub(super) const STEPS: [i64; 2] = [2_000, 18_000];
