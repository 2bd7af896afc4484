//! PostgreSQL: one statement for many.

use std::sync::Arc;

use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Column as _, Postgres, Row as _, TypeInfo as _};
use uuid::Uuid;

use super::sqlite::Outcome;
use super::{Kind, Statement, Value};
use crate::store::StoreError;

/// Runs a statement for one.
pub(in crate::store) async fn run(
    connection: &mut PgConnection,
    statement: &Statement,
    arguments: Vec<Value>,
) -> Result<Outcome, StoreError> {
    let query = bound!(sqlx::query(statement.one()), arguments);
    if !statement.returns() {
        let changed = query.execute(connection).await?.rows_affected();
        return Ok(Outcome { rows: Vec::new(), changed });
    }
    let rows: Result<Vec<_>, _> = query.fetch_all(connection).await?.iter().map(|row| cells(row, 0)).collect();
    let rows = rows?;
    Ok(Outcome { changed: rows.len().try_into().unwrap_or(u64::MAX), rows })
}

/// Runs a statement for many at once: what it led to for each, in their order.
///
/// Nobody can tell which rows an `INSERT` left out because of a conflict: where it left out any, [`None`].
pub(in crate::store) async fn run_many(
    connection: &mut PgConnection,
    statement: &Statement,
    arguments: Vec<Vec<Value>>,
) -> Result<Option<Vec<Outcome>>, StoreError> {
    let count = arguments.len();
    let text = statement.many(arguments.first().map(Vec::as_slice).unwrap_or_default());
    let query = bind(sqlx::query(AssertSqlSafe(Arc::clone(&text))), arguments)?;
    let mut outcomes: Vec<Outcome> = (0..count).map(|_| Outcome::default()).collect();
    if statement.kind() == Kind::Insert || statement.adds_up() {
        let changed = query.execute(connection).await?.rows_affected();
        if !statement.adds_up() && changed != u64::try_from(count).unwrap_or(u64::MAX) {
            return Ok(None);
        }
        outcomes.iter_mut().for_each(|outcome| outcome.changed = 1);
        return Ok(Some(outcomes));
    }
    for row in query.fetch_all(connection).await? {
        let place: i64 = row.try_get(0)?;
        let outcome = usize::try_from(place).ok().and_then(|place| outcomes.get_mut(place.checked_sub(1)?));
        let outcome = outcome.ok_or_else(|| StoreError::Broken(format!("an answer to question {place} of {count}")))?;
        outcome.changed += 1;
        if statement.returns() {
            outcome.rows.push(cells(&row, 1)?);
        }
    }
    Ok(Some(outcomes))
}

type Bound<'q> = Query<'q, Postgres, PgArguments>;

/// Binds the arguments of all, as one array for each place.
fn bind(mut query: Bound<'_>, arguments: Vec<Vec<Value>>) -> Result<Bound<'_>, StoreError> {
    let count = arguments.len();
    let width = arguments.first().map_or(0, Vec::len);
    if width == 0 {
        return Ok(query.bind(vec![0_i64; count]));
    }
    let mut columns: Vec<Vec<Value>> = (0..width).map(|_| Vec::with_capacity(count)).collect();
    for row in arguments {
        for (column, value) in columns.iter_mut().zip(row) {
            column.push(value);
        }
    }
    for column in columns {
        macro_rules! array {
            ($variant:ident, $type:ty) => {{
                let values: Result<Vec<Option<$type>>, _> = column
                    .into_iter()
                    .map(|value| match value {
                        Value::$variant(value) => Ok(value),
                        _ => Err(StoreError::Broken("the arguments of one place differ in their types".to_owned())),
                    })
                    .collect();
                query.bind(values?)
            }};
        }
        query = match column.first() {
            Some(Value::Uuid(_)) => array!(Uuid, Uuid),
            Some(Value::Bytes(_)) => array!(Bytes, Vec<u8>),
            Some(Value::Text(_)) => array!(Text, String),
            Some(Value::Bool(_)) => array!(Bool, bool),
            _ => array!(Int, i64),
        };
    }
    Ok(query)
}

/// The columns of a row from `first` on.
fn cells(row: &PgRow, first: usize) -> Result<Vec<Value>, StoreError> {
    row.columns()
        .iter()
        .skip(first)
        .map(|column| {
            let at = column.ordinal();
            Ok(match column.type_info().name() {
                "UUID" => Value::Uuid(row.try_get(at)?),
                "BYTEA" => Value::Bytes(row.try_get(at)?),
                "TEXT" => Value::Text(row.try_get(at)?),
                "INT8" => Value::Int(row.try_get(at)?),
                "BOOL" => Value::Bool(row.try_get(at)?),
                other => return Err(StoreError::Broken(format!("a column of the type {other}"))),
            })
        })
        .collect()
}
