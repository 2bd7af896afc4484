use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::super::{Actor, App, Error, Fault, idempotency};
use super::spool::{Spool, Spooled};
use super::{Kept, MAX_NAME, audit, is_text};
use crate::model::{AppId, PackageId, Sha256};
use crate::protocol::ipa::{self, AppFacts, IpaError};
use crate::store::{AppRow, PackageRow};

/// Size of a chunk, bytes: what is in memory of a package that is kept or served.
const CHUNK: usize = 1 << 20;
/// Random bytes of the name that a package is served by.
const SLUG_BYTES: usize = 16;
/// A package that is not complete after this time was given up: keeping the largest takes minutes.
const GIVEN_UP: Duration = Duration::from_secs(6 * 60 * 60);
/// Chunks that are taken away in one transaction.
const PART: i64 = 32;

/// Why a package was not taken.
#[derive(Debug)]
pub enum NotUploaded<E> {
    /// It did not come whole.
    Body(E),
    /// It came, and is not kept.
    Refused(Error),
}

impl<E> From<Error> for NotUploaded<E> {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl<E: fmt::Display> fmt::Display for NotUploaded<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body(error) => error.fmt(f),
            Self::Refused(error) => error.fmt(f),
        }
    }
}

/// Keeps an app by its package (.ipa), as it comes: first in a file without a name, where its `Info.plist` is looked at,
/// then chunk by chunk in the database. It can be installed and fetched once it is complete, and not before; nothing
/// is left of one that is refused. One that comes again under the same Idempotency-Key is recognized once it has come
/// whole, and not kept a second time.
///
/// # Errors
/// [`NotUploaded::Body`] with whatever ended the body early. [`Error::Invalid`] `invalid_package` for what is no app's
/// package, `package_too_large`, and `idempotency_key_reused`; [`Error::Conflict`] `quota_exceeded`;
/// [`Error::Unavailable`] when there is no room in `data_dir` or in the database.
pub async fn upload<E>(
    app: &App,
    actor: &Actor,
    name: Option<String>,
    body: impl Stream<Item = Result<Bytes, E>>,
) -> Result<Kept, NotUploaded<E>> {
    if name.as_ref().is_some_and(|name| !is_text(name, MAX_NAME)) {
        let detail = format!("expected 1 to {MAX_NAME} characters without control characters");
        return Err(super::invalid(vec![Fault { pointer: "name".to_owned(), detail }]).into());
    }
    // What is kept already fits: the same again is not refused for its own size.
    let is_again = match &actor.repeat {
        Some(repeat) => {
            let found = app.store.begin_read().await.map_err(Error::from)?.remembered(repeat.token, &repeat.key).await;
            found.map(|found| found.is_some())
        }
        None => Ok(false),
    };
    let spooled = spool(app, is_again.map_err(Error::from)?, body).await?;
    let actor = &recognized(actor, spooled.sha256);
    if let Some(kept) = idempotency::before(app, actor).await? {
        return Ok(kept);
    }
    let (spooled, facts) = look_at(spooled).await?;
    let package = begin(app, &spooled).await?;
    let kept = keep(app, actor, name, &package, spooled, facts).await;
    if kept.is_err() {
        take_away_or_leave(app, package.id).await;
    }
    Ok(kept?)
}

/// Takes away what is left of uploads that were given up, and of packages that were removed. Returns how many.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn remove_abandoned(app: &App) -> Result<usize, Error> {
    let before = app.clock.now().minus(GIVEN_UP);
    let abandoned = app.store.begin_read().await?.abandoned_packages(before).await?;
    for id in &abandoned {
        take_away(app, *id).await?;
    }
    Ok(abandoned.len())
}

/// Takes a package away that is served no more. Where that fails, [`remove_abandoned`] does it later.
pub(super) async fn take_away_or_leave(app: &App, id: PackageId) {
    if let Err(error) = take_away(app, id).await {
        tracing::warn!(package = %id, %error, "a package is taken away later");
    }
}

async fn take_away(app: &App, id: PackageId) -> Result<(), Error> {
    loop {
        let mut tx = app.store.begin_write().await?;
        let is_more = tx.delete_package_part(id, PART).await?;
        tx.commit().await?;
        if !is_more {
            return Ok(());
        }
    }
}

/// The actor with the digest of the whole request, the body included, in place of that of its head.
fn recognized(actor: &Actor, body: Sha256) -> Actor {
    let mut actor = actor.clone();
    if let Some(repeat) = &mut actor.repeat {
        repeat.request = Sha256::of(format!("{} {}", repeat.request.hex(), body.hex()).as_bytes());
    }
    actor
}

async fn spool<E>(
    app: &App,
    is_again: bool,
    body: impl Stream<Item = Result<Bytes, E>>,
) -> Result<Spooled, NotUploaded<E>> {
    let most = app.settings.apps.max_package_size.bytes();
    let quota = app.settings.apps.quota.bytes();
    let left = if is_again { most } else { quota.saturating_sub(used(app).await?) };
    let mut spool = Spool::new(&app.settings.data_dir, &*app.random).await?;
    let mut body = std::pin::pin!(body);
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(NotUploaded::Body)?;
        let size = spool.size().saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        if size > most {
            let detail = format!("the package is larger than {most} bytes (setting apps.max_package_size)");
            return Err(Error::invalid("package_too_large", detail).into());
        }
        if size > left {
            return Err(over_quota(quota).into());
        }
        spool.add(&piece).await?;
    }
    Ok(spool.finish().await?)
}

