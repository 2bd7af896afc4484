use sqlx::FromRow;

use super::{Read, StoreError, Write};
use crate::model::{DeviceId, LinkId, Platform, Timestamp};

/// A device's row.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct Device {
    pub id: DeviceId,
    pub platform: String,
    pub udid: Option<String>,
    pub apple_enrollment_id: Option<String>,
    pub serial: Option<String>,
    pub name: Option<String>,
    pub model: Option<String>,
    pub model_name: Option<String>,
    pub product_name: Option<String>,
    pub os_version: Option<String>,
    pub build_version: Option<String>,
    pub imei: Option<String>,
    pub supervised: Option<bool>,
    pub user_name: Option<String>,
    pub user_email: Option<String>,
    pub link_id: Option<LinkId>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub removed_at: Option<Timestamp>,
}

/// What a message told about a device; what it did not tell stays as it was.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct DeviceFacts {
    pub udid: Option<String>,
    pub apple_enrollment_id: Option<String>,
    pub serial: Option<String>,
    pub name: Option<String>,
    pub model: Option<String>,
    pub model_name: Option<String>,
    pub product_name: Option<String>,
    pub os_version: Option<String>,
    pub build_version: Option<String>,
    pub imei: Option<String>,
    pub supervised: Option<bool>,
}

impl Read {
    /// The device with this id.
    pub async fn device(&mut self, id: DeviceId) -> Result<Option<Device>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM devices WHERE id = $1", id))
    }

    /// The device with this UDID.
    pub async fn device_by_udid(&mut self, udid: &str) -> Result<Option<Device>, StoreError> {
        on!(self, fetch_optional, query_as("SELECT * FROM devices WHERE udid = $1", udid))
    }

    /// The devices with this serial number (two at most are read: one more than is useful).
    pub async fn devices_by_serial(&mut self, serial: &str) -> Result<Vec<Device>, StoreError> {
        on!(self, fetch_all, query_as("SELECT * FROM devices WHERE serial = $1 AND removed_at IS NULL LIMIT 2", serial))
    }
}

impl Write {
    /// A new device of Apple's, with nothing known but what the message tells.
    pub async fn insert_device(&mut self, id: DeviceId, facts: &DeviceFacts, now: Timestamp) -> Result<(), StoreError> {
        run!(
            self,
            "INSERT INTO devices (id, platform, udid, apple_enrollment_id, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $5)",
            id,
            Platform::Apple.as_str(),
            facts.udid.as_deref(),
            facts.apple_enrollment_id.as_deref(),
            now
        )?;
        self.update_device(id, facts, now).await
    }

    /// Takes over what a message told; keeps the rest.
    pub async fn update_device(&mut self, id: DeviceId, facts: &DeviceFacts, now: Timestamp) -> Result<(), StoreError> {
        run!(
            self,
            "UPDATE devices
                SET serial = COALESCE($2, serial), name = COALESCE($3, name), model = COALESCE($4, model),
                    model_name = COALESCE($5, model_name), product_name = COALESCE($6, product_name),
                    os_version = COALESCE($7, os_version), build_version = COALESCE($8, build_version),
                    imei = COALESCE($9, imei), supervised = COALESCE($10, supervised),
                    updated_at = $11
              WHERE id = $1",
            id,
            facts.serial.as_deref(),
            facts.name.as_deref(),
            facts.model.as_deref(),
            facts.model_name.as_deref(),
            facts.product_name.as_deref(),
            facts.os_version.as_deref(),
            facts.build_version.as_deref(),
            facts.imei.as_deref(),
            facts.supervised,
            now
        )
        .map(drop)
    }

    /// Whose device this is, as the enrollment link says; brings a removed device back.
    pub async fn set_device_owner(
        &mut self,
        id: DeviceId,
        link: Option<LinkId>,
        user_name: Option<&str>,
        user_email: Option<&str>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        run!(
            self,
            "UPDATE devices
                SET link_id = $2, user_name = $3, user_email = $4, removed_at = NULL, updated_at = $5
              WHERE id = $1",
            id,
            link,
            user_name,
            user_email,
            now
        )
        .map(drop)
    }

    /// Marks a device as removed by an admin. Its history stays.
    pub async fn remove_device(&mut self, id: DeviceId, now: Timestamp) -> Result<bool, StoreError> {
        Ok(run!(
            self,
            "UPDATE devices SET removed_at = $2, updated_at = $2 WHERE id = $1 AND removed_at IS NULL",
            id,
            now
        )? == 1)
    }
}
