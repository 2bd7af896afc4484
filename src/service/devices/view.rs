use super::super::{App, Error};
use crate::model::{DeviceId, Timestamp};
use crate::store::{Device, Enrollment, IdentityRow, InventoryRow, Link, Read, RenewalRow, TermsRow, WakeRow};

/// All that is known of a device.
#[derive(Clone, Debug)]
pub struct DeviceView {
    /// The device.
    pub device: Device,
    /// Its management channels, the device's own first.
    pub channels: Vec<ChannelView>,
    /// The link by which it enrolled.
    pub link: Option<Link>,
    /// What it last told of itself.
    pub inventory: Vec<InventoryRow>,
}

/// A management channel of a device.
#[derive(Clone, Debug)]
pub struct ChannelView {
    /// The enrollment.
    pub enrollment: Enrollment,
    /// The certificates by which it authenticates, newest first. A user channel uses the device's.
    pub identities: Vec<IdentityView>,
    /// Whether the device can still authenticate; none for a user channel.
    pub identity_state: Option<IdentityState>,
    /// What the enrollment profile on the device lays down, where that is known.
    pub terms: Option<TermsRow>,
    /// A renewal of its certificate that was sent and has not taken effect.
    pub renewal: Option<RenewalRow>,
    /// When it was last woken, and what came of it.
    pub wake: Option<WakeRow>,
}

/// A certificate of a device, and whether it still admits it.
#[derive(Clone, Debug)]
pub struct IdentityView {
    /// The certificate.
    pub row: IdentityRow,
    /// Whether it admits the device.
    pub state: IdentityState,
}

/// Whether a certificate admits a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IdentityState {
    /// There is none.
    Missing,
    /// Revoked, or replaced by a later enrollment.
    Revoked,
    /// It ended so long ago that the device must enroll again.
    Expired,
    /// It ended, and still admits the device for a while (`devices.identity_grace`).
    InGrace,
    /// It does.
    Valid,
}

impl IdentityState {
    /// The word in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::InGrace => "in_grace",
            Self::Valid => "valid",
        }
    }

    fn of(row: &IdentityRow, grace: std::time::Duration, now: Timestamp) -> Self {
        if row.revoked_at.is_some() {
            return Self::Revoked;
        }
        match row.not_after {
            Some(end) if now > end.plus(grace) => Self::Expired,
            Some(end) if now > end => Self::InGrace,
            _ => Self::Valid,
        }
    }
}

/// All that is known of a device.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get(app: &App, id: DeviceId) -> Result<DeviceView, Error> {
    let now = app.clock.now();
    let mut read = app.store.begin_read().await?;
    let device = read.device(id).await?.ok_or_else(|| Error::NotFound(format!("there is no device {id}")))?;
    let mut channels = Vec::new();
    for enrollment in read.enrollments_of_device(id).await? {
        channels.push(channel(app, &mut read, enrollment, now).await?);
    }
    let link = match device.link_id {
        Some(id) => read.link(id).await?,
        None => None,
    };
    let inventory = read.inventory(id).await?;
    Ok(DeviceView { device, channels, link, inventory })
}

async fn channel(app: &App, read: &mut Read, enrollment: Enrollment, now: Timestamp) -> Result<ChannelView, Error> {
    let grace = app.settings.devices.identity_grace;
    let identities: Vec<_> = read
        .identities_of_enrollment(enrollment.id)
        .await?
        .into_iter()
        .map(|row| IdentityView { state: IdentityState::of(&row, grace, now), row })
        .collect();
    // The best of them decides.
    let best = identities.iter().map(|identity| identity.state).max().unwrap_or(IdentityState::Missing);
    let identity_state = enrollment.parent_id.is_none().then_some(best);
    let wake = read.wake(enrollment.id).await?;
    let terms = match enrollment.terms {
        Some(hash) => read.terms(hash).await?,
        None => None,
    };
    let renewal = read.renewal(enrollment.id).await?;
    Ok(ChannelView { enrollment, identities, identity_state, terms, renewal, wake })
}