/// What all packages take together, bytes.
async fn used(app: &App) -> Result<u64, Error> {
    let used = app.store.begin_read().await?.package_bytes().await?;
    Ok(u64::try_from(used).unwrap_or(0))
}

/// Reads what the package says of its app. That is no work for a thread that serves others.
async fn look_at(spooled: Spooled) -> Result<(Spooled, AppFacts), Error> {
    let Spooled { file, sha256, size } = spooled;
    let mut file = file.into_std().await;
    let read = move || (ipa::read(&mut file), file);
    let (facts, file) = tokio::task::spawn_blocking(read)
        .await
        .map_err(|e| Error::Internal(format!("the reading of a package ended early: {e}")))?;
    let facts = facts.map_err(|error| match error {
        IpaError::Read(_) => Error::Unavailable(error.to_string()),
        _ => Error::invalid("invalid_package", error.to_string()),
    })?;
    Ok((Spooled { file: tokio::fs::File::from_std(file), sha256, size }, facts))
}

/// Writes down that a package comes, with its whole size, so that others that come meanwhile see what is left of the
/// quota. Two that are too large together may both be refused; they are never both taken.
async fn begin(app: &App, spooled: &Spooled) -> Result<PackageRow, Error> {
    let now = app.clock.now();
    let mut slug = [0; SLUG_BYTES];
    app.random.fill(&mut slug);
    let package = PackageRow {
        id: PackageId::new(now, &*app.random),
        slug: hex::encode(slug),
        size_bytes: i64::try_from(spooled.size).unwrap_or(i64::MAX),
        chunk_bytes: i64::try_from(CHUNK).unwrap_or(i64::MAX),
        sha256: None,
        created_at: now,
        ready_at: None,
    };
    let mut tx = app.store.begin_write().await?;
    tx.insert_package(&package).await?;
    tx.commit().await?;
    let quota = app.settings.apps.quota.bytes();
    if used(app).await? > quota {
        take_away_or_leave(app, package.id).await;
        return Err(over_quota(quota));
    }
    Ok(package)
}

async fn keep(
    app: &App,
    actor: &Actor,
    name: Option<String>,
    package: &PackageRow,
    spooled: Spooled,
    facts: AppFacts,
) -> Result<Kept, Error> {
    let unread = |e: std::io::Error| Error::Unavailable(format!("an upload cannot be read again: {e}"));
    let Spooled { mut file, sha256, size } = spooled;
    file.seek(std::io::SeekFrom::Start(0)).await.map_err(unread)?;
    let mut left = usize::try_from(size).unwrap_or(usize::MAX);
    let mut chunk = Vec::with_capacity(left.min(CHUNK));
    let mut number = 0;
    while left > 0 {
        chunk.resize(left.min(CHUNK), 0);
        file.read_exact(&mut chunk).await.map_err(unread)?;
        let mut tx = app.store.begin_write().await?;
        tx.insert_package_chunk(package.id, number, &chunk).await?;
        tx.commit().await?;
        number += 1;
        left -= chunk.len();
    }

    let now = app.clock.now();
    let row = AppRow {
        id: AppId::new(now, &*app.random),
        kind: "package".to_owned(),
        name: name.or(facts.name).unwrap_or_else(|| facts.bundle_identifier.clone()),
        bundle_id: Some(facts.bundle_identifier),
        version: facts.version,
        display_version: facts.short_version,
        minimum_os: facts.minimum_os,
        store_id: None,
        manifest_url: None,
        package_id: Some(package.id),
        revision: 1,
        created_at: now,
        created_by: actor.name.clone(),
        updated_at: now,
    };
    let mut tx = app.store.begin_write().await?;
    if let Some(kept) = idempotency::earlier(app, &mut tx, actor).await? {
        // The same request, sent twice at once: the other one was first.
        drop(tx);
        take_away_or_leave(app, package.id).await;
        return Ok(kept);
    }
    if !tx.finish_package(package.id, sha256, now).await? {
        return Err(Error::Unavailable("the upload took so long that it was given up meanwhile".to_owned()));
    }
    tx.insert_app(&row).await?;
    audit(app, &mut tx, actor, "app.created", &row, now).await?;
    let package = PackageRow { sha256: Some(sha256), ready_at: Some(now), ..package.clone() };
    let kept = Kept { app: row, package: Some(package) };
    idempotency::remember(app, &mut tx, actor, &kept).await?;
    tx.commit().await?;
    Ok(kept)
}

fn over_quota(quota: u64) -> Error {
    Error::conflict(
        "quota_exceeded",
        format!(
            "with this package all packages would take more than {quota} bytes; remove apps that are not needed any \
             more, or raise the setting apps.quota"
        ),
    )
}
