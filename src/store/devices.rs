use sqlx::FromRow;

use super::{Read, StoreError, Write};
use crate::model::{DeviceId, EnrollmentId, LinkId, Platform, Timestamp};

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

/// A device with its device channel, for a list.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns are described in the migration")]
pub struct ListedDevice {
    #[sqlx(flatten)]
    pub device: Device,
    pub enrollment_id: Option<EnrollmentId>,
    pub state: Option<String>,
    pub enabled_at: Option<Timestamp>,
    pub last_seen_at: Option<Timestamp>,
}

/// Which devices a list shows. What is none does not matter.
#[derive(Clone, Debug, Default)]
pub struct DeviceFilter {
    /// Somewhere in name, serial number, UDID, model, user name or e-mail address; ASCII letters of either case.
    pub text: Option<String>,
    /// The serial number.
    pub serial: Option<String>,
    /// The name.
    pub name: Option<String>,
    /// The user's name or e-mail address; ASCII letters of either case.
    pub user: Option<String>,
    /// The state of the device channel. Without one, all but removed devices.
    pub state: Option<String>,
    /// The platform.
    pub platform: Option<String>,
}

/// The order of a list of devices; the id decides between equals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceOrder {
    /// By the time when they were first seen.
    Created,
    /// By name; ASCII letters of either case are the same.
    Name,
    /// By serial number.
    Serial,
}

impl Read {
    /// How many device channels are in each state.
    pub async fn count_devices(&mut self) -> Result<Vec<(String, i64)>, StoreError> {
        on!(
            self,
            fetch_all,
            query_as("SELECT state, COUNT(*) FROM enrollments WHERE parent_id IS NULL GROUP BY state ORDER BY state")
        )
    }

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
        on!(
            self,
            fetch_all,
            query_as("SELECT * FROM devices WHERE COALESCE(serial, '') = $1 AND removed_at IS NULL LIMIT 2", serial)
        )
    }
}

impl Write {
    /// A new device of Apple's, with nothing known but what the message tells.
    pub async fn insert_device(&mut self, id: DeviceId, facts: &DeviceFacts, now: Timestamp) -> Result<(), StoreError> {
        hot!(self, change,
            "INSERT INTO devices (id, platform, udid, apple_enrollment_id, serial, name, model, model_name, product_name,
                                  os_version, build_version, imei, supervised, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14)",
            id,
            Platform::Apple.as_str(),
            facts.udid.as_deref(),
            facts.apple_enrollment_id.as_deref(),
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

    /// Takes over what a message told; keeps the rest.
    pub async fn update_device(&mut self, id: DeviceId, facts: &DeviceFacts, now: Timestamp) -> Result<(), StoreError> {
        hot!(
            self,
            change,
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
        hot!(
            self,
            change,
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
