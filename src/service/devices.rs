//! Devices as admins see them: found, listed, shown, woken, removed, and let enroll again.

mod manage;
mod view;

use std::fmt;
use std::str::FromStr;

use super::{App, Error};
use crate::model::DeviceId;
use crate::store::{DeviceFilter, DeviceOrder, DevicePlace, ListedDevice, Read, Slice};

pub use manage::{Woken, approve_reenrollment, remove, wake};
pub use view::{ChannelView, DeviceView, IdentityState, IdentityView, get};

/// How an admin names a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// By our id.
    Id(DeviceId),
    /// `udid:…`: by Apple's.
    Udid(String),
    /// `serial:…`: by the serial number.
    Serial(String),
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // What PostgreSQL's texts cannot hold is nobody's serial number.
        let clean = |text: &str| (!text.is_empty() && !text.contains('\0')).then(|| text.to_owned());
        let named = if let Some(udid) = text.strip_prefix("udid:") {
            clean(udid).map(Self::Udid)
        } else if let Some(serial) = text.strip_prefix("serial:") {
            clean(serial).map(Self::Serial)
        } else {
            text.parse().ok().map(Self::Id)
        };
        named.ok_or_else(|| "expected a device's id, udid:UDID or serial:NUMBER".to_owned())
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Udid(udid) => write!(f, "udid:{udid}"),
            Self::Serial(serial) => write!(f, "serial:{serial}"),
        }
    }
}

/// The device that is named.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] `ambiguous_device` where several have this serial number.
pub async fn find(app: &App, name: &DeviceName) -> Result<DeviceId, Error> {
    find_in(&mut app.store.begin_read().await?, name).await
}

async fn find_in(read: &mut Read, name: &DeviceName) -> Result<DeviceId, Error> {
    let found = match name {
        DeviceName::Id(id) => read.device(*id).await?,
        DeviceName::Udid(udid) => read.device_by_udid(udid).await?,
        DeviceName::Serial(serial) => {
            let mut found = read.devices_by_serial(serial).await?;
            if found.len() > 1 {
                let detail = format!("several devices have the serial number {serial}; use the device's id");
                return Err(Error::conflict("ambiguous_device", detail));
            }
            found.pop()
        }
    };
    found.map(|device| device.id).ok_or_else(|| Error::NotFound(format!("there is no device {name}")))
}

/// The devices that are named, in the same order; ids are taken as they are. For each that cannot be found, its index
/// and why.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn find_all(app: &App, names: &[DeviceName]) -> Result<Result<Vec<DeviceId>, Vec<(usize, String)>>, Error> {
    let mut read = app.store.begin_read().await?;
    let (mut found, mut missing) = (Vec::with_capacity(names.len()), Vec::new());
    for (index, name) in names.iter().enumerate() {
        if let DeviceName::Id(id) = name {
            found.push(*id);
            continue;
        }
        match find_in(&mut read, name).await {
            Ok(id) => found.push(id),
            Err(Error::NotFound(why) | Error::Conflict { detail: why, .. }) => missing.push((index, why)),
            Err(other) => return Err(other),
        }
    }
    Ok(if missing.is_empty() { Ok(found) } else { Err(missing) })
}

/// The next devices of a list, after the one with the key and id `after`.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn list(
    app: &App,
    filter: &DeviceFilter,
    order: DeviceOrder,
    is_descending: bool,
    after: Option<(&str, DeviceId)>,
    limit: i64,
) -> Result<Slice<ListedDevice, DevicePlace>, Error> {
    Ok(app.store.begin_read().await?.list_devices(filter, order, is_descending, after, limit).await?)
}

/// The key of a device in an order, as the store compares it.
#[must_use]
pub fn order_key(listed: &ListedDevice, order: DeviceOrder) -> String {
    match order {
        DeviceOrder::Created => String::new(),
        DeviceOrder::Name => listed.device.name.as_deref().unwrap_or_default().to_ascii_lowercase(),
        DeviceOrder::Serial => listed.device.serial.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_three_ways() {
        let id = "0193f2a0-5b1c-7a11-9d0e-1f2a3b4c5d6e";
        assert!(matches!(id.parse(), Ok(DeviceName::Id(_))));
        assert_eq!("udid:00008110".parse(), Ok(DeviceName::Udid("00008110".to_owned())));
        assert_eq!("serial:C02".parse(), Ok(DeviceName::Serial("C02".to_owned())));
        for wrong in ["", "udid:", "serial:a\0", "C02", "SERIAL:C02"] {
            assert!(wrong.parse::<DeviceName>().is_err(), "{wrong}");
        }
    }
}
