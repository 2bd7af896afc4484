use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::super::progress::Progress;
use super::super::{Error, SystemClock, SystemRandomness};
use super::client::Client;
use crate::simulator::apns::FakeApns;
use crate::simulator::devices::fleet::{self, Event, FleetOptions, Summary, What};
use crate::simulator::devices::{Environment, KeySource, PhoneOptions, Trust, WakeService};

/// The size of a device's key, in bits.
const KEY_BITS: u32 = 2048;
/// How long a stage may take at most.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);

/// What the story is played with.
pub(super) struct Stage {
    pub(super) client: Client,
    pub(super) apns: FakeApns,
    pub(super) count: usize,
    pub(super) keys: PathBuf,
    pub(super) push_pem: String,
}

/// How far the devices are.
#[derive(Debug, Default)]
pub(super) struct Counts {
    profiles: AtomicUsize,
    certificates: AtomicUsize,
    enrolled: AtomicUsize,
    failed: AtomicUsize,
    woken: Mutex<BTreeSet<usize>>,
}

impl Stage {
    /// Makes the devices' keys, lets them enroll from `link`, and returns when all have.
    pub(super) async fn enroll(
        &self,
        link: Url,
        stop: CancellationToken,
    ) -> Result<(JoinHandle<Summary>, Arc<Counts>), Error> {
        let keys = KeySource::Directory(self.keys.clone());
        let making = Progress::of(self.count, "device keys");
        keys.prepare(self.count, KEY_BITS, |_| making.step()).await.map_err(|e| Error::Demo(e.to_string()))?;
        making.finish();

        let counts = Arc::new(Counts::default());
        let seen = Arc::clone(&counts);
        let options = FleetOptions {
            count: self.count,
            phone: PhoneOptions { page_trust: Trust::Anyone, ..PhoneOptions::default() },
            ..FleetOptions::default()
        };
        let environment = Environment {
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandomness),
            keys,
            wakes: WakeService::Local(self.apns.clone()),
        };
        let progress = Arc::new(move |event: &Event| seen.note(event));
        let fleet = tokio::spawn(fleet::run(options, environment, link, progress, stop));
        for (what, counter) in [
            ("signed profile read", &counts.profiles),
            ("certificate by SCEP", &counts.certificates),
            ("enrolled", &counts.enrolled),
        ] {
            self.wait(what, counter, &counts.failed).await?;
        }
        Ok((fleet, counts))
    }

    async fn wait(&self, what: &'static str, counter: &AtomicUsize, failed: &AtomicUsize) -> Result<(), Error> {
        let bar = Progress::of(self.count, what);
        let all = async {
            loop {
                let reached = counter.load(Ordering::SeqCst);
                bar.reach(u64::try_from(reached).unwrap_or(u64::MAX));
                if reached + failed.load(Ordering::SeqCst) >= self.count {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, all).await.is_ok();
        bar.finish();
        match failed.load(Ordering::SeqCst) {
            0 if in_time => Ok(()),
            0 => Err(Error::Demo(format!("{what}: not all devices came so far in {} s", PATIENCE.as_secs()))),
            failed => Err(Error::Demo(format!("{failed} devices could not enroll; try --log info"))),
        }
    }
}

impl Counts {
    /// The numbers of the devices that a push reached.
    pub(super) fn woken(&self) -> BTreeSet<usize> {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, event: &Event) {
        let counter = match &event.what {
            What::ProfileRead => &self.profiles,
            What::CertificateIssued => &self.certificates,
            What::Enrolled => &self.enrolled,
            What::Woken => {
                self.woken.lock().unwrap_or_else(PoisonError::into_inner).insert(event.number);
                return;
            }
            What::EnrollmentFailed(error) => {
                let _ = std::io::Write::write_fmt(
                    &mut anstream::stderr(),
                    format_args!("{}: {error}\n", event.serial_number),
                );
                &self.failed
            }
            _ => return,
        };
        counter.fetch_add(1, Ordering::SeqCst);
    }
}
