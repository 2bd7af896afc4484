//! Commands and pushes by NanoMDM's interface: its answers word for word, and Muster's own view of what came by it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures_util::stream;
use http::Request;
use http::header::CONTENT_TYPE;
use muster::http::compat;
use muster::remote::apns::PushOutcome;
use muster::service::wakes::send_due;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::app::TestApp;
use crate::support::compat::{KEY, Tool, basic, challenge, command, json};
use crate::support::db::Fixture as _;
use crate::support::rows::TOPIC;

const INFO: &str = "DeviceInformation";

both_databases! {
    async fn nobody_gets_in_without_the_key(tool: Tool) {
        let path = "/v1/enqueue/A?nopush=1";
        let wrong = [
            None,
            Some(basic("nanomdm", "wrong")),
            Some(basic("admin", KEY)),
            Some(basic("nanomdm", "")),
            Some(format!("Bearer {KEY}")),
            Some("Basic ???".to_owned()),
        ];
        for header in wrong {
            let mut request = Request::put(path);
            if let Some(header) = &header {
                request = request.header("Authorization", header);
            }
            let answer = tool.send(request.body(Body::from(command("CMD1", INFO, &[]))).unwrap()).await;
            assert_eq!(answer.status, 401, "{header:?}");
            assert_eq!(challenge(&answer.headers), "Basic realm=\"nanomdm\"");
            assert!(answer.headers[CONTENT_TYPE].to_str().unwrap().starts_with("text/plain"));
            assert_eq!(answer.bytes, b"Unauthorized\n");
        }
        for path in ["/v1/push/A", "/v1/pushcert?topic=x", "/v1/escrowkeyunlock", "/migration"] {
            let method = if path == "/v1/escrowkeyunlock" { "POST" } else { "GET" };
            let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
            assert_eq!(tool.send(request).await.status, 401, "{path}");
        }
        let version = tool.send(Request::get("/version").body(Body::empty()).unwrap()).await;
        assert_eq!(json(version, 200), json!({"version": env!("CARGO_PKG_VERSION")}));
    }

    async fn without_a_key_there_is_no_such_interface(t: TestApp) {
        let tool = Tool::on(t.db.clone()).await;
        let routes = compat::router(&t.app);
        let answer = Tool { routes, ..tool }.get("/version").await;
        assert_eq!(answer.status, 404);
    }

    async fn a_command_of_any_name_reaches_the_device_and_shows_in_musters_own_api(tool: Tool) {
        let phone = tool.phone("PHONE-1").await;
        let body = command("CMD1", "SomethingVeryNew", &[("Answer", 42.into()), ("PIN", "123456".into())]);
        let answer = json(tool.enqueue("PHONE-1", body).await, 200);
        assert_eq!(answer, json!({"no_push": true, "command_uuid": "CMD1", "request_type": "SomethingVeryNew"}));

        let offered = phone.idle().await.unwrap();
        assert_eq!((offered.uuid.as_str(), offered.request_type.as_str()), ("CMD1", "SomethingVeryNew"));
        assert_eq!(offered.payload["Answer"].as_unsigned_integer(), Some(42));
        assert_eq!(phone.acknowledge(&offered).await, None);

        let listed = tool.api.get("/api/v1/commands?limit=1").await.expect(200)["items"][0].clone();
        assert_eq!(listed["command"]["request_type"], "SomethingVeryNew", "{listed}");
        assert_eq!(listed["command"]["command_uuid"], "CMD1");
        assert_eq!(listed["created_by"], "nanomdm");
        assert!(!listed.to_string().contains("123456"), "{listed}");
        let id = listed["id"].as_str().unwrap();
        let shown = tool.api.get(&format!("/api/v1/commands/{id}")).await.expect(200);
        assert_eq!(shown["deliveries"]["items"][0]["state"], "acknowledged", "{shown}");
        assert!(tool.edge.t.audited().await.contains(&"command.accepted".to_owned()));
        let kinds = tool.edge.t.db.texts("SELECT actor_kind FROM audit WHERE action = 'command.accepted'").await;
        assert!(kinds.contains(&"compat".to_owned()), "{kinds:?}");
    }

    async fn a_lost_answer_a_refusal_and_a_deferral_are_told_by_the_tools_name_too(tool: Tool) {
        let phone = tool.phone("PHONE-1").await;
        for name in ["CMD1", "cmd1", "8A0B2A2C-7A8B-4F5C-9D2F-000000000001"] {
            json(tool.enqueue("PHONE-1", command(name, INFO, &[])).await, 200);
        }
        let first = phone.idle().await.unwrap();
        assert_eq!(phone.idle().await.unwrap().uuid, first.uuid, "the report was lost");
        let second = phone.report_with("Error", Some("CMD1"), &[]).await.unwrap();
        assert_eq!(second.uuid, "cmd1");
        let third = phone.not_now(&second).await.unwrap();
        assert_eq!(third.uuid, "8A0B2A2C-7A8B-4F5C-9D2F-000000000001");
        assert_eq!(phone.acknowledge(&third).await, None);
        assert_eq!(phone.finish_all().await.len(), 1, "the one that was put off");
        let states = tool.edge.t.db.texts("SELECT state FROM deliveries d JOIN commands c ON c.id = d.command_id
            WHERE c.wire_uuid IS NOT NULL ORDER BY state").await;
        assert_eq!(states, ["acknowledged", "acknowledged", "error"]);
    }

    async fn the_same_name_with_the_same_bytes_adds_devices(tool: Tool) {
        let (one, two) = (tool.phone("PHONE-1").await, tool.phone("PHONE-2").await);
        let body = command("CMD1", INFO, &[]);
        json(tool.enqueue("PHONE-1", body.clone()).await, 200);
        json(tool.enqueue("PHONE-2,PHONE-1", body.clone()).await, 200);
        let other = json(tool.enqueue("PHONE-1", command("CMD1", "SecurityInfo", &[])).await, 500);
        assert!(other["command_error"].as_str().unwrap().contains("another command"), "{other}");
        assert_eq!(other["command_uuid"], "CMD1");
        for phone in [one, two] {
            assert_eq!(phone.finish_all().await, [INFO]);
        }
        let listed = tool.api.get("/api/v1/commands?limit=10").await.expect(200);
        let named = |item: &&serde_json::Value| item["command"]["command_uuid"] == "CMD1";
        assert_eq!(listed["items"].as_array().unwrap().iter().filter(named).count(), 1, "{listed}");
        assert_eq!(listed["items"][0]["targets"], 2, "{listed}");
    }

    async fn the_same_name_at_the_same_time_is_one_command(tool: Tool) {
        for udid in ["PHONE-1", "PHONE-2", "PHONE-3", "PHONE-4"] {
            tool.phone(udid).await;
        }
        let body = command("CMD1", INFO, &[]);
        let ask = |udid: &'static str| {
            let (tool, body) = (tool.clone(), body.clone());
            tokio::spawn(async move { tool.enqueue(udid, body).await })
        };
        let asked = ["PHONE-1", "PHONE-2", "PHONE-3", "PHONE-4"].map(ask);
        for one in asked {
            json(one.await.unwrap(), 200);
        }
        let commands = tool.edge.t.db.texts("SELECT wire_uuid FROM commands WHERE wire_uuid IS NOT NULL").await;
        assert_eq!(commands, ["CMD1"]);
        let made = tool.edge.t.db.texts("SELECT d.state FROM deliveries d JOIN commands c ON c.id = d.command_id
            WHERE c.wire_uuid = 'CMD1'").await;
        assert_eq!(made.len(), 4);
    }

    async fn the_name_of_musters_own_command_is_taken(tool: Tool) {
        let phone = tool.phone("PHONE-1").await;
        let own = phone.ask_apps().await.to_string();
        let answer = json(tool.enqueue("PHONE-1", command(&own, INFO, &[])).await, 500);
        assert!(answer["command_error"].as_str().unwrap().contains("this server"), "{answer}");
        assert_eq!(phone.finish_all().await, ["InstalledApplicationList"]);
    }

    async fn what_is_no_command_is_refused(tool: Tool) {
        tool.phone("PHONE-1").await;
        let no_uuid = String::from_utf8(command("CMD1", INFO, &[])).unwrap().replace("CommandUUID", "Other");
        let no_type = String::from_utf8(command("CMD1", INFO, &[])).unwrap().replace("RequestType", "Other");
        for body in ["junk", no_uuid.as_str(), no_type.as_str(), "<plist><dict/></plist>"] {
            let answer = json(tool.enqueue("PHONE-1", body.as_bytes().to_vec()).await, 500);
            assert!(answer["command_error"].as_str().is_some_and(|why| !why.is_empty()), "{answer}");
            assert_eq!(answer["status"], json!(null));
        }
        let nothing = json(tool.enqueue("PHONE-1", Vec::new()).await, 500);
        assert_eq!(nothing, json!({"no_push": true, "command_error": "must enqueue or push"}));
        assert_eq!(json(tool.put("/v1/enqueue/?nopush=1", command("CMD1", INFO, &[])).await, 500)["command_uuid"], "CMD1");
        assert!(tool.edge.t.db.texts("SELECT wire_uuid FROM commands WHERE wire_uuid IS NOT NULL").await.is_empty());
    }

    async fn an_unknown_id_is_no_error_and_a_device_that_left_is_one(tool: Tool) {
        let body = command("CMD1", INFO, &[]);
        let expected = json!({"no_push": true, "command_uuid": "CMD1", "request_type": INFO});
        assert_eq!(json(tool.enqueue("NOBODY,%00", body.clone()).await, 200), expected);
        let phone = tool.phone("PHONE-1").await;
        assert_eq!(phone.check_in("CheckOut", &[("Topic", TOPIC.into())]).await.status, 200);
        let left = json(tool.enqueue("PHONE-1", body.clone()).await, 500);
        assert_eq!(left["status"]["PHONE-1"]["command_error"], "the enrollment is disabled", "{left}");
        assert_eq!(json(tool.enqueue("PHONE-1,NOBODY", body).await, 207)["command_uuid"], "CMD1");
    }

    async fn the_guard_on_destruction_holds(tool: Tool) {
        let (one, two) = (tool.phone("PHONE-1").await, tool.phone("PHONE-2").await);
        let destructive = [
            command("E1", "EraseDevice", &[]),
            command("L1", "DeviceLock", &[("PIN", "123456".into())]),
            command("R1", "RemoveProfile", &[("Identifier", "muster.enrollment".into())]),
            command("R2", "RemoveProfile", &[]),
        ];
        for body in &destructive {
            let answer = json(tool.enqueue("PHONE-1,PHONE-2", body.clone()).await, 500);
            let why = answer["command_error"].as_str().unwrap();
            assert!(why.contains("compat.max_destructive_targets"), "{why}");
        }
        assert_eq!((one.idle().await, two.idle().await), (None, None), "nothing was queued");
        json(tool.enqueue("PHONE-1,PHONE-2", command("L2", "DeviceLock", &[])).await, 200);
        json(tool.enqueue("PHONE-1", destructive[0].clone()).await, 200);
        assert_eq!(one.finish_all().await, ["DeviceLock", "EraseDevice"]);
        assert_eq!(two.finish_all().await, ["DeviceLock"]);
    }

    async fn the_answer_has_the_id_that_apns_gave_the_push(tool: Tool) {
        let tool = tool.ready().await;
        tool.phone("PHONE-1").await;
        let works = tool.works();
        tool.apns_takes("0B2D-1");
        let answer = json(tool.put("/v1/enqueue/PHONE-1", command("CMD1", INFO, &[])).await, 200);
        assert_eq!(
            answer,
            json!({"status": {"PHONE-1": {"push_result": "0B2D-1"}}, "command_uuid": "CMD1", "request_type": INFO})
        );
        tool.apns_takes("0B2D-2");
        let answer = json(tool.get("/v1/push/PHONE-1").await, 200);
        assert_eq!(answer, json!({"status": {"PHONE-1": {"push_result": "0B2D-2"}}}));
        tool.apns_takes("0B2D-3");
        let answer = json(tool.get("/v1/enqueue/PHONE-1").await, 200);
        assert_eq!(answer, json!({"status": {"PHONE-1": {"push_result": "0B2D-3"}}}), "a push alone");
        works.stop().await;
    }

    async fn a_push_that_fails_leaves_the_command_queued(tool: Tool) {
        let tool = tool.ready().await;
        let phone = tool.phone("PHONE-1").await;
        let works = tool.works();
        let refused = PushOutcome::Refused { status: 400, reason: "BadDeviceToken".to_owned(), at: None };
        tool.edge.t.pusher.answer(refused);
        let answer = json(tool.put("/v1/enqueue/PHONE-1", command("CMD1", INFO, &[])).await, 500);
        assert_eq!(answer["status"]["PHONE-1"]["push_error"], "400 BadDeviceToken", "{answer}");
        assert_eq!((answer["command_uuid"].as_str(), answer["command_error"].as_str()), (Some("CMD1"), None));

        tool.edge.t.pusher.answer(PushOutcome::Unreachable { reason: "nobody there".to_owned() });
        let answer = json(tool.get("/v1/push/PHONE-1").await, 500);
        assert_eq!(answer["status"]["PHONE-1"]["push_error"], "nobody there");
        let again = json(tool.get("/v1/push/PHONE-1").await, 500);
        assert!(again["status"]["PHONE-1"]["push_error"].as_str().unwrap().contains("nobody there"), "{again}");
        works.stop().await;
        assert_eq!(phone.finish_all().await, [INFO]);
    }

    async fn who_cannot_be_pushed_to_is_told_of(tool: Tool) {
        tool.phone("PHONE-1").await;
        let none = json(tool.put("/v1/enqueue/PHONE-1", command("CMD1", INFO, &[])).await, 500);
        assert!(none["push_error"].as_str().unwrap().contains("no push certificate for topic"), "{none}");

        let tool = tool.ready().await;
        let works = tool.works();
        let expected = json!({"status": {"NOBODY": {"push_error": "push data missing for id"}}});
        assert_eq!(json(tool.get("/v1/push/NOBODY").await, 500), expected);
        tool.apns_takes("0B2D");
        let some = json(tool.get("/v1/push/NOBODY,PHONE-1").await, 207);
        assert_eq!(some["status"]["PHONE-1"]["push_result"], "0B2D", "{some}");
        works.stop().await;
        assert!(json(tool.get("/v1/push/").await, 500)["push_error"].is_string());
    }

    async fn a_push_that_another_process_sends_is_seen(tool: Tool) {
        let tool = tool.ready().await;
        tool.phone("PHONE-1").await;
        let other = tool.edge.restarted("https://mdm.example.org", "");
        tool.apns_takes("0B2D-1");
        let sends = async {
            while send_due(&other.t.app).await.unwrap().results.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let (answer, ()) = tokio::join!(tool.get("/v1/push/PHONE-1"), sends);
        assert_eq!(json(answer, 200)["status"]["PHONE-1"]["push_result"], "0B2D-1");
    }

    async fn nobody_waits_for_ever(tool: Tool) {
        let tool = tool.ready().await;
        let phone = tool.phone("PHONE-1").await;
        // Nobody sends anything.
        let answer = json(tool.put("/v1/enqueue/PHONE-1", command("CMD1", INFO, &[])).await, 500);
        let why = answer["status"]["PHONE-1"]["push_error"].as_str().unwrap();
        assert!(why.contains("did not answer within 10 seconds"), "{why}");
        assert_eq!(phone.finish_all().await, [INFO]);
        // It came by itself: there is nothing to be told of a push.
        let comes = async {
            while phone.wake_at().await.is_none_or(|at| at > tool.edge.t.now()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            phone.finish_all().await
        };
        let (answer, done) = tokio::join!(tool.put("/v1/enqueue/PHONE-1", command("CMD2", INFO, &[])), comes);
        assert_eq!(json(answer, 200)["status"]["PHONE-1"], json!({}));
        assert_eq!(done, [INFO]);
    }

    async fn curl_is_understood(tool: Tool) {
        let phone = tool.phone("PHONE-1").await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = tool.routes.clone();
        let serving = tokio::spawn(async move { axum::serve(listener, routes).await });

        // A body in pieces, without a length and without a type, as `curl -T -` sends it.
        let body = command("CMD1", INFO, &[]);
        let (head, tail) = body.split_at(20);
        let mut request = format!(
            "PUT /v1/enqueue/PHONE-1?nopush=1 HTTP/1.1\r\nHost: muster\r\nAuthorization: {}\r\n\
             Transfer-Encoding: chunked\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n",
            basic("nanomdm", KEY)
        )
        .into_bytes();
        for piece in [head, tail, b""] {
            request.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            request.extend_from_slice(piece);
            request.extend_from_slice(b"\r\n");
        }
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(&request).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.contains("\"command_uuid\": \"CMD1\""), "{answer}");
        serving.abort();
        assert_eq!(phone.finish_all().await, [INFO]);

        let pieces = stream::iter([Ok::<_, std::io::Error>("half of"), Err(std::io::Error::other("gone"))]);
        let broken = json(tool.put("/v1/enqueue/PHONE-1?nopush=1", Body::from_stream(pieces)).await, 500);
        assert!(broken["command_error"].is_string(), "{broken}");
    }
}

/// What the server is restarted with counts, and nothing else.
#[tokio::test]
async fn the_key_shows_in_no_debug_output() {
    let text = format!("public_url = \"https://mdm.example.org\"\n[compat]\nnanomdm = {KEY:?}\n");
    let settings = muster::config::Settings::parse(std::path::Path::new("muster.toml"), &text, []).unwrap();
    let settings = Arc::new(settings);
    assert!(!format!("{settings:?}").contains(KEY));
}
