use sqlx::FromRow;

use super::{Read, StoreError, Write};
use crate::model::{CommandId, DeviceId, EnrollmentId, ReportId, Timestamp};

/// A report's row.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct ReportRow {
    pub enrollment_id: EnrollmentId,
    pub id: ReportId,
    pub command_id: Option<CommandId>,
    pub command_uuid: Option<String>,
    pub status: String,
    pub size_bytes: i64,
    pub raw_sealed: Vec<u8>,
    pub received_at: Timestamp,
}

/// A report to be kept.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct NewReport<'a> {
    pub enrollment_id: EnrollmentId,
    pub id: ReportId,
    pub command_id: Option<CommandId>,
    pub command_uuid: Option<&'a str>,
    pub status: &'static str,
    pub size_bytes: i64,
    pub raw_sealed: &'a [u8],
}

/// The last that is known of a device, of one kind.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct InventoryRow {
    pub kind: String,
    pub data: String,
    pub updated_at: Timestamp,
}

impl Read {
    /// One report.
    pub async fn report(&mut self, enrollment: EnrollmentId, id: ReportId) -> Result<Option<ReportRow>, StoreError> {
        on!(
            self,
            fetch_optional,
            query_as("SELECT * FROM reports WHERE enrollment_id = $1 AND id = $2", enrollment, id)
        )
    }

    /// What is known of a device.
    pub async fn inventory(&mut self, device: DeviceId) -> Result<Vec<InventoryRow>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as("SELECT kind, data, updated_at FROM inventory WHERE device_id = $1 ORDER BY kind", device)
        )
    }
}

impl Write {
    /// Keeps a report.
    pub async fn insert_report(&mut self, new: &NewReport<'_>, now: Timestamp) -> Result<(), StoreError> {
        hot!(
            self,
            change,
            "INSERT INTO reports (enrollment_id, id, command_id, command_uuid, status, size_bytes, raw_sealed,
                                  received_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            new.enrollment_id,
            new.id,
            new.command_id,
            new.command_uuid,
            new.status,
            new.size_bytes,
            new.raw_sealed,
            now
        )
        .map(drop)
    }

    /// Keeps what a report told about a device; replaces what was known of this kind.
    pub async fn put_inventory(
        &mut self,
        device: DeviceId,
        kind: &str,
        data: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        hot!(
            self,
            change,
            "INSERT INTO inventory (device_id, kind, data, updated_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (device_id, kind) DO UPDATE SET data = excluded.data, updated_at = excluded.updated_at",
            device,
            kind,
            data,
            now
        )
        .map(drop)
    }
}
