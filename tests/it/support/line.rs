//! A line to PostgreSQL that can be cut: to the server the database is gone, in the middle of whatever it does.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use url::Url;

/// A forwarder between a store and its PostgreSQL.
#[derive(Debug)]
pub struct Line {
    /// The database's address through this line.
    pub url: String,
    up: watch::Sender<bool>,
}

impl Line {
    /// A line to the database at `url`.
    pub async fn to(url: &str) -> Self {
        let mut url: Url = url.parse().unwrap();
        let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5432));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(port)).unwrap();
        let (up, state) = watch::channel(true);
        tokio::spawn(forward(listener, server, port, state));
        Self { url: url.to_string(), up }
    }

    /// Cuts the line: what is under way breaks off, and who connects is refused.
    pub fn cut(&self) {
        self.up.send_replace(false);
    }

    /// Mends the line.
    pub fn mend(&self) {
        self.up.send_replace(true);
    }
}

/// Forwards connections while the line is up; ends when its [`Line`] is dropped.
async fn forward(listener: TcpListener, server: String, port: u16, mut up: watch::Receiver<bool>) {
    let mut listener = Some(listener);
    loop {
        let mut connections = JoinSet::new();
        let open = listener.take();
        while *up.borrow_and_update() {
            let Some(listener) = &open else { break };
            tokio::select! {
                changed = up.changed() => if changed.is_err() { return },
                Ok((mut near, _)) = listener.accept() => {
                    let server = server.clone();
                    connections.spawn(async move {
                        let mut far = TcpStream::connect(server).await?;
                        copy_bidirectional(&mut near, &mut far).await
                    });
                }
            }
        }
        connections.shutdown().await;
        drop(open);
        if up.wait_for(|up| *up).await.is_err() {
            return;
        }
        listener = TcpListener::bind(("127.0.0.1", port)).await.ok();
    }
}
