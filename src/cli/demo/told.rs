use std::collections::BTreeMap;

use serde_json::Value;

use super::super::Error;
use super::client::Client;
use crate::model::Timestamp;
use crate::simulator::devices::Facts;

/// What the server knows of a device from its answer to `device_information`.
pub(super) struct Told {
    serial_number: String,
    imei: String,
    at: Timestamp,
}

impl Told {
    /// Whether the device said it of itself, at that time or later.
    pub(super) fn is_of(&self, facts: &Facts, asked_at: Timestamp) -> bool {
        self.serial_number == facts.serial_number && self.imei == facts.imei && self.at >= asked_at
    }
}

/// What all devices told, by their UDIDs.
pub(super) async fn read(client: &Client) -> Result<BTreeMap<String, Told>, Error> {
    let mut all = BTreeMap::new();
    let mut page = "/api/v1/devices?limit=500".to_owned();
    loop {
        let listed = client.get(&page).await?;
        for device in listed.get("items").and_then(Value::as_array).into_iter().flatten() {
            let (Some(id), Some(udid)) = (text(device, "/id"), text(device, "/udid")) else { continue };
            let shown = client.get(&format!("/api/v1/devices/{id}")).await?;
            if let Some(told) = told(&shown) {
                all.insert(udid.to_owned(), told);
            }
        }
        match text(&listed, "/next_cursor") {
            Some(cursor) => page = format!("/api/v1/devices?limit=500&cursor={cursor}"),
            None => return Ok(all),
        }
    }
}

fn told(device: &Value) -> Option<Told> {
    let information = device.pointer("/inventory/device_information")?;
    Some(Told {
        serial_number: text(information, "/data/SerialNumber")?.to_owned(),
        imei: text(information, "/data/IMEI")?.to_owned(),
        at: Timestamp::parse(text(information, "/updated_at")?).ok()?,
    })
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}
