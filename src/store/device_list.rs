use uuid::Uuid;

use super::slice::STEPS;
use super::{DeviceFilter, DeviceOrder, ListedDevice, Read, Slice, StoreError};
use crate::model::DeviceId;

/// The place of a device in a list: its key in the order, and its id.
pub type DevicePlace = (String, DeviceId);

/// Most devices that are found by an index and then put in order. Where more fit, the list is looked through in its order
/// instead: then many of those that come fit.
const MOST: i64 = 1_000;

/// Which devices, by an index: those with this serial number, name, user, or text. A text that is a whole serial number,
/// UDID or e-mail address means that device, and none in which it happens to stand.
macro_rules! found {
    (serial, $value:literal) => {
        concat!("SELECT id FROM devices WHERE COALESCE(serial, '') = ", $value)
    };
    (name, $value:literal) => {
        concat!("SELECT id FROM devices WHERE lower(COALESCE(name, '')) = lower(", $value, ")")
    };
    (user, $value:literal) => {
        concat!(
            "SELECT id FROM devices WHERE user_name IS NOT NULL AND lower(user_name) = lower(",
            $value,
            ")
              UNION SELECT id FROM devices WHERE user_email IS NOT NULL AND lower(user_email) = lower(",
            $value,
            ")"
        )
    };
    (text, $value:literal) => {
        concat!(
            "SELECT id FROM devices WHERE COALESCE(serial, '') IN (",
            $value,
            ", upper(",
            $value,
            "))
              UNION SELECT id FROM devices WHERE udid IN (",
            $value,
            ", upper(",
            $value,
            "), lower(",
            $value,
            "))
              UNION SELECT id FROM devices WHERE user_email IS NOT NULL AND lower(user_email) = lower(",
            $value,
            ")"
        )
    };
}

/// How many are found so, at most one more than [`MOST`].
macro_rules! count_found {
    ($what:tt) => {
        concat!("SELECT COUNT(*) FROM (SELECT 1 FROM (", found!($what, "$1"), ") f LIMIT 1001) g")
    };
}

/// The text of a list: one for each order, so that each is a range of its index, up to a place in it.
macro_rules! list {
    ($narrow:expr, $key:literal, $compare:literal, $turned:literal, $direction:literal) => {
        concat!(
            "SELECT d.*, e.id AS enrollment_id, e.state, e.enabled_at, e.last_seen_at
               FROM devices d LEFT JOIN enrollments e ON e.device_id = d.id AND e.parent_id IS NULL
              WHERE ", $key, " ", $compare, "= $1 AND (", $key, " ", $compare, " $1 OR d.id ", $compare, " $2)
                AND ", $key, " ", $turned, "= $10 AND (", $key, " ", $turned, " $10 OR d.id ", $turned, "= $11)
                AND ($3 IS NULL OR d.serial = $3) AND ($4 IS NULL OR d.name = $4)
                AND ($5 IS NULL OR lower(d.user_name) = lower($5) OR lower(d.user_email) = lower($5))
                AND ($6 IS NULL OR e.state = $6) AND ($6 IS NOT NULL OR d.removed_at IS NULL)
                AND ($7 IS NULL OR d.platform = $7)
                AND ($8 IS NULL OR lower(d.name) LIKE lower($8) ESCAPE '!' OR lower(d.serial) LIKE lower($8) ESCAPE '!'
                     OR lower(d.udid) LIKE lower($8) ESCAPE '!' OR lower(d.model_name) LIKE lower($8) ESCAPE '!'
                     OR lower(d.user_name) LIKE lower($8) ESCAPE '!' OR lower(d.user_email) LIKE lower($8) ESCAPE '!')
                AND ",
            $narrow,
            " ORDER BY ", $key, " ", $direction, ", d.id ", $direction, " LIMIT $9"
        )
    };
}

/// The texts for what the list is narrowed to. `$12` is a text to look for by an index, which the others do not use.
macro_rules! lists {
    ($narrow:expr, $key:literal, $compare:literal, $turned:literal, $direction:literal) => {
        match $narrow {
            None => list!("(CAST($12 AS TEXT) IS NULL OR TRUE)", $key, $compare, $turned, $direction),
            Some(Narrow::Serial) => narrowed!(serial, "$3", $key, $compare, $turned, $direction),
            Some(Narrow::Name) => narrowed!(name, "$4", $key, $compare, $turned, $direction),
            Some(Narrow::User) => narrowed!(user, "$5", $key, $compare, $turned, $direction),
            Some(Narrow::Text) => narrowed!(text, "$12", $key, $compare, $turned, $direction),
        }
    };
}

macro_rules! narrowed {
    ($what:tt, $value:literal, $key:literal, $compare:literal, $turned:literal, $direction:literal) => {
        list!(
            concat!("(CAST($12 AS TEXT) IS NULL OR TRUE) AND d.id IN (", found!($what, $value), ")"),
            $key,
            $compare,
            $turned,
            $direction
        )
    };
}

/// The row so many rows behind a place.
macro_rules! behind {
    ($key:literal, $compare:literal, $direction:literal) => {
        concat!(
            "SELECT ",
            $key,
            ", d.id FROM devices d
              WHERE ",
            $key,
            " ",
            $compare,
            "= $1 AND (",
            $key,
            " ",
            $compare,
            " $1 OR d.id ",
            $compare,
            " $2)
              ORDER BY ",
            $key,
            " ",
            $direction,
            ", d.id ",
            $direction,
            " LIMIT 1 OFFSET $3"
        )
    };
}

/// What a list can be narrowed to before it is put in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Narrow {
    Serial,
    Name,
    User,
    Text,
}

/// A pattern for LIKE with `!` as its escape: the text anywhere.
fn anywhere(text: &str) -> String {
    let escaped: String =
        text.chars().flat_map(|c| matches!(c, '%' | '_' | '!').then_some('!').into_iter().chain([c])).collect();
    format!("%{escaped}%")
}

pub(super) fn text_of(order: DeviceOrder, is_descending: bool, narrow: Option<Narrow>) -> &'static str {
    match (order, is_descending) {
        (DeviceOrder::Created, false) => lists!(narrow, "d.id", ">", "<", "ASC"),
        (DeviceOrder::Created, true) => lists!(narrow, "d.id", "<", ">", "DESC"),
        (DeviceOrder::Name, false) => lists!(narrow, "lower(COALESCE(d.name, ''))", ">", "<", "ASC"),
        (DeviceOrder::Name, true) => lists!(narrow, "lower(COALESCE(d.name, ''))", "<", ">", "DESC"),
        (DeviceOrder::Serial, false) => lists!(narrow, "COALESCE(d.serial, '')", ">", "<", "ASC"),
        (DeviceOrder::Serial, true) => lists!(narrow, "COALESCE(d.serial, '')", "<", ">", "DESC"),
    }
}

/// A place before all others in ascending order, or behind all.
fn end_of_all(is_behind: bool) -> DevicePlace {
    if is_behind { ("\u{10ffff}".to_owned(), DeviceId(Uuid::max())) } else { (String::new(), DeviceId(Uuid::nil())) }
}

impl Read {
    /// The next devices of a list, after the one with the key and id `after` (the first ones without it).
    ///
    /// What an index finds is found by it, however many devices there are; else no more than a bounded part of the list is
    /// looked through.
    pub async fn list_devices(
        &mut self,
        filter: &DeviceFilter,
        order: DeviceOrder,
        is_descending: bool,
        after: Option<(&str, DeviceId)>,
        limit: i64,
    ) -> Result<Slice<ListedDevice, DevicePlace>, StoreError> {
        let mut from = after.map_or_else(|| end_of_all(is_descending), |(key, id)| (key.to_owned(), id));
        let narrow = self.narrow(filter).await?;
        let looks_through = filter.state.is_some()
            || filter.platform.is_some()
            || filter.text.is_some()
            || filter.name.is_some()
            || filter.user.is_some();
        if narrow.is_some() || !looks_through {
            let sql = text_of(order, is_descending, narrow);
            let to = end_of_all(!is_descending);
            return self.devices_between(sql, filter, order, (&from, &to), limit).await.map(Slice::whole);
        }
        let sql = text_of(order, is_descending, None);
        let mut rows = Vec::new();
        for step in STEPS {
            let end = self.device_behind(order, is_descending, &from, step).await?;
            let to = end.clone().unwrap_or_else(|| end_of_all(!is_descending));
            let left = limit.saturating_sub(i64::try_from(rows.len()).unwrap_or(limit));
            rows.extend(self.devices_between(sql, filter, order, (&from, &to), left).await?);
            let is_full = i64::try_from(rows.len()).is_ok_and(|count| count >= limit);
            match end {
                Some(end) if !is_full => from = end,
                _ => return Ok(Slice::whole(rows)),
            }
        }
        Ok(Slice { rows, more: Some(from) })
    }

    /// What the list is narrowed to.
    async fn narrow(&mut self, filter: &DeviceFilter) -> Result<Option<Narrow>, StoreError> {
        let by = [
            (Narrow::Serial, &filter.serial, count_found!(serial)),
            (Narrow::User, &filter.user, count_found!(user)),
            (Narrow::Name, &filter.name, count_found!(name)),
            (Narrow::Text, &filter.text, count_found!(text)),
        ];
        for (narrow, value, sql) in by {
            let Some(value) = value else { continue };
            let found: i64 = on!(self, fetch_one, query_scalar(sql, value.as_str()))?;
            // A text that names no device is looked for everywhere.
            if found <= MOST && (narrow != Narrow::Text || found > 0) {
                return Ok(Some(narrow));
            }
        }
        Ok(None)
    }

    async fn devices_between(
        &mut self,
        sql: &'static str,
        filter: &DeviceFilter,
        order: DeviceOrder,
        (from, to): (&DevicePlace, &DevicePlace),
        limit: i64,
    ) -> Result<Vec<ListedDevice>, StoreError> {
        let pattern = filter.text.as_deref().map(anywhere);
        let (serial, name, user) = (filter.serial.as_deref(), filter.name.as_deref(), filter.user.as_deref());
        let (state, platform, pattern) = (filter.state.as_deref(), filter.platform.as_deref(), pattern.as_deref());
        let text = filter.text.as_deref();
        if order == DeviceOrder::Created {
            return on!(
                self,
                fetch_all,
                query_as(sql, from.1, from.1, serial, name, user, state, platform, pattern, limit, to.1, to.1, text)
            );
        }
        let (key, end) = (from.0.as_str(), to.0.as_str());
        on!(
            self,
            fetch_all,
            query_as(sql, key, from.1, serial, name, user, state, platform, pattern, limit, end, to.1, text)
        )
    }

    /// The place of the row that is so many rows behind a place; none if there are fewer.
    async fn device_behind(
        &mut self,
        order: DeviceOrder,
        is_descending: bool,
        from: &DevicePlace,
        rows: i64,
    ) -> Result<Option<DevicePlace>, StoreError> {
        if order == DeviceOrder::Created {
            let sql = if is_descending { behind!("d.id", "<", "DESC") } else { behind!("d.id", ">", "ASC") };
            let found: Option<(DeviceId, DeviceId)> =
                on!(self, fetch_optional, query_as(sql, from.1, from.1, rows - 1))?;
            return Ok(found.map(|(id, _)| (String::new(), id)));
        }
        let sql = match (order, is_descending) {
            (DeviceOrder::Name, false) => behind!("lower(COALESCE(d.name, ''))", ">", "ASC"),
            (DeviceOrder::Name, true) => behind!("lower(COALESCE(d.name, ''))", "<", "DESC"),
            (_, false) => behind!("COALESCE(d.serial, '')", ">", "ASC"),
            (_, true) => behind!("COALESCE(d.serial, '')", "<", "DESC"),
        };
        on!(self, fetch_optional, query_as(sql, from.0.as_str(), from.1, rows - 1))
    }
}
