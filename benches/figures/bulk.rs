//! Many enrolled devices, made in the database by copying the rows of one.
//!
//! A copy has ids, names, push token and pin of its own, and all else of the pattern: so a column that comes new is copied
//! without a word here, and only a table that comes new has to be added to [`TABLES`].

use muster::model::Timestamp;
use muster::pki::Certificate;
use uuid::Uuid;

use crate::sql::Sql;
use crate::{Result, tell};

/// Rows that are made in one statement.
const BATCH: usize = 100_000;
/// Rows in one statement of what is made here and not in the database.
const ROWS: usize = 200;
/// Most commands of one device.
const MOST_COMMANDS: usize = 16;

/// What a copy has of its own.
#[derive(Clone, Copy)]
enum Own {
    Device,
    Enrollment,
    Command,
    Report,
    Udid,
    Serial,
    Name,
    Token,
    Pin,
}

struct Table {
    name: &'static str,
    /// Once for each command of the device.
    per_command: bool,
    own: &'static [(&'static str, Own)],
}

const fn table(name: &'static str, own: &'static [(&'static str, Own)]) -> Table {
    Table { name, per_command: false, own }
}

const fn of_commands(name: &'static str, own: &'static [(&'static str, Own)]) -> Table {
    Table { name, per_command: true, own }
}

/// The tables in which an enrollment leaves rows, less that of certificates.
const TABLES: &[Table] = &[
    table("devices", &[("id", Own::Device), ("udid", Own::Udid), ("serial", Own::Serial), ("name", Own::Name)]),
    table(
        "enrollments",
        &[("id", Own::Enrollment), ("device_id", Own::Device), ("apple_id", Own::Udid), ("push_token", Own::Token)],
    ),
    table("identities", &[("enrollment_id", Own::Enrollment), ("sha256", Own::Pin)]),
    table("check_ins", &[("enrollment_id", Own::Enrollment)]),
    table("wakes", &[("enrollment_id", Own::Enrollment)]),
    table("webhook_lines", &[("device_id", Own::Device)]),
    table("webhook_events", &[("device_id", Own::Device), ("enrollment_id", Own::Enrollment)]),
    of_commands("commands", &[("id", Own::Command)]),
    of_commands(
        "deliveries",
        &[("enrollment_id", Own::Enrollment), ("command_id", Own::Command), ("report_id", Own::Report)],
    ),
    of_commands("delivery_transitions", &[("enrollment_id", Own::Enrollment), ("command_id", Own::Command)]),
    of_commands("reports", &[("enrollment_id", Own::Enrollment), ("id", Own::Report), ("command_id", Own::Command)]),
];

/// The ids and names of the devices.
#[derive(Clone, Copy)]
pub struct Names {
    /// The milliseconds in the first device's id.
    first: i64,
}

impl Names {
    /// Those of so many devices, of which the last enrolled just now.
    pub fn before(now: Timestamp, count: usize) -> Result<Self> {
        Ok(Self { first: now.micros() / 1000 - i64::try_from(count)? })
    }

    pub fn udid(number: usize) -> String {
        format!("00008140-{number:016X}")
    }

    pub fn serial(number: usize) -> String {
        format!("F{number:011}")
    }

    /// The id of a device's device channel.
    pub fn enrollment(self, number: usize) -> Result<Uuid> {
        self.uuid(0xe00, number)
    }

    /// The id of a device.
    pub fn device(self, number: usize) -> Result<Uuid> {
        self.uuid(0xd00, number)
    }

    fn uuid(self, kind: u16, number: usize) -> Result<Uuid> {
        let time = self.first + i64::try_from(number)?;
        Ok(Uuid::parse_str(&format!("{time:012x}7{kind:03x}8000{number:012x}"))?)
    }

    /// A UUIDv7 as an expression, for the device `i` and, in its end, `tail`.
    fn expression(self, is_postgres: bool, kind: &str, tail: &str) -> String {
        let first = self.first;
        if is_postgres {
            format!("(lpad(to_hex({first} + n.i), 12, '0') || '7{kind}8000' || lpad(to_hex({tail}), 12, '0'))::uuid")
        } else {
            format!("unhex(printf('%012x7{kind}8000%012x', {first} + n.i, {tail}))")
        }
    }
}

impl Own {
    fn expression(self, names: Names, is_postgres: bool) -> String {
        let command = format!("n.i * {MOST_COMMANDS} + h.j");
        let either = |postgres: &str, sqlite: &str| if is_postgres { postgres } else { sqlite }.to_owned();
        match self {
            Self::Device => names.expression(is_postgres, "d00", "n.i"),
            Self::Enrollment => names.expression(is_postgres, "e00", "n.i"),
            Self::Command => names.expression(is_postgres, "c00", &command),
            Self::Report => names.expression(is_postgres, "f00", &command),
            Self::Udid => either("'00008140-' || upper(lpad(to_hex(n.i), 16, '0'))", "printf('00008140-%016X', n.i)"),
            Self::Serial => either("'F' || lpad(n.i::text, 11, '0')", "printf('F%011d', n.i)"),
            Self::Name => either("'iPhone ' || lpad(n.i::text, 7, '0')", "printf('iPhone %07d', n.i)"),
            Self::Token => either("decode(lpad(to_hex(n.i), 64, '0'), 'hex')", "unhex(printf('%064x', n.i))"),
            Self::Pin => either(
                "COALESCE(d.sha256, sha256(convert_to('device ' || n.i, 'UTF8')))",
                "COALESCE(d.sha256, randomblob(32))",
            ),
        }
    }
}

/// A device that is driven: its number and its certificate.
pub struct Driven {
    pub number: usize,
    pub certificate: Certificate,
}

/// Copies the pattern, which must be the only enrollment, `count` times, with so many answered commands each.
pub async fn copy(sql: &mut Sql, names: Names, count: usize, commands: usize, driven: &[Driven]) -> Result<()> {
    let is_postgres = sql.is_postgres();
    put_driven(sql, driven).await?;
    let numbers: Vec<_> = (0..commands.min(MOST_COMMANDS)).map(|j| format!("({j})")).collect();
    sql.run(&format!(
        "CREATE TEMPORARY TABLE bench_commands (j BIGINT NOT NULL);
         INSERT INTO bench_commands VALUES {}",
        numbers.join(",")
    ))
    .await?;
    let mut indexes = Vec::new();
    for table in TABLES.iter().map(|table| table.name).chain(["certificates"]) {
        sql.run(&format!("CREATE TEMPORARY TABLE pattern_{table} AS SELECT * FROM {table}")).await?;
        // Made anew afterwards, which is faster than to keep them all the while.
        for (name, text) in sql.indexes(table).await? {
            sql.run(&format!("DROP INDEX {name}")).await?;
            indexes.push(text);
        }
    }
    for table in TABLES {
        let columns = sql.columns(table.name).await?;
        let values: Vec<_> = columns
            .iter()
            .map(|column| match table.own.iter().find(|(name, _)| name == column) {
                Some((_, own)) => own.expression(names, is_postgres),
                None => format!("t.{column}"),
            })
            .collect();
        let (columns, values, name) = (columns.join(", "), values.join(", "), table.name);
        let commands = if table.per_command { "CROSS JOIN bench_commands AS h" } else { "" };
        for from in (1..=count).step_by(BATCH) {
            let to = count.min(from + BATCH - 1);
            let (with, numbers) = if is_postgres {
                (String::new(), format!("generate_series({from}::bigint, {to}::bigint) AS n(i)"))
            } else {
                let with =
                    format!("WITH RECURSIVE n(i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM n WHERE i < {to})");
                (with, "n".to_owned())
            };
            sql.run(&format!(
                "INSERT INTO {name} ({columns}) {with} SELECT {values}
                   FROM {numbers} CROSS JOIN pattern_{name} AS t {commands} LEFT JOIN bench_driven AS d ON d.i = n.i"
            ))
            .await?;
            if count > BATCH {
                tell(&format!("    {name}: {to} of {count}"));
            }
        }
    }
    put_certificates(sql).await?;
    if count > BATCH {
        tell("    indexes");
    }
    for text in indexes {
        sql.run(&text).await?;
    }
    finish(sql).await
}

/// The pins of all have a certificate; that of most is not real.
async fn put_certificates(sql: &mut Sql) -> Result<()> {
    let columns = sql.columns("certificates").await?;
    let value = |column: &String| match column.as_str() {
        "sha256" | "enrollment_id" => format!("p.{column}"),
        "serial" if sql.is_postgres() => "encode(substr(p.sha256, 1, 16), 'hex')".to_owned(),
        "serial" => "lower(hex(substr(p.sha256, 1, 16)))".to_owned(),
        "der" => "COALESCE(d.der, t.der)".to_owned(),
        _ => format!("t.{column}"),
    };
    let values: Vec<_> = columns.iter().map(value).collect();
    sql.run(&format!(
        "INSERT INTO certificates ({}) SELECT {}
           FROM identities AS p CROSS JOIN pattern_certificates AS t LEFT JOIN bench_driven AS d ON d.sha256 = p.sha256
          WHERE p.sha256 <> t.sha256 ORDER BY p.sha256",
        columns.join(", "),
        values.join(", ")
    ))
    .await
}

async fn put_driven(sql: &mut Sql, driven: &[Driven]) -> Result<()> {
    let is_postgres = sql.is_postgres();
    let bytes = if is_postgres { "BYTEA" } else { "BLOB" };
    sql.run(&format!(
        "CREATE TEMPORARY TABLE bench_driven (i BIGINT NOT NULL PRIMARY KEY, sha256 {bytes} NOT NULL UNIQUE, der {bytes} NOT NULL)"
    ))
    .await?;
    for chunk in driven.chunks(ROWS) {
        let rows: Vec<_> = chunk
            .iter()
            .map(|one| {
                let (sha256, der) =
                    (bytes_of(&one.certificate.sha256.0, is_postgres), bytes_of(one.certificate.der(), is_postgres));
                format!("({}, {sha256}, {der})", one.number)
            })
            .collect();
        sql.run(&format!("INSERT INTO bench_driven VALUES {}", rows.join(","))).await?;
    }
    Ok(())
}

/// Bytes as a literal.
fn bytes_of(bytes: &[u8], is_postgres: bool) -> String {
    let hex = hex::encode(bytes);
    if is_postgres { format!("'\\x{hex}'::bytea") } else { format!("X'{hex}'") }
}

/// An id as a literal.
pub fn literal(id: &Uuid, is_postgres: bool) -> String {
    if is_postgres { format!("'{}'::uuid", id.hyphenated()) } else { bytes_of(id.as_bytes(), false) }
}

/// Leaves the database as it is after a while at rest.
pub async fn finish(sql: &mut Sql) -> Result<()> {
    if sql.is_postgres() {
        sql.run("VACUUM ANALYZE").await?;
        sql.run("CHECKPOINT").await
    } else {
        sql.run("PRAGMA wal_checkpoint(TRUNCATE)").await
    }
}
