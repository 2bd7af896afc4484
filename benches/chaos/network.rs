//! The network between devices or admins and the server: it cuts, holds up and repeats what the plan says, and tells the
//! server's keeper when it is time to kill.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::Result;
use crate::counts::Counts;
use crate::plan::{Fate, Plan};
use crate::site::Site;
use crate::wire;

/// Names the device to the network alone.
pub const DEVICE: &str = "X-Chaos-Device";

/// The network.
pub struct Network {
    plan: Plan,
    site: Arc<Site>,
    counts: Arc<Counts>,
    /// Nothing goes wrong.
    is_calm: AtomicBool,
    /// How many requests it has carried.
    carried: AtomicU64,
    /// Devices that something went wrong for: what the server told them last may not have arrived.
    disturbed: Vec<AtomicBool>,
}

impl Network {
    pub fn new(plan: Plan, site: Arc<Site>, counts: Arc<Counts>, devices: usize) -> Arc<Self> {
        let disturbed = (0..devices).map(|_| AtomicBool::new(false)).collect();
        Arc::new(Self { plan, site, counts, is_calm: AtomicBool::new(true), carried: AtomicU64::new(0), disturbed })
    }

    /// Opens a way to `server`; returns where it begins.
    pub async fn open(self: &Arc<Self>, server: SocketAddr) -> Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let network = Arc::clone(self);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let network = Arc::clone(&network);
                // What fails here is a cut like those that are planned.
                tokio::spawn(async move { network.carry(socket, server).await.ok() });
            }
        });
        Ok(address)
    }

    pub fn calm(&self, is_calm: bool) {
        self.is_calm.store(is_calm, Ordering::SeqCst);
    }

    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::SeqCst)
    }

    /// Whether something went wrong for the device since this was asked last.
    pub fn take_disturbed(&self, device: usize) -> bool {
        self.disturbed.get(device).is_some_and(|flag| flag.swap(false, Ordering::SeqCst))
    }

    async fn carry(self: &Arc<Self>, mut client: TcpStream, server: SocketAddr) -> Result<()> {
        client.set_nodelay(true)?;
        let Some(request) = read_request(&mut client).await? else { return Ok(()) };
        let (head, _) = wire::split(&request).ok_or("no head")?;
        let line = String::from_utf8_lossy(head).lines().next().unwrap_or_default().to_owned();
        let device = wire::header(head, DEVICE).and_then(|text| text.parse::<usize>().ok());
        let number = self.carried.fetch_add(1, Ordering::SeqCst);
        let request = prepare(&request, number);
        let mut fate = if self.is_calm.load(Ordering::SeqCst) { Fate::Pass } else { self.plan.fate(number) };
        let is_again = line.contains("/redeliver");
        let is_authenticate = request.windows(12).any(|part| part == b"Authenticate");
        if matches!(fate, Fate::Repeat | Fate::RepeatLate(_)) && is_again {
            // Asked for twice it is meant twice.
            fate = Fate::Pass;
        }
        if matches!(fate, Fate::RepeatLate(_)) && (is_authenticate || device.is_none()) {
            // No network sends an enrollment anew that the device has long gone on from.
            fate = Fate::Repeat;
        }
        if !matches!(fate, Fate::Pass | Fate::Delay(_)) {
            self.disturb(device);
        }
        let answer = match fate {
            Fate::Pass | Fate::StopDatabase(_) => {
                if let Fate::StopDatabase(millis) = fate {
                    self.site.stop_database(Duration::from_millis(millis));
                }
                wire::raw(server, &request).await
            }
            Fate::CutBefore => return Ok(()),
            Fate::CutHalf => {
                let mut upstream = TcpStream::connect(server).await?;
                upstream.write_all(request.split_at(request.len() / 2).0).await?;
                return Ok(());
            }
            Fate::CutAnswer => {
                if wire::raw(server, &request).await.is_ok() {
                    self.counts.add("answers that were lost");
                }
                return Ok(());
            }
            Fate::CutMid => match wire::raw(server, &request).await {
                Ok(answer) => {
                    self.counts.add("answers that were cut in the middle");
                    client.write_all(answer.split_at(answer.len() / 2).0).await?;
                    return Ok(());
                }
                Err(why) => Err(why),
            },
            Fate::Delay(millis) => {
                self.counts.add("requests that were held up");
                sleep(Duration::from_millis(millis)).await;
                wire::raw(server, &request).await
            }
            Fate::Repeat => {
                self.counts.add("requests that were repeated");
                let _ = wire::raw(server, &request).await;
                wire::raw(server, &request).await
            }
            Fate::RepeatLate(millis) => {
                self.counts.add("requests that were repeated late");
                let answer = wire::raw(server, &request).await;
                let network = Arc::clone(self);
                tokio::spawn(async move {
                    sleep(Duration::from_millis(millis)).await;
                    let _ = wire::raw(server, &request).await;
                    network.disturb(device);
                });
                answer
            }
            Fate::Kill(micros) => {
                let asking = tokio::spawn(async move { wire::raw(server, &request).await });
                sleep(Duration::from_micros(micros)).await;
                let was_open = !asking.is_finished();
                if self.site.kill(number) {
                    self.counts.add(if was_open { "kills with a request in flight" } else { "kills after an answer" });
                }
                let _ = asking.await;
                return Ok(());
            }
        };
        match answer {
            Ok(answer) => Ok(client.write_all(&answer).await?),
            Err(why) => {
                self.disturb(device);
                Err(why)
            }
        }
    }

    fn disturb(&self, device: Option<usize>) {
        if let Some(flag) = device.and_then(|device| self.disturbed.get(device)) {
            flag.store(true, Ordering::SeqCst);
        }
    }
}

/// The next request, whole; none where there is none.
async fn read_request(client: &mut TcpStream) -> Result<Option<Vec<u8>>> {
    let reading = async {
        let mut request = Vec::new();
        while !wire::is_whole(&request) {
            if client.read_buf(&mut request).await? == 0 {
                return Ok(None);
            }
        }
        Ok(Some(request))
    };
    timeout(Duration::from_secs(60), reading).await.map_err(|_| "no request in time")?
}

/// Has the server close the connection after it, and hear of an address for each request: what limits an address is not
/// to hold up a fleet on one machine.
fn prepare(request: &[u8], number: u64) -> Vec<u8> {
    let Some((head, body)) = wire::split(request) else { return request.to_vec() };
    let head = String::from_utf8_lossy(head);
    let mut out = String::new();
    for line in head.split("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("connection:")) {
        out.push_str(line);
        out.push_str("\r\n");
    }
    out.push_str("Connection: close\r\n");
    out.push_str(&format!(
        "X-Forwarded-For: 10.{}.{}.{}\r\n\r\n",
        (number >> 16) & 255,
        (number >> 8) & 255,
        number & 255
    ));
    let mut out = out.into_bytes();
    out.extend_from_slice(body);
    out
}
