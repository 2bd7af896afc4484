use std::fmt::Write as _;

use crate::model::Randomness;

/// What a simulated device is, whatever happens to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The UDID, in the form of today's iPhones.
    pub udid: String,
    /// Sent beside the UDID where set, as some clients do.
    pub enrollment_id: Option<String>,
    /// The serial number.
    pub serial_number: String,
    /// The name that its user gave to it.
    pub name: String,
    /// The part number.
    pub model: String,
    /// The kind of device.
    pub model_name: String,
    /// Apple's internal product name.
    pub product_name: String,
    /// The version of the system.
    pub os_version: String,
    /// Its build.
    pub build_version: String,
    /// The IMEI.
    pub imei: String,
}

impl Facts {
    /// An iPhone with random ids; `number` goes into its name.
    pub fn iphone(number: usize, random: &dyn Randomness) -> Self {
        Self {
            udid: format!("00008120-{}", hex_upper(random, 8)),
            enrollment_id: None,
            serial_number: from_alphabet(random, b"0123456789CDFGHJKLMNPQRTVWXY", 10),
            name: format!("iPhone {number}"),
            model: "MTP03".to_owned(),
            model_name: "iPhone".to_owned(),
            product_name: "iPhone15,4".to_owned(),
            os_version: "18.1".to_owned(),
            build_version: "22B83".to_owned(),
            imei: imei(random),
        }
    }
}

/// 14 random digits and the check digit. Source: 3GPP TS 23.003, annex B.
fn imei(random: &dyn Randomness) -> String {
    let mut digits = format!("35{}", from_alphabet(random, b"0123456789", 12));
    let sum: u32 = digits
        .bytes()
        .enumerate()
        .map(|(place, digit)| {
            let digit = u32::from(digit.wrapping_sub(b'0'));
            let doubled = if place % 2 == 1 { digit * 2 } else { digit };
            doubled / 10 + doubled % 10
        })
        .sum();
    let _ = write!(digits, "{}", (10 - sum % 10) % 10);
    digits
}

/// `count` random bytes as upper-case hex.
pub(super) fn hex_upper(random: &dyn Randomness, count: usize) -> String {
    let mut bytes = vec![0; count];
    random.fill(&mut bytes);
    hex::encode_upper(bytes)
}

/// A random UUID (version 4) in upper case, as Apple writes them.
pub(super) fn uuid(random: &dyn Randomness) -> String {
    let mut bytes = [0; 16];
    random.fill(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid().hyphenated().to_string().to_uppercase()
}

fn from_alphabet(random: &dyn Randomness, alphabet: &[u8], count: usize) -> String {
    let length = u64::try_from(alphabet.len()).unwrap_or(1);
    (0..count)
        .filter_map(|_| alphabet.get(usize::try_from(random.below(length)).unwrap_or(0)))
        .map(|letter| char::from(*letter))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SeededRandomness;

    #[test]
    fn devices_look_real_and_differ() {
        let random = SeededRandomness::new(7);
        let (one, two) = (Facts::iphone(1, &random), Facts::iphone(2, &random));
        assert_ne!(one.udid, two.udid);
        assert_eq!((one.udid.len(), one.serial_number.len(), one.imei.len()), (25, 10, 15));
        assert_eq!(Facts::iphone(1, &SeededRandomness::new(7)), one, "the same seed gives the same device");
    }
}
