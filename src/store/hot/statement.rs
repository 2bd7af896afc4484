use std::sync::{Arc, OnceLock};

use super::Value;
use crate::store::connect::without_lock;

/// A statement that many devices need at once: one text, for one of them.
///
/// SQLite runs it as it stands. On PostgreSQL, where the way to the database and back is what costs, it is run for many at
/// once: their arguments become a table `a` (`place`, `p1`, `p2`, …), and the text for it is derived from this one:
///
/// - `SELECT …` becomes `SELECT a.place, q.* FROM a CROSS JOIN LATERAL (SELECT …) q`,
/// - `UPDATE t SET … WHERE …` becomes `UPDATE t SET … FROM a WHERE …`,
/// - `DELETE FROM t WHERE …` becomes `DELETE FROM t USING a WHERE …`,
/// - `INSERT INTO t (…) VALUES (…) …` becomes `INSERT INTO t (…) SELECT … FROM a WHERE TRUE …`,
///
/// with `a.p1` for `$1`. What many write at once has to be different rows: see [`Statement::writes`].
pub(in crate::store) struct Statement {
    sql: &'static str,
    /// Where the derived text would not do: one with `{a}` for the table.
    many: Option<&'static str>,
    lite: OnceLock<Arc<str>>,
    derived: OnceLock<Arc<str>>,
}

/// What a statement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Kind {
    Select,
    Update,
    Insert,
    Delete,
}

impl Statement {
    pub(in crate::store) const fn new(sql: &'static str) -> Self {
        Self { sql, many: None, lite: OnceLock::new(), derived: OnceLock::new() }
    }

    /// A statement whose text for many cannot be derived. It must not matter how many rows it changes.
    pub(in crate::store) const fn with_many(sql: &'static str, many: &'static str) -> Self {
        Self { sql, many: Some(many), lite: OnceLock::new(), derived: OnceLock::new() }
    }

    /// The text for one, on PostgreSQL.
    pub(in crate::store) const fn one(&self) -> &'static str {
        self.sql
    }

    /// The text for one, on SQLite, where `$1` is a name, and `?1` a number.
    pub(in crate::store) fn sqlite(&self) -> &Arc<str> {
        self.lite.get_or_init(|| without_lock(self.sql).replace('$', "?").into())
    }

    /// The text for many, on PostgreSQL. `arguments` tell the types.
    pub(in crate::store) fn many(&self, arguments: &[Value]) -> Arc<str> {
        Arc::clone(self.derived.get_or_init(|| match self.many {
            Some(text) => text.replace("{a}", &table(arguments)).into(),
            None => derive(self.sql, &table(arguments)).into(),
        }))
    }

    pub(in crate::store) fn kind(&self) -> Kind {
        match self.sql.get(..6) {
            Some("SELECT") => Kind::Select,
            Some("UPDATE") => Kind::Update,
            Some("INSERT") => Kind::Insert,
            _ => Kind::Delete,
        }
    }

    /// Whether it changes anything. Those that run at once must have different first arguments then, unless the text for
    /// many adds them up.
    pub(in crate::store) fn writes(&self) -> bool {
        self.kind() != Kind::Select
    }

    /// Whether the text for many takes any arguments, and tells nothing about each.
    pub(in crate::store) const fn adds_up(&self) -> bool {
        self.many.is_some()
    }

    /// Whether rows come back, beside the number of those that were changed.
    pub(in crate::store) fn returns(&self) -> bool {
        self.kind() == Kind::Select || self.sql.contains(" RETURNING ")
    }
}

/// The table of arguments: arrays side by side.
fn table(arguments: &[Value]) -> String {
    if arguments.is_empty() {
        // Its length is that of the only array.
        return "unnest($1::BIGINT[]) WITH ORDINALITY AS a (p1, place)".to_owned();
    }
    let arrays: Vec<_> = arguments
        .iter()
        .enumerate()
        .map(|(at, value)| {
            let kind = match value {
                Value::Uuid(_) => "UUID",
                Value::Bytes(_) => "BYTEA",
                Value::Text(_) => "TEXT",
                Value::Int(_) => "BIGINT",
                Value::Bool(_) => "BOOLEAN",
            };
            format!("${}::{kind}[]", at + 1)
        })
        .collect();
    let names: Vec<_> = (1..=arguments.len()).map(|n| format!("p{n}")).collect();
    format!("unnest({}) WITH ORDINALITY AS a ({}, place)", arrays.join(", "), names.join(", "))
}

