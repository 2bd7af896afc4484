//! Connections that ask again as soon as they have an answer, and what that costs the servers.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout};

use crate::Result;
use crate::database::cpu_of_postgres;
use crate::machine::cpu_of;
use crate::wire::{PUT_OFF, Wire};

/// No measurement takes as long as this.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a connection does, again and again.
pub trait Errand: Send + 'static {
    /// Whether the connection is made before anything counts.
    const CONNECTED: bool = true;

    /// Does it once. False: this connection has no more to do.
    fn run(&self, link: &mut Link, turn: Turn) -> impl Future<Output = Result<bool>>;
}

/// Which time it is.
#[derive(Clone, Copy)]
pub struct Turn {
    /// How many were begun before, by all connections.
    pub number: usize,
    /// The connection's number.
    pub connection: usize,
}

/// A connection to a server, made when it is needed.
pub struct Link {
    pub address: SocketAddr,
    wire: Option<Wire<TcpStream>>,
}

impl Link {
    pub async fn wire(&mut self) -> Result<&mut Wire<TcpStream>> {
        if self.wire.is_none() {
            self.wire = Some(Wire::connect(self.address).await?);
        }
        Ok(self.wire.as_mut().ok_or("a connection vanished")?)
    }
}

/// How long it goes on.
#[derive(Clone, Copy)]
pub enum Until {
    /// For so long, after so long that does not count.
    Time { warm: Duration, counted: Duration },
    /// Until so many were done, after so many that do not count.
    Count { warm: usize, counted: usize },
}

/// Whose processor time counts.
#[derive(Clone, Copy)]
pub struct Meter {
    pub server: u32,
    pub postmaster: Option<u32>,
}

#[derive(Clone, Copy)]
struct Reading {
    server: Duration,
    database: Duration,
    load: Duration,
    at: Instant,
    done: usize,
    put_off: usize,
}

impl Meter {
    /// The processor time of server and database up to now.
    pub fn cpu(self) -> Result<(Duration, Duration)> {
        Ok((cpu_of(self.server)?, self.postmaster.map(cpu_of_postgres).transpose()?.unwrap_or_default()))
    }

    fn read(self, done: usize) -> Result<Reading> {
        let (server, database) = self.cpu()?;
        Ok(Reading {
            server,
            database,
            load: cpu_of(std::process::id())?,
            at: Instant::now(),
            done,
            put_off: PUT_OFF.load(Ordering::Relaxed),
        })
    }
}

/// What servers did in a while.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub done: usize,
    /// How many requests the server put off (503).
    pub put_off: usize,
    pub server: Duration,
    pub database: Duration,
    pub load: Duration,
    pub wall: Duration,
}

impl Sample {
    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            done: self.done + other.done,
            put_off: self.put_off + other.put_off,
            server: self.server + other.server,
            database: self.database + other.database,
            load: self.load + other.load,
            wall: self.wall + other.wall,
        }
    }

    /// Processor time of the server for each, microseconds.
    pub fn server_micros(&self) -> f64 {
        self.each(self.server)
    }

    /// Processor time of PostgreSQL for each, microseconds.
    pub fn database_micros(&self) -> f64 {
        self.each(self.database)
    }

    /// Processor time of the benchmark itself for each, microseconds.
    pub fn load_micros(&self) -> f64 {
        self.each(self.load)
    }

    /// How many in a second.
    pub fn rate(&self) -> f64 {
        count(self.done) / self.wall.as_secs_f64().max(1e-9)
    }

    fn each(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / count(self.done).max(1.0)
    }
}

/// A number for reckoning.
pub fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

/// The whole part of a number that is not negative; at most a million.
pub fn whole(number: f64) -> usize {
    // What is no number becomes 0, as it is not larger than anything.
    (0..=20).rev().fold(0, |sum, bit| if count(sum + (1 << bit)) <= number.min(1e6) { sum + (1 << bit) } else { sum })
}

