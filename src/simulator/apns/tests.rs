//! The real push client against the fake APNs, end to end.

use std::time::Duration;

use futures_util::future::join_all;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};

use super::*;
use crate::model::{ManualClock, Secret, SeededRandomness};
use crate::remote::apns::{ApnsClient, ApnsIdentity, Push, PushOutcome, Pusher, Roots, TimeOuts};

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const TOPIC: &str = "com.apple.mgmt.External.1";
const SOON: Duration = Duration::from_secs(5);

struct World {
    apns: FakeApns,
    client: Arc<ApnsClient>,
    authority: CertifiedIssuer<'static, KeyPair>,
    identity: ApnsIdentity,
}

/// A fake APNs that takes certificates of one authority, and a client with such a certificate.
async fn world(max_concurrent_streams: u32) -> World {
    let authority = authority();
    let client_authorities = vec![authority.der().to_vec()];
    let options = Options { max_concurrent_streams, client_authorities, ..Options::default() };
    let apns = start(options).await;
    let client = Arc::new(client_of(&apns));
    let identity = identity(&authority, TOPIC);
    World { apns, client, authority, identity }
}

async fn start(options: Options) -> FakeApns {
    FakeApns::start(options, clock(), Arc::new(SeededRandomness::new(1))).await.unwrap()
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(NOW))
}

fn client_of(apns: &FakeApns) -> ApnsClient {
    let roots = Roots::Only(vec![apns.root_der()]);
    ApnsClient::new(&apns.endpoint().parse().unwrap(), &roots, clock())
        .unwrap()
        .with_time_outs(TimeOuts { connect: SOON, answer: SOON })
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn identity(authority: &CertifiedIssuer<'static, KeyPair>, topic: &str) -> ApnsIdentity {
    identity_until(authority, topic, NOW.plus(Duration::from_secs(86_400)))
}

fn identity_until(authority: &CertifiedIssuer<'static, KeyPair>, topic: &str, not_after: Timestamp) -> ApnsIdentity {
    let mut params = CertificateParams::default();
    params.not_after = not_after.to_datetime();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 1]), topic);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    ApnsIdentity::new(topic.to_owned(), vec![certificate.der().to_vec()], Secret::new(key.serialize_der()))
}

fn push(token: &[u8]) -> Push {
    Push { token: token.to_vec(), magic: "magic".to_owned(), expires_at: NOW.plus(Duration::from_secs(86_400)) }
}

impl World {
    async fn push(&self, token: &[u8]) -> PushOutcome {
        self.client.push(&self.identity, &push(token)).await
    }

    /// Pushes once to each of `count` new tokens, all at the same time.
    async fn push_many(&self, count: usize) -> (Vec<Mailbox>, Vec<PushOutcome>) {
        let boxes: Vec<_> = (0..count).map(|_| self.apns.register(Some(TOPIC))).collect();
        let outcomes = join_all(boxes.iter().map(|mailbox| self.push(mailbox.token()))).await;
        (boxes, outcomes)
    }
}

#[track_caller]
fn assert_accepted(outcome: &PushOutcome) {
    assert!(matches!(outcome, PushOutcome::Accepted { apns_id: Some(_) }), "{outcome:?}");
}

async fn assert_all_woken(boxes: &[Mailbox], outcomes: &[PushOutcome]) {
    outcomes.iter().for_each(assert_accepted);
    for mailbox in boxes {
        assert!(mailbox.next(SOON).await.is_some());
    }
}

fn refused(status: u16, reason: &str) -> PushOutcome {
    PushOutcome::Refused { status, reason: reason.to_owned(), at: None }
}

#[tokio::test]
async fn a_push_wakes_the_device_over_a_connection_that_is_kept() {
    let world = world(1000).await;
    let mailbox = world.apns.register(Some(TOPIC));
    for _ in 0..3 {
        assert_accepted(&world.push(mailbox.token()).await);
    }
    let wake = mailbox.next(SOON).await.unwrap();
    assert_eq!((wake.magic.as_str(), wake.topic.as_str()), ("magic", TOPIC));
    assert_eq!(wake.expires_at, NOW.plus(Duration::from_secs(86_400)));
    assert_eq!(mailbox.next(Duration::ZERO).await, None, "the newest alone is kept");
    let counters = world.apns.counters();
    assert_eq!((counters.connections, counters.accepted, counters.delivered), (1, 3, 1));
}

