//! What an idle poll is compared with: a handler that reads the body and answers 200 with nothing. It takes webhooks, too.

use std::net::SocketAddr;

use axum::Router;
use axum::routing::{get, put};
use bytes::Bytes;

use crate::Result;

/// Serves until the process is ended.
pub async fn serve(address: SocketAddr) -> Result<()> {
    let routes = Router::new()
        .route("/mdm", put(|_body: Bytes| async {}).post(|_body: Bytes| async {}))
        .route("/readyz", get(|| async {}));
    let listener = tokio::net::TcpListener::bind(address).await?;
    Ok(axum::serve(listener, routes).await?)
}
