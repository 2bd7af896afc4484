//! Many devices at once: each enrolls from the same link, then waits for pushes and does what it is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::behavior::Behavior;
use super::connection::{Connection, Done};
use super::error::PhoneError;
use super::handset::Handset;
use super::phone::{Environment, Phone, PhoneOptions};
use crate::model::ReportStatus;

/// How long a device waits in one go for a push; then it looks around and waits again.
const WAIT: Duration = Duration::from_secs(50);

/// How often a device comes back by itself when the server did not answer, before it waits for the next push.
const MAX_RETURNS: u32 = 5;

/// How a fleet is made up.
#[derive(Clone, Debug)]
pub struct FleetOptions {
    /// How many devices.
    pub count: usize,
    /// How they behave.
    pub behavior: Behavior,
    /// How they are set up; quirks and manner come from the behavior.
    pub phone: PhoneOptions,
    /// How many enroll at the same time.
    pub enrolling_at_once: usize,
    /// How often a device comes without a push; none: never, as real ones.
    pub comes_unasked: Option<Duration>,
    /// How long it takes until somebody unlocks a device that could not do something while locked, or switches one on.
    pub person: Duration,
}

impl Default for FleetOptions {
    fn default() -> Self {
        Self {
            count: 1,
            behavior: Behavior::Happy,
            phone: PhoneOptions::default(),
            enrolling_at_once: 16,
            comes_unasked: None,
            person: Duration::from_secs(2),
        }
    }
}

/// Something that happened to a device.
#[derive(Clone, Debug)]
pub struct Event {
    /// Which device, counted from 1.
    pub number: usize,
    /// Its UDID.
    pub udid: String,
    /// Its serial number.
    pub serial_number: String,
    /// What happened.
    pub what: What,
}

/// What can happen to a device.
#[derive(Clone, Debug)]
pub enum What {
    /// It has read the profile behind the link.
    ProfileRead,
    /// It has its certificate.
    CertificateIssued,
    /// Authenticate and TokenUpdate are through.
    Enrolled,
    /// A push came.
    Woken,
    /// It reported on a command.
    Reported(Done),
    /// It was erased and knows nothing any more.
    Erased,
    /// It left the management: the enrollment profile was removed, by a command or because the server does not know it.
    Left,
    /// The enrollment failed; the device gives up.
    EnrollmentFailed(Arc<PhoneError>),
    /// A connection failed; the device comes again.
    Trouble(Arc<PhoneError>),
}

/// What became of a fleet.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Devices that enrolled.
    pub enrolled: usize,
    /// Devices that did not.
    pub failed: usize,
    /// Devices that were erased.
    pub erased: usize,
    /// Devices that left.
    pub left: usize,
    /// Reports by status, in Apple's words.
    pub reports: BTreeMap<&'static str, usize>,
    /// Connections that failed.
    pub troubles: usize,
    /// The first few errors, as text.
    pub errors: Vec<String>,
    /// The devices by their numbers, as they were in the end.
    pub devices: BTreeMap<usize, Handset>,
}

/// How many errors a summary quotes.
const QUOTED: usize = 20;

/// Hears what happens, as it happens.
pub type Progress = Arc<dyn Fn(&Event) + Send + Sync>;

/// Enrolls the devices of a fleet from `link` and lets them live until `stop`, or until all of them are gone.
pub async fn run(
    options: FleetOptions,
    environment: Environment,
    link: Url,
    progress: Progress,
    stop: CancellationToken,
) -> Summary {
    let places = Arc::new(Semaphore::new(options.enrolling_at_once.max(1)));
    // All are made before the first one draws more random numbers: the same seed gives the same devices.
    let phones: Vec<Phone> = (1..=options.count)
        .map(|number| {
            let quirks = options.behavior.quirks(number);
            let setup = PhoneOptions { quirks, manner: options.behavior.manner(), ..options.phone.clone() };
            Phone::new(number, setup, environment.clone())
        })
        .collect();
    let mut lives = JoinSet::new();
    for (number, phone) in (1..).zip(phones) {
        let (options, progress) = (options.clone(), Arc::clone(&progress));
        let life = Life { phone, options, number, progress, summary: Summary::default() };
        lives.spawn(life.run(link.clone(), Arc::clone(&places), stop.clone()));
    }
    let mut total = Summary::default();
    while let Some(ended) = lives.join_next().await {
        match ended {
            Ok(summary) => total.add(summary),
            Err(error) => {
                total.failed += 1;
                total.errors.push(format!("a device of the simulator ended by a fault: {error}"));
            }
        }
    }
    total
}

/// One device from its enrollment to its end.
struct Life {
    phone: Phone,
    options: FleetOptions,
    number: usize,
    progress: Progress,
    summary: Summary,
}