/// Lets so many connections do the errand. On one thread: threads that wake each other would cost more than they bring.
pub async fn drive<E: Errand>(
    errand: E,
    address: SocketAddr,
    connections: usize,
    until: Until,
    meter: Meter,
) -> Result<Sample> {
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let outcome = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Into::into).and_then(
            |runtime| LocalSet::new().block_on(&runtime, on_this_thread(errand, address, connections, until, meter)),
        );
        // Nobody waits any more: no concern of this thread.
        let _ = tell.send(outcome);
    });
    told.await.map_err(|_| "the load ended by a fault")?
}

struct Shared<E> {
    errand: E,
    begun: Cell<usize>,
    done: Cell<usize>,
    running: Cell<usize>,
    most: usize,
    /// How many have their connection, and whether all may begin.
    ready: Cell<usize>,
    go: Notify,
    stop: Cell<bool>,
    fault: RefCell<Option<String>>,
}

async fn on_this_thread<E: Errand>(
    errand: E,
    address: SocketAddr,
    connections: usize,
    until: Until,
    meter: Meter,
) -> Result<Sample> {
    let most = match until {
        Until::Time { .. } => usize::MAX,
        Until::Count { warm, counted } => warm + counted,
    };
    let shared = Rc::new(Shared {
        errand,
        begun: Cell::new(0),
        done: Cell::new(0),
        running: Cell::new(connections),
        most,
        ready: Cell::new(0),
        go: Notify::new(),
        stop: Cell::new(false),
        fault: RefCell::new(None),
    });
    let mut tasks = Vec::with_capacity(connections);
    for connection in 0..connections {
        let shared = Rc::clone(&shared);
        tasks.push(tokio::task::spawn_local(async move {
            if let Err(why) = shared.connection(address, connection).await {
                shared.fault.borrow_mut().get_or_insert_with(|| why.to_string());
                shared.stop.set(true);
            }
            shared.running.set(shared.running.get() - 1);
        }));
    }
    let whole = async {
        while shared.ready.get() < connections && !shared.stop.get() {
            sleep(Duration::from_millis(1)).await;
        }
        let mut begin = meter.read(0)?;
        shared.go.notify_waiters();
        match until {
            Until::Time { warm, .. } => shared.pause(warm).await,
            Until::Count { warm, .. } => shared.reach(warm).await,
        }
        if shared.done.get() > 0 && !matches!(until, Until::Count { warm: 0, .. }) {
            begin = meter.read(shared.done.get())?;
        }
        match until {
            Until::Time { counted, .. } => shared.pause(counted).await,
            Until::Count { .. } => shared.reach(most).await,
        }
        let end = meter.read(shared.done.get())?;
        shared.stop.set(true);
        for task in tasks {
            task.await?;
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((begin, end))
    };
    let outcome = timeout(PATIENCE, whole).await;
    if let Some(why) = shared.fault.borrow_mut().take() {
        return Err(why.into());
    }
    let (begin, end) = outcome.map_err(|_| "the server did not answer in time")??;
    Ok(Sample {
        done: end.done - begin.done,
        put_off: end.put_off - begin.put_off,
        server: end.server.saturating_sub(begin.server),
        database: end.database.saturating_sub(begin.database),
        load: end.load.saturating_sub(begin.load),
        wall: end.at - begin.at,
    })
}

impl<E: Errand> Shared<E> {
    async fn connection(&self, address: SocketAddr, connection: usize) -> Result<()> {
        let mut link = Link { address, wire: None };
        if E::CONNECTED {
            link.wire().await?;
        }
        let go = self.go.notified();
        self.ready.set(self.ready.get() + 1);
        go.await;
        while !self.stop.get() && self.begun.get() < self.most {
            let number = self.begun.replace(self.begun.get() + 1);
            if !self.errand.run(&mut link, Turn { number, connection }).await? {
                break;
            }
            self.done.set(self.done.get() + 1);
        }
        Ok(())
    }

    /// Waits until so many are done, or nobody does more.
    async fn reach(&self, done: usize) {
        while self.done.get() < done && self.running.get() > 0 && !self.stop.get() {
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits for a time, or until nobody does more.
    async fn pause(&self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end && self.running.get() > 0 && !self.stop.get() {
            sleep(Duration::from_millis(5).min(end - Instant::now())).await;
        }
    }
}
