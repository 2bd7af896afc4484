use super::{MAX_MESSAGE, Source, SourceError, ask};
use crate::model::Secret;

/// How many rows there are, for showing how far an import is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Device channels.
    pub devices: i64,
    /// User channels.
    pub users: i64,
    /// What waits in queues, and what was answered there.
    pub queued: i64,
    /// When the last of it was queued by the server's clock, in microseconds since the epoch.
    pub queued_last: Option<i64>,
}

/// A device channel with its device.
#[derive(Debug)]
pub struct Device {
    /// Apple's id of it.
    pub id: String,
    /// `Device` or `User Enrollment (Device)`.
    pub kind: String,
    /// The push topic.
    pub topic: String,
    /// The push magic.
    pub push_magic: String,
    /// The push token, in hex.
    pub token_hex: String,
    /// Whether it is enrolled still.
    pub enabled: bool,
    /// When it was last heard of, in microseconds since the epoch.
    pub last_seen: Option<i64>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its last `Authenticate`, as it came.
    pub authenticate: Option<String>,
    /// Its last `TokenUpdate`, as it came.
    pub token_update: Option<Secret<String>>,
    /// The token that clears its passcode.
    pub unlock_token: Option<Secret<Vec<u8>>>,
    /// The bootstrap token, in Base64.
    pub bootstrap_token: Option<Secret<String>>,
}

/// A user channel with its user.
#[derive(Debug)]
pub struct User {
    /// Apple's id of it.
    pub id: String,
    /// Apple's id of the device channel.
    pub device_id: String,
    /// `User`, `User Enrollment` or `Shared iPad`.
    pub kind: String,
    /// The push topic.
    pub topic: String,
    /// The push magic.
    pub push_magic: String,
    /// The push token, in hex.
    pub token_hex: String,
    /// Whether it is enrolled still.
    pub enabled: bool,
    /// When it was last heard of, in microseconds since the epoch.
    pub last_seen: Option<i64>,
    /// The account's name.
    pub short_name: Option<String>,
    /// The user's name.
    pub long_name: Option<String>,
    /// Its last `TokenUpdate`, as it came.
    pub token_update: Option<Secret<String>>,
}

/// A certificate that a device channel may authenticate with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Apple's id of the device channel.
    pub id: String,
    /// The digest of the certificate's DER, in hex.
    pub sha256: String,
}

/// A push certificate.
#[derive(Debug)]
pub struct PushCertificate {
    /// The topic that it is kept under.
    pub topic: String,
    /// The certificate, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: Secret<String>,
}

impl Source {
    /// How many rows there are now.
    ///
    /// # Errors
    /// Any [`SourceError`] of a database, as all that is read.
    pub async fn counts(&mut self) -> Result<Counts, SourceError> {
        let (devices,) = ask!(self, fetch_one, (i64,), "SELECT COUNT(*) FROM {t}enrollments WHERE user_id IS NULL")?;
        let (users,) = ask!(self, fetch_one, (i64,), "SELECT COUNT(*) FROM {t}enrollments WHERE user_id IS NOT NULL")?;
        let (queued, queued_last) = ask!(
            self,
            fetch_one,
            (i64, Option<i64>),
            "SELECT COUNT(*), {micros}MAX(created_at){as_micros} FROM {t}enrollment_queue"
        )?;
        Ok(Counts { devices, users, queued, queued_last })
    }

    /// The next device channels, in the order of their ids. A message that is too long is left out.
    ///
    /// # Errors
    /// As [`Source::counts`].
    pub async fn devices(&mut self, after: &str, limit: i64) -> Result<Vec<Device>, SourceError> {
        type Row = (
            String,
            String,
            String,
            String,
            String,
            bool,
            Option<i64>,
            Option<String>,
            Option<String>,
            Option<String>,
            Option<Vec<u8>>,
            Option<String>,
        );
        let rows = ask!(
            self,
            fetch_all,
            Row,
            "SELECT e.id, e.type, e.topic, e.push_magic, e.token_hex, e.enabled, {micros}e.last_seen_at{as_micros},
                    d.serial_number,
                    CASE WHEN OCTET_LENGTH(d.authenticate) <= $1 THEN d.authenticate END,
                    CASE WHEN OCTET_LENGTH(d.token_update) <= $2 THEN d.token_update END,
                    CASE WHEN OCTET_LENGTH(d.unlock_token) <= $3 THEN {bytes}d.unlock_token{as_bytes} END,
                    CASE WHEN OCTET_LENGTH(d.bootstrap_token_b64) <= $4 THEN d.bootstrap_token_b64 END
               FROM {t}enrollments e JOIN {t}devices d ON d.id = e.device_id
              WHERE e.user_id IS NULL AND e.id > $5 ORDER BY e.id LIMIT $6",
            MAX_MESSAGE,
            MAX_MESSAGE,
            MAX_MESSAGE,
            MAX_MESSAGE,
            after,
            limit
        )?;
        Ok(rows
            .into_iter()
            .map(|row| Device {
                id: row.0,
                kind: row.1,
                topic: row.2,
                push_magic: row.3,
                token_hex: row.4,
                enabled: row.5,
                last_seen: row.6,
                serial: row.7,
                authenticate: row.8,
                token_update: row.9.map(Secret::new),
                unlock_token: row.10.map(|bytes| Secret::new(as_stored(bytes))),
                bootstrap_token: row.11.map(Secret::new),
            })
            .collect())
    }