#[tokio::test]
async fn bad_tokens_topics_and_certificates_are_refused() {
    let world = world(1000).await;
    assert_eq!(world.push(b"nobody").await, refused(400, "BadDeviceToken"));
    let other = world.apns.register(Some("com.apple.mgmt.External.2"));
    assert_eq!(world.push(other.token()).await, refused(400, "DeviceTokenNotForTopic"));

    let long = Push { magic: "m".repeat(5000), ..push(other.token()) };
    assert_eq!(world.client.push(&world.identity, &long).await, refused(413, "PayloadTooLarge"));

    let mailbox = world.apns.register(None);
    let foreign = identity(&authority(), "com.apple.mgmt.External.foreign");
    assert_eq!(world.client.push(&foreign, &push(mailbox.token())).await, refused(403, "BadCertificate"));
    let no_topic = identity(&world.authority, "com.example.not-mdm");
    assert_eq!(world.client.push(&no_topic, &push(mailbox.token())).await, refused(403, "BadCertificate"));
}

#[tokio::test]
async fn a_new_certificate_for_the_same_topic_replaces_the_connection() {
    let world = world(1000).await;
    let mailbox = world.apns.register(None);
    assert_accepted(&world.push(mailbox.token()).await);
    let renewed = identity(&world.authority, TOPIC);
    for _ in 0..2 {
        assert_accepted(&world.client.push(&renewed, &push(mailbox.token())).await);
    }
    assert_eq!(world.apns.counters().connections, 2);
}

#[tokio::test]
async fn a_token_that_is_gone_is_answered_with_the_time() {
    let world = world(1000).await;
    let mailbox = world.apns.register(None);
    let since = Timestamp::from_micros(1_790_000_000_123_000);
    world.apns.unregister(mailbox.token(), Some(since));
    let gone = PushOutcome::Refused { status: 410, reason: "Unregistered".to_owned(), at: Some(since) };
    assert_eq!(world.push(mailbox.token()).await, gone);
    let again = world.apns.register_token(mailbox.token(), None);
    assert_accepted(&world.push(again.token()).await);
    world.apns.inject(Fault::once(FaultKind::unregistered(since)));
    assert_eq!(world.push(again.token()).await, gone);
}

#[tokio::test]
async fn trouble_at_the_other_end_means_later() {
    let world = world(1000).await;
    let mailbox = world.apns.register(None);
    let html = FaultKind::Answer { status: 500, body: "<html>oops</html>".to_owned() };
    let busy = FaultKind::TooManyRequests { retry_after: Some(7) };
    let closed = FaultKind::ServiceUnavailable { retry_after: None };
    for (fault, after, reason) in [
        (html, None, "<html>oops</html>"),
        (busy, Some(Duration::from_secs(7)), "TooManyRequests"),
        (FaultKind::InternalServerError, None, "InternalServerError"),
        (closed, None, "ServiceUnavailable"),
    ] {
        world.apns.inject(Fault::once(fault).for_token(mailbox.token()));
        let outcome = world.push(mailbox.token()).await;
        assert_eq!(outcome, PushOutcome::Later { after, reason: reason.to_owned() });
    }
    assert_accepted(&world.push(mailbox.token()).await);
    assert_eq!(world.apns.counters().answers[&500], 2);
}

#[tokio::test]
async fn goaway_and_broken_connections_lose_nothing() {
    for fault in [FaultKind::GoAway, FaultKind::GoAwayAbrupt, FaultKind::HangUp] {
        let world = world(1000).await;
        // All are in flight when the fault strikes one of them.
        let slow = Fault::times(150, FaultKind::delay(Duration::from_millis(50)));
        world.apns.inject(slow);
        world.apns.inject(Fault::once(fault.clone()));
        for _ in 0..2 {
            let (boxes, outcomes) = world.push_many(300).await;
            assert_all_woken(&boxes, &outcomes).await;
        }
        assert_eq!(world.apns.counters().connections, 2, "{fault:?}");
    }
}

#[tokio::test]
async fn the_limit_on_streams_is_kept() {
    let world = world(4).await;
    world.apns.inject(Fault::always(FaultKind::delay(Duration::from_millis(2))));
    let (boxes, outcomes) = world.push_many(120).await;
    assert_all_woken(&boxes, &outcomes).await;
    let counters = world.apns.counters();
    assert!(counters.most_streams <= 4, "{counters:?}");
    assert_eq!((counters.requests, counters.connections), (120, 1));
}

#[tokio::test]
async fn a_restarted_server_is_found_again() {
    let world = world(1000).await;
    let mailbox = world.apns.register(None);
    assert_accepted(&world.push(mailbox.token()).await);
    world.apns.stop().await;
    let outcome = world.push(mailbox.token()).await;
    assert!(matches!(&outcome, PushOutcome::Unreachable { reason } if reason.contains("refused")), "{outcome:?}");
    world.apns.resume().await.unwrap();
    assert_accepted(&world.push(mailbox.token()).await);
}

