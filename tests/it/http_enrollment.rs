//! The pages for people and SCEP over HTTP, as real clients speak it.

use axum::Router;
use axum::body::{Body, Bytes};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use muster::http::{Metrics, Proxies, pages, pki};
use muster::pki::scep::client::{Answer, Exchange, read_authorities};
use muster::pki::{Certificate, chain};
use muster::service::enrollment;
use tower::ServiceExt;

use crate::enrollment_links::link;
use crate::support::applicant::{Applicant, challenge, issued, opened};
use crate::support::ready::{Ready, SCHOOL};
use crate::support::rows::{DAY, MINUTE};

fn routes(t: &Ready) -> Router {
    let metrics = Metrics::new("test");
    pages::router(t.app.clone(), metrics.clone()).merge(pki::router(t.app.clone(), metrics))
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn send(routes: &Router, method: &str, path: &str, body: impl Into<Body>) -> Reply {
    let request = Request::builder().method(method).uri(path).body(body.into()).unwrap();
    let (parts, body) = routes.clone().oneshot(request).await.unwrap().into_parts();
    Reply { status: parts.status, headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
}

async fn get(routes: &Router, path: &str) -> Reply {
    send(routes, "GET", path, Body::empty()).await
}

async fn ca(routes: &Router) -> Certificate {
    let reply = get(routes, "/scep?operation=GetCACert&message=muster").await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "application/x-x509-ca-cert"));
    read_authorities(&reply.body).unwrap().remove(0)
}

fn read(reply: &Reply, exchange: &Exchange, ca: &Certificate) -> Answer {
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "application/x-pki-message"));
    exchange.read(&reply.body, ca).unwrap()
}