impl Life {
    async fn run(mut self, link: Url, places: Arc<Semaphore>, stop: CancellationToken) -> Summary {
        let story = async {
            {
                let Ok(_place) = places.acquire().await else { return };
                if let Err(error) = self.enroll(&link).await {
                    self.tell(What::EnrollmentFailed(Arc::new(error)));
                    return;
                }
            }
            self.serve().await;
        };
        tokio::select! {
            () = story => (),
            () = stop.cancelled() => (),
        }
        self.summary.devices.insert(self.number, self.phone.handset);
        self.summary
    }

    async fn enroll(&mut self, link: &Url) -> Result<(), PhoneError> {
        let profile = self.phone.fetch_profile(link).await?;
        self.phone.accept_profile(&profile)?;
        self.tell(What::ProfileRead);
        self.phone.obtain_certificate().await?;
        self.tell(What::CertificateIssued);
        self.phone.authenticate().await?;
        self.phone.token_update().await?;
        self.tell(What::Enrolled);
        Ok(())
    }

    async fn serve(&mut self) {
        while self.wait().await {
            let mut returns = 0;
            loop {
                match self.phone.connect().await {
                    Ok(connection) => {
                        if self.after(connection).await {
                            continue;
                        }
                    }
                    Err(error) => {
                        self.tell(What::Trouble(Arc::new(error)));
                        returns += 1;
                        if returns <= MAX_RETURNS && self.phone.is_enrolled() {
                            sleep(Duration::from_secs(2)).await;
                            continue;
                        }
                    }
                }
                break;
            }
            if !self.phone.is_enrolled() {
                return;
            }
        }
    }

    /// Waits until there is a reason to connect; false when that cannot come any more.
    async fn wait(&mut self) -> bool {
        loop {
            let wait = self.options.comes_unasked.unwrap_or(WAIT);
            match self.phone.wait_for_wake(wait).await {
                Ok(true) => {
                    self.tell(What::Woken);
                    // Not heard at once: it comes later, as a device that was out of reach.
                    if self.phone.chance(self.phone.options.manner.missed_wakes_percent) {
                        sleep(Duration::from_secs(3)).await;
                    }
                    return true;
                }
                Ok(false) if self.options.comes_unasked.is_some() => return true,
                Ok(false) => (),
                Err(error) => {
                    let gone = matches!(error, PhoneError::NotReady(_));
                    self.tell(What::Trouble(Arc::new(error)));
                    if gone {
                        return false;
                    }
                    sleep(Duration::from_secs(2)).await;
                }
            }
        }
    }

    /// Tells of a connection. True if the device comes again by itself, when somebody has seen to it.
    async fn after(&mut self, connection: Connection) -> bool {
        let erased = connection
            .done
            .iter()
            .any(|done| done.request_type == "EraseDevice" && done.status == ReportStatus::Acknowledged);
        for done in connection.done {
            self.tell(What::Reported(done));
        }
        if erased {
            self.tell(What::Erased);
        }
        if !self.phone.is_enrolled() {
            if !erased {
                self.tell(What::Left);
            }
            return false;
        }
        if self.phone.handset.off || (connection.comes_again && self.phone.handset.locked) {
            sleep(self.options.person).await;
            self.phone.handset.off = false;
            self.phone.handset.locked = false;
            return true;
        }
        if connection.comes_again || connection.broken {
            sleep(Duration::from_millis(500)).await;
            return true;
        }
        false
    }

    fn tell(&mut self, what: What) {
        self.summary.count(&what);
        let facts = &self.phone.handset.facts;
        (self.progress)(&Event {
            number: self.number,
            udid: facts.udid.clone(),
            serial_number: facts.serial_number.clone(),
            what,
        });
    }
}

impl Summary {
    fn count(&mut self, what: &What) {
        match what {
            What::ProfileRead | What::CertificateIssued | What::Woken => (),
            What::Enrolled => self.enrolled += 1,
            What::Reported(done) => *self.reports.entry(done.status.as_str()).or_default() += 1,
            What::Erased => self.erased += 1,
            What::Left => self.left += 1,
            What::EnrollmentFailed(error) => {
                self.failed += 1;
                self.quote(error.to_string());
            }
            What::Trouble(error) => {
                self.troubles += 1;
                self.quote(error.to_string());
            }
        }
    }

    fn add(&mut self, other: Self) {
        self.enrolled += other.enrolled;
        self.failed += other.failed;
        self.erased += other.erased;
        self.left += other.left;
        self.troubles += other.troubles;
        for (status, count) in other.reports {
            *self.reports.entry(status).or_default() += count;
        }
        self.devices.extend(other.devices);
        other.errors.into_iter().for_each(|error| self.quote(error));
    }

    fn quote(&mut self, error: String) {
        if self.errors.len() < QUOTED {
            self.errors.push(error);
        }
    }
}
