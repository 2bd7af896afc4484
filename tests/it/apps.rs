//! Apps: kept by number, by manifest or by package; packages uploaded in pieces, refused without a trace, and served in
//! parts.

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use http::{HeaderMap, HeaderName, Request};
use http_body_util::BodyExt;
use muster::http::{Metrics, packages};
use muster::model::{PackageId, Role, Sha256, Timestamp};
use muster::protocol::manifest::Manifest;
use muster::service::apps::{
    Change, Kept, NewApp, NotUploaded, Reference, change, create, get, list, reference, remove, remove_abandoned,
    upload,
};
use muster::service::{App, Error};
use muster::store::{AppFilter, PackageRow};
use tower::ServiceExt;

use crate::support::app::{TestApp, actor};
use crate::support::ipa::{INFO, INFO_PATH, notes, package};
use crate::support::rows::{DAY, HOUR, MINUTE};

/// How a body ends early in these stories.
#[derive(Debug, PartialEq, Eq)]
struct Broken;

async fn send(app: &App, pieces: Vec<Result<Bytes, Broken>>) -> Result<Kept, NotUploaded<Broken>> {
    upload(app, &actor(Role::Operator), None, stream::iter(pieces)).await
}

/// Uploads in pieces of an odd size.
async fn uploaded(app: &App, package: &[u8]) -> Kept {
    let pieces = package.chunks(65_521).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    send(app, pieces).await.unwrap()
}

async fn refused(app: &App, package: Vec<u8>) -> (&'static str, String) {
    match send(app, vec![Ok(package.into())]).await {
        Err(NotUploaded::Refused(Error::Invalid { code, detail, .. } | Error::Conflict { code, detail })) => {
            (code, detail)
        }
        other => panic!("{other:?}"),
    }
}

/// Sees to it that nothing is left of an upload, in the database or on the disk.
async fn assert_nothing_is_left(t: &TestApp) {
    for table in ["packages", "package_chunks", "apps"] {
        let count = t.db.texts(&format!("SELECT CAST(COUNT(*) AS TEXT) FROM {table}")).await;
        assert_eq!(count, ["0"], "{table}");
    }
    let files: Vec<_> = std::fs::read_dir(t.directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.is_empty(), "{files:?}");
}

fn store_app(name: &str) -> NewApp {
    let reference = Reference::Store(361_309_726);
    NewApp { reference, name: name.to_owned(), bundle_id: Some("org.example.notes".to_owned()), version: None }
}

/// The path of a package's manifest, as a command would carry it.
async fn path_of(t: &TestApp, kept: &Kept) -> String {
    let mut tx = t.db.write().await;
    let Reference::Manifest(url) = reference(&t.app, &mut tx, kept.app.id).await.unwrap() else { panic!() };
    url.strip_prefix("https://mdm.example.org").unwrap().to_owned()
}

/// Status, headers and body.
async fn ask(router: &Router, method: &str, path: &str, headers: &[(HeaderName, &str)]) -> (u16, HeaderMap, Bytes) {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    (parts.status.as_u16(), parts.headers, body.collect().await.unwrap().to_bytes())
}