fn escaped(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn require_private(reply: &Reply) {
    assert_eq!(reply.header("cache-control"), "no-store");
    assert_eq!(reply.header("referrer-policy"), "no-referrer");
    assert_eq!(reply.header("x-content-type-options"), "nosniff");
}

both_databases! {
    async fn from_the_link_to_the_certificate(t: Ready) {
        let routes = routes(&t);
        let (_, code) = link(&t, Some(1)).await;
        let page = get(&routes, &format!("/enroll/{code}")).await;
        assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html; charset=utf-8"));
        require_private(&page);
        assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
        let button = format!("href=\"/enroll/{code}/profile\"");
        assert!(page.text().contains(&button) && page.text().contains("Example School"), "{}", page.text());

        let download = get(&routes, &format!("/enroll/{code}/profile")).await;
        assert_eq!(download.header("content-type"), "application/x-apple-aspen-config");
        require_private(&download);
        let profile = opened(&download.body);

        let caps = get(&routes, "/scep?operation=GetCACaps&message=").await;
        assert_eq!(caps.header("content-type"), "text/plain");
        for expected in ["Renewal", "SHA-256", "AES", "DES3", "SCEPStandard", "POSTPKIOperation"] {
            assert!(caps.text().lines().any(|line| line == expected), "{expected}");
        }
        let ca = ca(&routes).await;
        assert!(ca.has_fingerprint(profile.scep.ca_fingerprint.as_ref().unwrap()));
        let exchange = Applicant::new(&t, 2).message(&t, &ca, Some(&challenge(&profile)));
        let reply = send(&routes, "POST", "/scep?operation=PKIOperation", exchange.message.clone()).await;
        let certificate = issued(read(&reply, &exchange, &ca));
        chain::verify(&certificate, &[], &[ca], t.now(), MINUTE).unwrap();
    }

    async fn messages_come_in_all_the_forms_that_clients_send(t: Ready) {
        let routes = routes(&t);
        let ca = ca(&routes).await;
        let (_, code) = link(&t, Some(5)).await;
        let fetched = opened(&get(&routes, &format!("/enroll/{code}/profile")).await.body);
        let exchange = Applicant::new(&t, 2).message(&t, &ca, Some(&challenge(&fetched)));
        let base64 = STANDARD.encode(&exchange.message);
        assert!(base64.contains(['+', '/']));
        for message in [base64.clone(), escaped(&base64), URL_SAFE_NO_PAD.encode(&exchange.message)] {
            let reply = get(&routes, &format!("/scep?operation=PKIOperation&message={message}")).await;
            issued(read(&reply, &exchange, &ca));
        }
        // The message once more in the query, and a query that something on the way has corrupted.
        let percent: String = exchange.message.iter().map(|byte| format!("%{byte:02X}")).collect();
        for query in [format!("?operation=PKIOperation&message={percent}"), "?operation%3DPKI".to_owned(), String::new()] {
            let reply = send(&routes, "POST", &format!("/scep{query}"), exchange.message.clone()).await;
            issued(read(&reply, &exchange, &ca));
        }
        assert_eq!(t.db.texts("SELECT serial FROM certificates").await.len(), 1);
    }

    async fn scep_garbage_gets_a_clear_answer(t: Ready) {
        let routes = routes(&t);
        let ca = ca(&routes).await;
        let good = Applicant::new(&t, 2).message(&t, &ca, Some("x")).message;
        let operation = "/scep?operation=PKIOperation";
        for (method, path, body, status) in [
            ("POST", operation, b"garbage".to_vec(), 400),
            ("POST", operation, Vec::new(), 400),
            ("POST", operation, good[..good.len() / 2].to_vec(), 400),
            ("POST", operation, vec![0x30; 65 * 1024], 413),
            ("GET", operation, Vec::new(), 400),
            ("GET", "/scep?operation=PKIOperation&message=%zz", Vec::new(), 400),
            ("GET", "/scep?operation=PKIOperation&message=AAAA", Vec::new(), 400),
            ("GET", "/scep?operation=GetNextCACert", Vec::new(), 400),
            ("GET", "/scep", Vec::new(), 400),
            ("PUT", "/scep", Vec::new(), 405),
        ] {
            let reply = send(&routes, method, path, body).await;
            assert_eq!(reply.status.as_u16(), status, "{method} {path}");
        }
        assert!(t.db.texts("SELECT serial FROM certificates").await.is_empty());
    }

    async fn asking_for_the_head_of_an_answer_issues_nothing(t: Ready) {
        let routes = routes(&t);
        let (_, code) = link(&t, Some(1)).await;
        let fetched = challenge(&opened(&get(&routes, &format!("/enroll/{code}/profile")).await.body));
        let exchange = Applicant::new(&t, 2).message(&t, &ca(&routes).await, Some(&fetched));
        let message = URL_SAFE_NO_PAD.encode(&exchange.message);
        let path = format!("/scep?operation=PKIOperation&message={message}");
        let reply = send(&routes, "HEAD", &path, Body::empty()).await;
        assert_eq!((reply.status.as_u16(), reply.header("allow")), (405, "GET, POST"));
        assert!(t.db.texts("SELECT serial FROM certificates").await.is_empty());
        assert_eq!(send(&routes, "HEAD", "/scep?operation=GetCACaps", Body::empty()).await.status, 200);
    }

    async fn dead_links_are_told_kindly(t: Ready) {
        let routes = routes(&t);
        let (made, revoked) = link(&t, None).await;
        enrollment::revoke_link(&t.app, &t.admin, made.link.link.id).await.unwrap();
        let (_, used_up) = link(&t, Some(1)).await;
        t.db.execute("UPDATE enrollment_links SET uses_count = 1 WHERE uses_allowed = 1").await;
        let (_, expired) = link(&t, None).await;
        t.db.execute("UPDATE enrollment_links SET expires_at = 1 WHERE revoked_at IS NULL AND uses_allowed IS NULL").await;
        for (code, status, said) in [
            ("nonsense", 404, "not known"),
            ("%FF", 404, "not known"),
            ("%00%22%3Cscript%3E", 404, "not known"),
            (&*revoked, 410, "no longer valid"),
            (&*used_up, 410, "has been used"),
            (&*expired, 410, "has expired"),
        ] {
            for path in [format!("/enroll/{code}"), format!("/enroll/{code}/profile")] {
                let reply = get(&routes, &path).await;
                assert_eq!(reply.status.as_u16(), status, "{path}");
                assert!(reply.text().contains(said), "{}", reply.text());
                require_private(&reply);
            }
        }
    }

    async fn without_a_push_certificate_the_page_says_so_and_there_is_no_profile(t: Ready) {
        let routes = routes(&t);
        let (_, code) = link(&t, Some(1)).await;
        t.put_push_certificate(MINUTE).await;
        t.db.clock.advance(2 * MINUTE);
        let page = get(&routes, &format!("/enroll/{code}")).await;
        assert_eq!(page.status, 200);
        assert!(page.text().contains("Not ready yet") && !page.text().contains("/profile\""));
        for method in ["GET", "HEAD"] {
            let reply = send(&routes, method, &format!("/enroll/{code}/profile"), Body::empty()).await;
            assert_eq!(reply.status, 503);
            assert_ne!(reply.header("retry-after"), "");
        }
        assert_eq!(t.db.texts("SELECT name FROM challenges").await, [""; 0]);
    }

    async fn a_code_can_be_typed(t: Ready) {
        let routes = routes(&t);
        let form = get(&routes, "/enroll").await;
        assert_eq!(get(&routes, "/enroll/").await.body, form.body);
        assert!(form.status == 200 && form.text().contains("<form method=\"post\" action=\"/enroll\">"));
        let (_, code) = link(&t, None).await;
        let typed = format!("code={}+{}", code[..16].to_uppercase(), &code[16..]);
        let reply = send(&routes, "POST", "/enroll", typed).await;
        assert_eq!((reply.status.as_u16(), reply.header("location")), (303, &*format!("/enroll/{code}")));
        for (body, status) in [("", 400), ("code=", 400), ("code=%0d%0aX:y", 404), ("code=%3Cb%3E", 404)] {
            let reply = send(&routes, "POST", "/enroll", body).await;
            assert_eq!(reply.status.as_u16(), status, "{body}");
            assert!(reply.text().contains("role=\"alert\""));
        }
        assert_eq!(send(&routes, "POST", "/enroll", "x".repeat(5000)).await.status, 400);
    }

    async fn asking_whether_a_profile_is_there_uses_nothing_up(t: Ready) {
        let routes = routes(&t);
        let (_, code) = link(&t, Some(1)).await;
        for _ in 0..10 {
            assert_eq!(send(&routes, "HEAD", &format!("/enroll/{code}/profile"), Body::empty()).await.status, 200);
        }
        for _ in 0..5 {
            assert_eq!(get(&routes, &format!("/enroll/{code}/profile")).await.status, 200);
        }
        let busy = get(&routes, &format!("/enroll/{code}/profile")).await;
        assert_eq!(busy.status, 429);
        assert!(busy.text().contains("in use") && busy.text().contains("60 minutes"), "{}", busy.text());
        assert_eq!(busy.header("retry-after"), "3600", "as long as the profiles hold");
        t.db.clock.advance(DAY / 2);
        assert_eq!(get(&routes, &format!("/enroll/{code}/profile")).await.status, 200);
    }

    async fn an_address_has_its_rate(t: Ready) {
        let limited = format!("{SCHOOL}[enrollment]\nrequests_per_minute = 3\n[scep]\nrequests_per_minute = 2\n");
        let t = t.second_process(&limited).await;
        let routes = routes(&t);
        for _ in 0..3 {
            assert_eq!(get(&routes, "/enroll/x").await.status, 404);
        }
        let reply = get(&routes, "/enroll").await;
        assert_eq!(reply.status, 429);
        assert!(reply.header("retry-after").parse::<u32>().unwrap() <= 60);
        for status in [400, 400, 429] {
            let reply = send(&routes, "POST", "/scep?operation=PKIOperation", "x").await;
            assert_eq!(reply.status.as_u16(), status);
        }
    }

    async fn with_the_database_away_people_and_devices_are_told_to_come_again(t: Ready) {
        let routes = routes(&t);
        let (_, code) = link(&t, None).await;
        let ca = ca(&routes).await;
        let exchange = Applicant::new(&t, 2).message(&t, &ca, Some("x"));
        t.db.store.close().await;
        for path in [format!("/enroll/{code}"), format!("/enroll/{code}/profile")] {
            let reply = get(&routes, &path).await;
            assert_eq!(reply.status, 503);
            assert!(!reply.text().to_lowercase().contains("database"), "{}", reply.text());
        }
        let reply = send(&routes, "POST", "/scep?operation=PKIOperation", exchange.message.clone()).await;
        assert_eq!((reply.status.as_u16(), reply.header("retry-after")), (503, "10"));
        assert_eq!(get(&routes, "/scep?operation=GetCACert").await.status, 503);
    }
}

/// Where nobody observes the routes, the address is the connection's: believed proxies included.
#[test]
fn nobody_is_believed_by_default() {
    let request = Request::builder().header("x-forwarded-for", "203.0.113.9").body(()).unwrap();
    let (parts, ()) = request.into_parts();
    let address = muster::http::observe::client_address(&parts, &Proxies::none());
    assert!(address.is_unspecified());
}