#[tokio::test]
async fn slowness_ends_and_the_next_push_takes_another_connection() {
    let world = world(1000).await;
    let limits = TimeOuts { connect: SOON, answer: Duration::from_millis(80) };
    let client = client_of(&world.apns).with_time_outs(limits);
    let mailbox = world.apns.register(None);
    world.apns.inject(Fault::once(FaultKind::delay(Duration::from_secs(20))));
    let outcome = client.push(&world.identity, &push(mailbox.token())).await;
    assert_eq!(outcome, PushOutcome::Unreachable { reason: "no answer within 0.08 seconds".to_owned() });
    assert_accepted(&client.push(&world.identity, &push(mailbox.token())).await);
    assert_eq!(world.apns.counters().connections, 2);
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_unreachable() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://{}", silent.local_addr().unwrap());
    let limits = TimeOuts { connect: Duration::from_millis(80), answer: SOON };
    let client = ApnsClient::new(&endpoint.parse().unwrap(), &Roots::Public, clock()).unwrap().with_time_outs(limits);
    let outcome = client.push(&identity(&authority(), TOPIC), &push(b"token")).await;
    assert!(matches!(&outcome, PushOutcome::Unreachable { reason } if reason.contains("within")), "{outcome:?}");
}

#[tokio::test]
async fn trust_is_mutual() {
    let world = world(1000).await;
    let mailbox = world.apns.register(None);
    let endpoint = world.apns.endpoint().parse().unwrap();
    let distrustful = ApnsClient::new(&endpoint, &Roots::Public, clock()).unwrap();
    let outcome = distrustful.push(&world.identity, &push(mailbox.token())).await;
    assert!(matches!(&outcome, PushOutcome::Unreachable { reason } if reason.contains("UnknownIssuer")), "{outcome:?}");

    let mismatch = ApnsIdentity::new(TOPIC.to_owned(), vec![b"no certificate".to_vec()], Secret::new(vec![1, 2, 3]));
    let outcome = world.client.push(&mismatch, &push(mailbox.token())).await;
    assert!(
        matches!(&outcome, PushOutcome::Unreachable { reason } if reason.contains("cannot be used")),
        "{outcome:?}"
    );
    assert_eq!(world.apns.counters().requests, 0);
}

#[tokio::test]
async fn an_expired_push_certificate_is_named_as_the_cause() {
    let world = world(1000).await;
    let mailbox = world.apns.register(None);
    let expired = identity_until(&world.authority, TOPIC, NOW.minus(Duration::from_secs(1)));
    let outcome = world.client.push(&expired, &push(mailbox.token())).await;
    assert!(matches!(&outcome, PushOutcome::Unreachable { reason } if reason.contains("xpired")), "{outcome:?}");
}

#[tokio::test]
async fn other_processes_use_the_control_listener() {
    let control = Some("127.0.0.1:0".parse().unwrap());
    let apns = start(Options { control, ..Options::default() }).await;
    let other = ControlClient::new(apns.control_url().unwrap()).unwrap();
    let token = other.register(Some(TOPIC)).await.unwrap();
    let client = client_of(&apns);
    let identity = identity(&authority(), TOPIC);

    let waiting = tokio::spawn({
        let (other, token) = (other.clone(), token.clone());
        async move { other.next(&token, Duration::from_secs(20)).await.unwrap() }
    });
    assert_accepted(&client.push(&identity, &push(&token)).await);
    assert_eq!(waiting.await.unwrap().unwrap().magic, "magic");
    assert_eq!(other.next(&token, Duration::ZERO).await.unwrap(), None);

    other.inject(&Fault::once(FaultKind::Unregistered { timestamp: None })).await.unwrap();
    assert!(matches!(client.push(&identity, &push(&token)).await, PushOutcome::Refused { status: 410, .. }));
    assert_eq!(other.counters().await.unwrap().accepted, 1);
    let unknown = other.next(b"nobody", Duration::ZERO).await.unwrap_err();
    assert!(matches!(unknown, control::ControlError::Refused(404, _)), "{unknown}");
    apns.shut_down().await;
}

#[tokio::test]
async fn control_stays_on_this_machine() {
    let control = Some("0.0.0.0:0".parse().unwrap());
    let options = Options { control, ..Options::default() };
    let started = FakeApns::start(options, clock(), Arc::new(SeededRandomness::new(1))).await;
    assert!(matches!(started, Err(StartError::ControlNotLoopback(_))));
}