both_databases! {
    async fn an_app_of_the_store_is_a_number(t: TestApp) {
        let made = create(&t.app, &actor(Role::Operator), store_app("Notes")).await.unwrap();
        assert_eq!((made.app.kind.as_str(), made.app.store_id), ("store", Some(361_309_726)));
        assert_eq!(get(&t.app, made.app.id).await.unwrap(), made);
        let mut tx = t.db.write().await;
        assert_eq!(reference(&t.app, &mut tx, made.app.id).await.unwrap(), Reference::Store(361_309_726));
    }

    async fn a_manifest_elsewhere_is_a_url(t: TestApp) {
        let url = "https://apps.example.org/notes.plist".to_owned();
        let new = NewApp { reference: Reference::Manifest(url.clone()), ..store_app("Notes") };
        let made = create(&t.app, &actor(Role::Operator), new).await.unwrap();
        let mut tx = t.db.write().await;
        assert_eq!(reference(&t.app, &mut tx, made.app.id).await.unwrap(), Reference::Manifest(url));
    }

    async fn what_is_wrong_with_an_app_is_told_together(t: TestApp) {
        let new = NewApp {
            reference: Reference::Store(0),
            name: " ".to_owned(),
            bundle_id: Some("org example".to_owned()),
            version: Some(String::new()),
        };
        let Err(Error::Invalid { faults, .. }) = create(&t.app, &actor(Role::Operator), new).await else { panic!() };
        let places: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(places, ["/name", "/bundle_id", "/version", "/store_id"]);
        for url in [
            "http://apps.example.org/a.plist",
            "https://user:word@apps.example.org/a.plist",
            "https://",
            "file:///etc/passwd",
            "apps.example.org/a.plist",
            "https://apps.example.org/a b.plist",
            &format!("https://apps.example.org/{}", "a".repeat(2048)),
        ] {
            let new = NewApp { reference: Reference::Manifest(url.to_owned()), ..store_app("Notes") };
            let made = create(&t.app, &actor(Role::Operator), new).await;
            assert!(matches!(made, Err(Error::Invalid { code: "invalid_app", .. })), "{url}");
        }
        assert_nothing_is_left(&t).await;
    }

    async fn an_app_is_changed_under_its_revision(t: TestApp) {
        let operator = actor(Role::Operator);
        let made = create(&t.app, &operator, store_app("Notes")).await.unwrap();
        t.db.clock.advance(MINUTE);
        let renamed = Change { name: Some("Our notes".to_owned()), ..Change::default() };
        let now = change(&t.app, &operator, made.app.id, Some(1), renamed.clone()).await.unwrap();
        assert_eq!((now.app.name.as_str(), now.app.revision, now.app.updated_at), ("Our notes", 2, t.now()));
        assert_eq!(get(&t.app, made.app.id).await.unwrap(), now);
        let late = change(&t.app, &operator, made.app.id, Some(1), renamed).await.unwrap_err();
        assert!(matches!(late, Error::Conflict { code: "revision_mismatch", .. }), "{late:?}");
        let url = Change { manifest_url: Some("https://example.org/".to_owned()), ..Change::default() };
        let wrong = change(&t.app, &operator, made.app.id, None, url).await.unwrap_err();
        assert!(matches!(wrong, Error::Invalid { code: "invalid_app", .. }), "{wrong:?}");
        assert!(remove(&t.app, &operator, made.app.id, Some(1)).await.is_err());
        remove(&t.app, &operator, made.app.id, Some(2)).await.unwrap();
        assert!(matches!(get(&t.app, made.app.id).await, Err(Error::NotFound(_))));
        assert_eq!(t.audited().await, ["app.changed", "app.created", "app.removed"]);
    }

    async fn apps_are_listed_page_by_page(t: TestApp) {
        let mut ids = Vec::new();
        for name in ["a", "b", "c"] {
            ids.insert(0, create(&t.app, &actor(Role::Operator), store_app(name)).await.unwrap().app.id);
            t.db.clock.advance(MINUTE);
        }
        ids.insert(0, uploaded(&t.app, &notes(10)).await.app.id);
        let page = async |filter: AppFilter, after| {
            list(&t.app, &filter, after, 3).await.unwrap().into_iter().map(|kept| kept.app.id).collect::<Vec<_>>()
        };
        assert_eq!(page(AppFilter::default(), None).await, ids[..3]);
        assert_eq!(page(AppFilter::default(), Some(ids[2])).await, ids[3..]);
        let packages = AppFilter { kind: Some("package".to_owned()), ..AppFilter::default() };
        assert_eq!(page(packages, None).await, ids[..1]);
        let others = AppFilter { bundle_id: Some("org.example.other".to_owned()), ..AppFilter::default() };
        assert!(page(others, None).await.is_empty());
    }

    async fn a_package_says_which_app_it_is(t: TestApp) {
        let file = notes(2_500_000);
        let made = uploaded(&t.app, &file).await;
        let app = &made.app;
        assert_eq!((app.kind.as_str(), app.name.as_str()), ("package", "Notes"));
        assert_eq!(app.bundle_id.as_deref(), Some("org.example.notes"));
        assert_eq!((app.version.as_deref(), app.display_version.as_deref()), (Some("42"), Some("1.2")));
        let package = made.package.as_ref().unwrap();
        assert_eq!((package.sha256, package.size_bytes), (Some(Sha256::of(&file)), file.len() as i64));
        assert_eq!(get(&t.app, app.id).await.unwrap(), made);

        let bundle_id = Change { bundle_id: Some("org.example.other".to_owned()), ..Change::default() };
        let wrong = change(&t.app, &actor(Role::Operator), app.id, None, bundle_id).await.unwrap_err();
        assert!(matches!(wrong, Error::Invalid { .. }), "{wrong:?}");
        remove(&t.app, &actor(Role::Operator), app.id, None).await.unwrap();
        assert_nothing_is_left(&t).await;
    }

    async fn what_is_no_package_leaves_nothing(t: TestApp) {
        let bomb = package(&[(INFO_PATH, &vec![b' '; 64 << 20])]);
        assert!(bomb.len() < 100_000);
        for (file, text) in [
            (Vec::new(), "no zip archive"),
            (b"hello".to_vec(), "no zip archive"),
            (package(&[("readme.txt", b"hello")]), "no Payload/<name>.app/Info.plist"),
            (package(&[(INFO_PATH, INFO), ("Payload/Other.app/Info.plist", INFO)]), "more than one app"),
            (package(&[(INFO_PATH, b"hello")]), "Info.plist"),
            (package(&[(INFO_PATH, b"<plist><dict/></plist>")]), "no usable CFBundleIdentifier"),
            (bomb, "too large"),
            (notes(100_000)[..90_000].to_vec(), "no zip archive"),
        ] {
            let (code, detail) = refused(&t.app, file).await;
            assert_eq!(code, "invalid_package", "{detail}");
            assert!(detail.contains(text), "{text}: {detail}");
        }
        assert!(t.audited().await.is_empty());
        assert_nothing_is_left(&t).await;
    }

    async fn a_package_that_breaks_off_leaves_nothing(t: TestApp) {
        let half = Bytes::from(notes(2_000_000)).slice(..1_500_000);
        let Err(NotUploaded::Body(why)) = send(&t.app, vec![Ok(half), Err(Broken)]).await else { panic!() };
        assert_eq!(why, Broken);
        assert_nothing_is_left(&t).await;
    }

    async fn size_and_quota_hold_while_a_package_comes(t: TestApp) {
        let settings = "[apps]\nmax_package_size = \"2MiB\"\nquota = \"3MiB\"\n";
        let t = TestApp::with(t.db.clone(), settings).await;
        // Only the first two pieces may be taken of a body that has no end.
        let endless = stream::unfold(0, |n| async move {
            assert!(n < 3, "read on beyond the limit");
            Some((Ok::<_, Broken>(Bytes::from(vec![0; 1 << 20])), n + 1))
        });
        let Err(NotUploaded::Refused(Error::Invalid { code, detail, .. })) =
            upload(&t.app, &actor(Role::Operator), None, endless).await
        else {
            panic!()
        };
        assert_eq!(code, "package_too_large");
        assert!(detail.contains("apps.max_package_size"), "{detail}");
        assert_nothing_is_left(&t).await;

        let first = uploaded(&t.app, &notes(1_900_000)).await;
        let (code, detail) = refused(&t.app, notes(1_900_000)).await;
        assert_eq!(code, "quota_exceeded");
        assert!(detail.contains("apps.quota"), "{detail}");
        remove(&t.app, &actor(Role::Operator), first.app.id, None).await.unwrap();
        uploaded(&t.app, &notes(1_900_000)).await;
    }

    async fn two_packages_at_once_keep_to_the_quota_together(t: TestApp) {
        let t = TestApp::with(t.db.clone(), "[apps]\nmax_package_size = \"2MiB\"\nquota = \"3MiB\"\n").await;
        let file = Bytes::from(notes(1_900_000));
        let (one, other) = tokio::join!(send(&t.app, vec![Ok(file.clone())]), send(&t.app, vec![Ok(file)]));
        assert!(one.is_err() || other.is_err());
        let used = t.db.read().await.package_bytes().await.unwrap();
        assert!(used < 3 << 20, "{used}");
    }

    async fn uploads_that_were_given_up_are_cleared_away(t: TestApp) {
        let row = |created_at: Timestamp| PackageRow {
            id: t.db.id(PackageId::new),
            slug: t.db.digest().hex(),
            size_bytes: 7,
            chunk_bytes: 4,
            sha256: None,
            created_at,
            ready_at: None,
        };
        let (old, under_way) = (row(t.now()), row(t.now().plus(DAY)));
        let mut tx = t.db.write().await;
        for package in [&old, &under_way] {
            tx.insert_package(package).await.unwrap();
            tx.insert_package_chunk(package.id, 0, b"abcd").await.unwrap();
        }
        tx.commit().await.unwrap();
        let complete = uploaded(&t.app, &notes(10)).await;
        t.db.clock.advance(DAY + HOUR);
        assert_eq!(remove_abandoned(&t.app).await.unwrap(), 1);
        assert!(t.db.read().await.package(old.id).await.unwrap().is_none());
        assert!(t.db.read().await.package(under_way.id).await.unwrap().is_some());
        assert_eq!(get(&t.app, complete.app.id).await.unwrap(), complete);
        assert_eq!(remove_abandoned(&t.app).await.unwrap(), 0);
    }

    async fn a_manifest_leads_to_the_package(t: TestApp) {
        let made = uploaded(&t.app, &notes(10)).await;
        let router = packages::router(t.app.clone(), Metrics::new("test"));
        let (status, headers, body) = ask(&router, "GET", &path_of(&t, &made).await, &[]).await;
        assert_eq!((status, &headers[CONTENT_TYPE]), (200, &"text/xml".parse().unwrap()));
        assert_eq!(headers[CACHE_CONTROL], "no-store");
        let manifest = Manifest::read(&body).unwrap();
        assert_eq!((manifest.bundle_identifier.as_str(), manifest.title.as_str()), ("org.example.notes", "Notes"));
        assert_eq!(manifest.bundle_version.as_deref(), Some("42"));
        let path = manifest.package_url.strip_prefix("https://mdm.example.org").unwrap();
        assert_eq!(ask(&router, "GET", path, &[]).await.0, 200);
    }

    async fn a_package_is_served_whole_or_in_part(t: TestApp) {
        let file = notes(2_500_000);
        let made = uploaded(&t.app, &file).await;
        let path = path_of(&t, &made).await.replace("manifest.plist", "app.ipa");
        let router = packages::router(t.app.clone(), Metrics::new("test"));
        let tag = format!("\"{}\"", Sha256::of(&file).hex());
        let (status, headers, body) = ask(&router, "GET", &path, &[]).await;
        assert_eq!((status, body.len()), (200, file.len()));
        assert!(body == file, "another content");
        assert_eq!((&headers[ACCEPT_RANGES], headers[ETAG].to_str().unwrap()), (&"bytes".parse().unwrap(), tag.as_str()));
        assert_eq!(headers[CONTENT_LENGTH], file.len().to_string().as_str());

        let (status, headers, body) = ask(&router, "HEAD", &path, &[]).await;
        assert_eq!((status, body.len()), (200, 0));
        assert_eq!(headers[CONTENT_LENGTH], file.len().to_string().as_str());

        // Within a chunk, over the edges of several, the rest, and the end.
        let mega = 1 << 20;
        let all = file.len();
        for (range, start, end) in [
            ("bytes=0-0".to_owned(), 0, 1),
            (format!("bytes={}-{}", mega - 1, mega), mega - 1, mega + 1),
            (format!("bytes=5-{}", 2 * mega + 5), 5, 2 * mega + 6),
            (format!("bytes={mega}-"), mega, all),
            ("bytes=-7".to_owned(), all - 7, all),
        ] {
            let (status, headers, body) = ask(&router, "GET", &path, &[(RANGE, &range)]).await;
            assert_eq!(status, 206, "{range}");
            let expected = format!("bytes {start}-{}/{all}", end - 1);
            assert_eq!(headers[CONTENT_RANGE], expected.as_str());
            assert_eq!(headers[CONTENT_LENGTH], (end - start).to_string().as_str());
            assert!(body == file[start..end], "{range}");
        }

        let beyond = format!("bytes={all}-");
        let (status, headers, body) = ask(&router, "GET", &path, &[(RANGE, &beyond)]).await;
        assert_eq!((status, body.len()), (416, 0));
        assert_eq!(headers[CONTENT_RANGE], format!("bytes */{all}").as_str());

        let (status, _, body) = ask(&router, "GET", &path, &[(RANGE, "bytes=1-2"), (IF_RANGE, "\"older\"")]).await;
        assert_eq!((status, body.len()), (200, all));
        let (status, _, body) = ask(&router, "GET", &path, &[(RANGE, "bytes=1-2"), (IF_RANGE, &tag)]).await;
        assert_eq!((status, body.len()), (206, 2));
        let (status, _, body) = ask(&router, "GET", &path, &[(IF_NONE_MATCH, &tag)]).await;
        assert_eq!((status, body.len()), (304, 0));
        assert_eq!(ask(&router, "POST", &path, &[]).await.0, 405);
    }

    async fn nothing_is_served_under_another_name(t: TestApp) {
        let made = uploaded(&t.app, &notes(10)).await;
        let path = path_of(&t, &made).await;
        let slug = path.split('/').nth(2).unwrap().to_owned();
        assert_eq!(slug.len(), 32);
        let router = packages::router(t.app.clone(), Metrics::new("test"));
        let id = made.app.id.to_string();
        for name in [id.as_str(), "%00", "..", "", &slug.to_uppercase(), &slug[..31], &format!("{slug}0"), &"0".repeat(32)]
        {
            for file in ["manifest.plist", "app.ipa"] {
                assert_eq!(ask(&router, "GET", &format!("/apps/{name}/{file}"), &[]).await.0, 404, "{name}");
            }
        }
        assert_eq!(ask(&router, "GET", "/apps", &[]).await.0, 404);
        assert_eq!(ask(&router, "GET", "/apps/", &[]).await.0, 404);

        remove(&t.app, &actor(Role::Operator), made.app.id, None).await.unwrap();
        assert_eq!(ask(&router, "GET", &path, &[]).await.0, 404);
    }

    async fn a_package_that_goes_while_it_is_fetched_breaks_off(t: TestApp) {
        let made = uploaded(&t.app, &notes(2_500_000)).await;
        let path = path_of(&t, &made).await.replace("manifest.plist", "app.ipa");
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = packages::router(t.app.clone(), Metrics::new("test")).oneshot(request).await.unwrap();
        let mut body = response.into_body();
        assert!(body.frame().await.unwrap().is_ok());
        remove(&t.app, &actor(Role::Operator), made.app.id, None).await.unwrap();
        assert!(body.collect().await.is_err(), "the device must see that it has not got all");
    }

    async fn what_is_not_complete_cannot_be_installed(t: TestApp) {
        let made = uploaded(&t.app, &notes(10)).await;
        let mut tx = t.db.write().await;
        tx.retire_package(made.app.package_id.unwrap()).await.unwrap();
        let incomplete = reference(&t.app, &mut tx, made.app.id).await.unwrap_err();
        assert!(matches!(incomplete, Error::Conflict { code: "package_incomplete", .. }), "{incomplete:?}");
    }
}