fn derive(sql: &str, table: &str) -> String {
    let text = by_name(sql);
    match sql.get(..6) {
        Some("SELECT") => format!("SELECT a.place, q.* FROM {table} CROSS JOIN LATERAL ({text}) q"),
        Some("INSERT") => {
            // The arguments stand in the last pair of parentheses before any ON CONFLICT or RETURNING.
            let Some((before, rest)) = text.split_once("VALUES (") else { return text };
            let end = closing(rest);
            let (values, after) = (rest.get(..end).unwrap_or_default(), rest.get(end + 1..).unwrap_or_default());
            format!("{before}SELECT {values} FROM {table} WHERE TRUE{after}")
        }
        kind => {
            let at = outermost(&text, "WHERE ").unwrap_or(text.len());
            let (before, after) = text.split_at(at);
            let word = if kind == Some("UPDATE") { "FROM" } else { "USING" };
            let (condition, columns) = match outermost(after, "RETURNING ") {
                Some(at) => (after.get(..at).unwrap_or_default(), after.get(at + 10..)),
                None => (after, None),
            };
            let columns = columns.map(|columns| format!(", {columns}")).unwrap_or_default();
            format!("{before}{word} {table} {} RETURNING a.place{columns}", condition.trim_end())
        }
    }
}

/// `a.p1` for `$1`.
fn by_name(sql: &str) -> String {
    let mut text = String::with_capacity(sql.len() + 32);
    let mut rest = sql;
    while let Some((before, after)) = rest.split_once('$') {
        text.push_str(before);
        text.push_str("a.p");
        rest = after;
    }
    text.push_str(rest);
    text
}

/// Where the parenthesis that is open at the beginning is closed.
fn closing(text: &str) -> usize {
    let mut depth = 1_usize;
    for (at, char) in text.char_indices() {
        match char {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// Where a word stands outside of all parentheses.
fn outermost(text: &str, word: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, char) in text.char_indices() {
        match char {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ if depth == 0 && text.get(at..).is_some_and(|rest| rest.starts_with(word)) => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_for_many_is_derived_from_that_for_one() {
        for (one, many) in [
            (
                "SELECT x FROM t WHERE id = $1 AND y > $12 ORDER BY x LIMIT 3 FOR UPDATE",
                "SELECT a.place, q.* FROM A CROSS JOIN LATERAL (SELECT x FROM t WHERE id = a.p1 AND y > a.p12 ORDER BY x \
                 LIMIT 3 FOR UPDATE) q",
            ),
            (
                "UPDATE t SET x = (SELECT u.x FROM u WHERE u.id = $2) WHERE id = $1",
                "UPDATE t SET x = (SELECT u.x FROM u WHERE u.id = a.p2) FROM A WHERE id = a.p1 RETURNING a.place",
            ),
            (
                "UPDATE t SET n = n + 1 WHERE id = $1 RETURNING n",
                "UPDATE t SET n = n + 1 FROM A WHERE id = a.p1 RETURNING a.place, n",
            ),
            ("DELETE FROM t WHERE id = $1", "DELETE FROM t USING A WHERE id = a.p1 RETURNING a.place"),
            (
                "INSERT INTO t (a, b) VALUES ($1, COALESCE($2, 1)) ON CONFLICT (a) DO UPDATE SET b = excluded.b",
                "INSERT INTO t (a, b) SELECT a.p1, COALESCE(a.p2, 1) FROM A WHERE TRUE ON CONFLICT (a) DO UPDATE SET b = \
                 excluded.b",
            ),
        ] {
            assert_eq!(derive(one, "A"), many);
        }
    }

    #[test]
    fn the_table_of_arguments_has_their_types() {
        let arguments = [Value::Uuid(None), Value::Int(Some(1)), Value::Text(None)];
        assert_eq!(
            table(&arguments),
            "unnest($1::UUID[], $2::BIGINT[], $3::TEXT[]) WITH ORDINALITY AS a (p1, p2, p3, place)"
        );
    }
}