    /// The next user channels, in the order of their ids. A message that is too long is left out.
    ///
    /// # Errors
    /// As [`Source::counts`].
    pub async fn users(&mut self, after: &str, limit: i64) -> Result<Vec<User>, SourceError> {
        type Row = (
            String,
            String,
            String,
            String,
            String,
            String,
            bool,
            Option<i64>,
            Option<String>,
            Option<String>,
            Option<String>,
        );
        let rows = ask!(
            self,
            fetch_all,
            Row,
            "SELECT e.id, e.device_id, e.type, e.topic, e.push_magic, e.token_hex, e.enabled,
                    {micros}e.last_seen_at{as_micros}, u.user_short_name, u.user_long_name,
                    CASE WHEN OCTET_LENGTH(u.token_update) <= $1 THEN u.token_update END
               FROM {t}enrollments e JOIN {t}users u ON u.id = e.user_id AND u.device_id = e.device_id
              WHERE e.user_id IS NOT NULL AND e.id > $2 ORDER BY e.id LIMIT $3",
            MAX_MESSAGE,
            after,
            limit
        )?;
        Ok(rows
            .into_iter()
            .map(|row| User {
                id: row.0,
                device_id: row.1,
                kind: row.2,
                topic: row.3,
                push_magic: row.4,
                token_hex: row.5,
                enabled: row.6,
                last_seen: row.7,
                short_name: row.8,
                long_name: row.9,
                token_update: row.10.map(Secret::new),
            })
            .collect())
    }

    /// The next certificates of device channels, in the order of id and digest, after `after` and up to the id `last`.
    ///
    /// # Errors
    /// As [`Source::counts`].
    pub async fn pins(&mut self, after: &Pin, last: &str, limit: i64) -> Result<Vec<Pin>, SourceError> {
        // PostgreSQL pads what is shorter than the column.
        let rows = ask!(
            self,
            fetch_all,
            (String, String),
            "SELECT id, sha256 FROM {t}cert_auth_associations
              WHERE id >= $1 AND (id > $2 OR sha256 > $3) AND id <= $4 ORDER BY id, sha256 LIMIT $5",
            &after.id,
            &after.id,
            &after.sha256,
            last,
            limit
        )?;
        Ok(rows.into_iter().map(|(id, sha256)| Pin { id, sha256: sha256.trim_end().to_owned() }).collect())
    }

    /// The push certificates, of which a server has few.
    ///
    /// # Errors
    /// As [`Source::counts`].
    pub async fn push_certificates(&mut self) -> Result<Vec<PushCertificate>, SourceError> {
        let rows = ask!(
            self,
            fetch_all,
            (String, String, String),
            "SELECT topic, cert_pem, key_pem FROM {t}push_certs
              WHERE OCTET_LENGTH(cert_pem) <= $1 AND OCTET_LENGTH(key_pem) <= $2 ORDER BY topic LIMIT 1000",
            MAX_MESSAGE,
            MAX_MESSAGE
        )?;
        Ok(rows
            .into_iter()
            .map(|(topic, certificate, key)| PushCertificate { topic, certificate, key: Secret::new(key) })
            .collect())
    }
}

/// On PostgreSQL the column is a text: some clients write bytes into it in hex, after `\x`.
fn as_stored(bytes: Vec<u8>) -> Vec<u8> {
    match bytes.strip_prefix(b"\\x").map(hex::decode) {
        Some(Ok(decoded)) => decoded,
        _ => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_in_hex_are_read_and_others_are_left() {
        assert_eq!(as_stored(b"\\x6162".to_vec()), b"ab");
        for plain in [b"\\xyz".as_slice(), b"", b"ab", &[0, 255]] {
            assert_eq!(as_stored(plain.to_vec()), plain);
        }
    }
}
