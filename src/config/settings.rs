//! Every setting, once: type, default, and the text about it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderName;

use super::address::{DatabaseUrl, Endpoint, HookUrl, PublicUrl};
use super::check;
use super::fault::Faults;
use super::network::{Network, Peer};
use super::reader::Preset::{Default, Example, Required};
use super::reader::{Key, Reader, Section};
use super::value::{DataPath, Keep, Size, words};
use crate::model::Secret;

/// Makes a struct of a section's settings, the list of them for the written file, and what reads them.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        $name:ident = $path:literal {
            $($(#[doc = $doc:literal])* $field:ident: $kind:ty = $preset:expr,)*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug)]
        pub struct $name {
            $($(#[doc = $doc])* pub $field: $kind,)*
        }

        impl $name {
            pub(super) const SECTION: Section = Section {
                path: $path,
                about: &[$($about),*],
                keys: &[$(Key { name: stringify!($field), about: &[$($doc),*], preset: $preset }),*],
            };

            fn read(reader: &mut Reader) -> Self {
                Self {
                    $($field: reader.get(
                        $path,
                        &Key { name: stringify!($field), about: &[], preset: $preset },
                    ),)*
                }
            }
        }
    };
}

section! {
    /// Where the server is, for others and on its own disk.
    Place = "" {
        /// The URL that devices use, https: a host, and perhaps a port. It is written into the enrollment profile, and
        /// devices that are enrolled never accept another one: choose a name that will last.
        public_url: PublicUrl = Required("\"https://mdm.example.org\""),
        /// The directory of the database and the master key; uploads lie there until they are complete.
        data_dir: PathBuf = Default("\"data\""),
    }
}

section! {
    /// What the people who enroll a device are told.
    Organization = "organization" {
        /// The organization's name, as the enrollment page and the profile show it.
        name: String = Default("\"Our organization\""),
        /// Whom to ask for help: a line for the enrollment page.
        support: String = Default("\"\""),
    }
}

section! {
    /// The database.
    Database = "database" {
        /// `sqlite:FILE`, where the file is relative to `data_dir`, or `postgres://USER:PASSWORD@HOST/DATABASE`.
        url: DatabaseUrl = Default("\"sqlite:muster.db\""),
        /// For migrations, where `url` leads to a pooler such as PgBouncer: a URL past it.
        direct_url: Option<DatabaseUrl> = Example("\"postgres://muster@db.example.org/muster\""),
        /// How many connections this process opens at most.
        max_connections: u32 = Default("16"),
    }
}

words! {
    /// How the device listener speaks TLS.
    DeviceTls {
        /// With a certificate under Muster's own TLS root, which the enrollment profile brings along.
        Own = "own",
        /// With a certificate and key from files, reloaded when they change.
        Files = "files",
        /// Not at all: a proxy before it does.
        BehindProxy = "behind_proxy",
    }
}

words! {
    /// Whether a device may enroll again, with a new certificate, over an active enrollment.
    Reenroll {
        /// Always.
        Allow = "allow",
        /// Where the link names the same user as the active enrollment, or no user.
        SameUser = "same_user",
        /// When an admin has approved it.
        Approve = "approve",
    }
}

section! {
    /// The listener for devices.
    Devices = "devices" {
        /// The address and port to listen on.
        listen: SocketAddr = Default("\"0.0.0.0:8443\""),
        /// `"own"`: a certificate of Muster's own, under a root that the enrollment profile brings along. `"files"`: the
        /// certificate and key named below, reloaded when they change. `"behind_proxy"`: plain HTTP, for a proxy that
        /// terminates TLS; needs `proxy.trusted`.
        tls: DeviceTls = Default("\"own\""),
        /// The certificate and its chain, PEM; for `tls = "files"`.
        tls_certificate: Option<PathBuf> = Example("\"tls/fullchain.pem\""),
        /// The certificate's key, PEM; for `tls = "files"`.
        tls_key: Option<PathBuf> = Example("\"tls/privkey.pem\""),
        /// Accept `Mdm-Signature` headers with SHA-1 digests, which real devices and clients still send.
        allow_sha1_signatures: bool = Default("true"),
        /// How far the time in an `Mdm-Signature` may be from the server's.
        signing_time_skew: Duration = Default("\"24h\""),
        /// How long after its end a device's certificate still admits the device, so that one from the bottom of a
        /// drawer can come back.
        identity_grace: Duration = Default("\"90d\""),
        /// Whether a device may enroll over an active enrollment with a new certificate: `"allow"`, `"same_user"` (where
        /// the link names the same user as before, by address or else by name, or none) or `"approve"` (when an admin has
        /// approved it). A certificate of an earlier enrollment of the device takes an approval in any case.
        reenroll: Reenroll = Default("\"same_user\""),
        /// Whether a device that was taken over from another server without its certificate is bound to the first one that
        /// it presents, once: whoever has a certificate of an accepted authority and knows the device's id can be the first.
        /// Set it for the time of the move alone.
        pin_on_first_use: bool = Default("false"),
        /// The time for a TLS handshake.
        handshake_timeout: Duration = Default("\"10s\""),
        /// The time for a request's headers.
        header_timeout: Duration = Default("\"15s\""),
        /// The time for a request's body.
        body_timeout: Duration = Default("\"60s\""),
        /// The time for the answer.
        request_timeout: Duration = Default("\"30s\""),
        /// How many connections are open at once at most.
        max_connections: u32 = Default("20000"),
        /// How many messages are worked on at once at most, once they have been read: a device that comes when so many are
        /// is told to come again (503, with `Retry-After`). A message that waits for the database counts.
        max_requests: u32 = Default("4096"),
        /// The largest check-in message.
        max_checkin_size: Size = Default("\"1MiB\""),
        /// The largest report on a command; a list of certificates or of apps runs to hundreds of KiB.
        max_report_size: Size = Default("\"16MiB\""),
        /// How much of the messages that are read and handled at the same time may be in memory; the first 64 KiB of each do
        /// not count. A device whose message has no room is told to come again. While one is handled it takes several
        /// times as much.
        body_memory: Size = Default("\"256MiB\""),
        /// Whether network users of a Mac get a channel of their own, without being asked for a password
        /// (UserAuthenticate with an empty challenge). Local users get one in any case.
        network_users: bool = Default("false"),
    }
}

section! {
    /// A host name of its own for pages, SCEP and packages, at which no client certificate is asked for, so that
    /// browsers have nothing to ask their users. Without one they live beside the device's own paths.
    Pages = "pages" {
        /// Their URL. Without `listen` below they are served by the device listener, told apart by the host name.
        public_url: Option<PublicUrl> = Example("\"https://enroll.example.org\""),
        /// An address and port of their own.
        listen: Option<SocketAddr> = Example("\"0.0.0.0:8444\""),
        /// The certificate and its chain, PEM, for `devices.tls = "files"`; without it the device listener's is used.
        tls_certificate: Option<PathBuf> = Example("\"tls/enroll-fullchain.pem\""),
        /// The certificate's key, PEM.
        tls_key: Option<PathBuf> = Example("\"tls/enroll-privkey.pem\""),
    }
}

section! {
    /// The listener for admins: the API, its documentation and the metrics.
    Admin = "admin" {
        /// The address and port to listen on. One that others can reach needs a certificate or `behind_proxy`.
        listen: SocketAddr = Default("\"127.0.0.1:8080\""),
        /// The certificate and its chain, PEM.
        tls_certificate: Option<PathBuf> = Example("\"tls/admin-fullchain.pem\""),
        /// The certificate's key, PEM.
        tls_key: Option<PathBuf> = Example("\"tls/admin-privkey.pem\""),
        /// A proxy before it terminates TLS.
        behind_proxy: bool = Default("false"),
        /// The time for a request, uploads of packages aside.
        request_timeout: Duration = Default("\"30s\""),
        /// The largest request body, uploads of packages aside.
        max_body_size: Size = Default("\"8MiB\""),
        /// How many requests to the API are worked on at once at most, uploads of packages aside: past that the answer is 503
        /// with `Retry-After`. Health checks and metrics are answered in any case.
        max_requests: u32 = Default("256"),
    }
}

words! {
    /// How a proxy hands on a client certificate.
    IdentityForm {
        /// RFC 9440: `:base64:` of the DER.
        Rfc9440 = "rfc9440",
        /// URL-escaped PEM.
        Pem = "pem",
    }
}

section! {
    /// The proxies before this server. What their headers say counts only when the request comes from one of them.
    Proxy = "proxy" {
        /// Their addresses or ranges of addresses, such as `["10.0.0.7", "10.1.0.0/16"]`.
        trusted: Vec<Network> = Default("[]"),
        /// The header in which a proxy hands on the client certificate that it has verified the possession of.
        identity_header: HeaderName = Default("\"Client-Cert\""),
        /// Its form: `"rfc9440"` (base64 of the DER between colons) or `"pem"` (URL-escaped PEM).
        identity_form: IdentityForm = Default("\"rfc9440\""),
        /// The header that names the client's address.
        address_header: HeaderName = Default("\"X-Forwarded-For\""),
    }
}

section! {
    /// The enrollment profile.
    Enrollment = "enrollment" {
        /// Have devices sign each message in an `Mdm-Signature` header. Needed where a proxy terminates TLS and hands on
        /// no client certificate; some clients refuse a profile without it.
        sign_message: bool = Default("true"),
        /// What the server may do with the device: the sum of Apple's bits, 8191 for everything. Rights can be taken
        /// away from enrolled devices, never added.
        access_rights: u32 = Default("8191"),
        /// The profile's identifier. Devices that are enrolled keep the one that they have.
        profile_identifier: String = Default("\"muster.enrollment\""),
        /// The profile's name on the device.
        display_name: String = Default("\"Device management\""),
        /// What the profile says of itself on the device.
        description: String = Default("\"Lets your organization manage this device.\""),
        /// How often an address may ask for enrollment pages and profiles in a minute.
        requests_per_minute: u32 = Default("600"),
    }
}

words! {
    /// Which key signs the profiles that devices get.
    ProfileSigning {
        /// The TLS certificate's where that is publicly trusted, else Muster's own.
        Auto = "auto",
        /// The TLS certificate's.
        Tls = "tls",
        /// A signing certificate under Muster's own root.
        Own = "own",
    }
}

section! {
    /// The profiles that devices get.
    Profiles = "profiles" {
        /// Which certificate signs them: `"tls"` (the device listener's, so not behind a proxy), `"own"` (one under
        /// Muster's own root), or `"auto"`: the TLS certificate where it is publicly trusted, else the own one.
        signing: ProfileSigning = Default("\"auto\""),
    }
}

section! {
    /// SCEP, by which devices obtain their certificates.
    Scep = "scep" {
        /// Accept single DES, SHA-1 and RSA keys of 1024 bits, which some clients still send. Apple's devices do not.
        allow_legacy_algorithms: bool = Default("false"),
        /// How long the challenge in a profile can be used.
        challenge_lifetime: Duration = Default("\"1h\""),
        /// How long a device's certificate holds.
        certificate_lifetime: Duration = Default("\"365d\""),
        /// How often an address may ask for a certificate in a minute: each request costs an RSA operation, and a whole
        /// school may come from one address.
        requests_per_minute: u32 = Default("600"),
    }
}

section! {
    /// Apple's push service, by which devices are woken.
    Push = "push" {
        /// The service's URL.
        endpoint: Endpoint = Default("\"https://api.push.apple.com\""),
        /// The roots that the service is trusted by, PEM; without it the public ones that are built in.
        roots: Option<PathBuf> = Example("\"push-roots.pem\""),
        /// How often every device is woken even though nothing waits for it, so that lost pushes heal.
        sync_interval: Duration = Default("\"3h\""),
        /// How many pushes are in flight at once at most.
        concurrency: u32 = Default("500"),
        /// How long Apple keeps a push for a device that is offline.
        expiration: Duration = Default("\"7d\""),
    }
}

section! {
    /// An MDM vendor certificate, if you have one: requests for push certificates are signed with it, ready for Apple's
    /// portal.
    Vendor = "vendor" {
        /// The vendor certificate, with Apple's intermediate and root, PEM.
        certificate: Option<PathBuf> = Example("\"vendor/chain.pem\""),
        /// Its key, PEM.
        key: Option<PathBuf> = Example("\"vendor/key.pem\""),
    }
}

section! {
    /// Uploaded apps. They are kept in the database; while one is uploaded, it takes as much room in `data_dir` as well.
    Apps = "apps" {
        /// The largest package.
        max_package_size: Size = Default("\"4GiB\""),
        /// What all packages may take together.
        quota: Size = Default("\"50GiB\""),
    }
}

section! {
    /// How long history is kept. What is older is taken away bit by bit. What is not finished never is: commands that a
    /// device may still get or report on stay, with all that belongs to them.
    Retention = "retention" {
        /// What came of a command on a device, from its end on: its states, its history and the report. The command itself
        /// goes with the last of them. `"forever"` keeps all.
        commands: Keep = Default("\"365d\""),
        /// What devices reported, as it came. What is known of a device stays.
        reports: Keep = Default("\"90d\""),
        /// The audit log.
        audit: Keep = Default("\"forever\""),
        /// What a webhook was to be told and did not take.
        dead_events: Keep = Default("\"30d\""),
    }
}

section! {
    /// For tools that speak NanoMDM's interface; see docs/operate/nanomdm-compat.md.
    Compat = "compat" {
        /// The API key of that interface, which the admin listener then serves beside its own: the password of the user
        /// `nanomdm`. Whoever has it may do what an operator may, upload push certificates, and take devices over. Without
        /// one the interface is off.
        nanomdm: Option<Secret<String>> = Example("\"a long random text\""),
        /// On how many devices one request there may erase, lock with a PIN, or end the management.
        max_destructive_targets: u32 = Default("1"),
        /// The hook that answers the declarative management of devices: their endpoint (`tokens`, `declaration-items`,
        /// `status`, `declaration/…`) is resolved against this URL, which should end with a slash.
        declarative_management_url: Option<HookUrl> = Example("\"https://ddm.example.org/\""),
        /// The key of that hook's `X-Hmac-Signature`: each request is signed, and each answer has to be.
        declarative_management_key: Option<Secret<String>> = Example("\"another long random text\""),
        /// Apple's service that lifts the activation lock, for `/v1/escrowkeyunlock`; believed by `push.roots` as APNs is.
        escrow_key_unlock_url: Endpoint =
            Default("\"https://deviceservices-external.apple.com/deviceservicesworkers/escrowKeyUnlock\""),
    }
}

section! {
    /// Calls that this server makes to addresses which an admin configured.
    Hooks = "hooks" {
        /// The hosts, addresses or ranges that hooks may reach though they are this machine's or a private network's, such
        /// as `["hooks.internal.example.org", "10.1.2.3", "fd00::/8"]`. A host that is named may have any address. Public
        /// addresses need no entry.
        allow: Vec<Peer> = Default("[]"),
        /// How long a webhook is told of an event that it does not take, at ever longer intervals (an hour at most). Then the
        /// event is given up: it stays for a while (`retention.dead_events`), and can be sent again.
        retry_for: Duration = Default("\"24h\""),
        /// After so many attempts it is given up, however short they were.
        max_attempts: u32 = Default("50"),
        /// How many devices' events are under way to one webhook at the same time.
        concurrency: u32 = Default("16"),
        /// How many events may wait for one webhook, about. While more do, it is told of nothing new, so that a receiver that
        /// is away does not fill the database.
        max_waiting: u32 = Default("100000"),
    }
}

words! {
    /// The form of the log.
    LogFormat {
        /// For people.
        Pretty = "pretty",
        /// One JSON object a line.
        Json = "json",
    }
}

section! {
    /// The log, which goes to the standard error.
    Log = "log" {
        /// `"pretty"` for people, `"json"` for programs.
        format: LogFormat = Default("\"pretty\""),
        /// The least level to log (`"error"`, `"warn"`, `"info"`, `"debug"`, `"trace"`), also per room:
        /// `"info,muster::remote=debug"`.
        level: String = Default("\"info\""),
    }
}

section! {
    /// Metrics for Prometheus, at `/metrics` of the admin listener.
    Metrics = "metrics" {
        /// The bearer token that reads them. Without one they are given to this machine only, and to nobody
        /// where `admin.behind_proxy` is set.
        token: Option<Secret<String>> = Example("\"a long random text\""),
    }
}

section! {
    /// The master key, under which secrets in the database are encrypted. Instead of a file, the variable
    /// `MUSTER_MASTER_KEY` may hold the key itself.
    MasterKeys = "master_key" {
        /// Its file, relative to `data_dir`.
        file: DataPath = Default("\"master.key\""),
        /// The files of earlier keys, by which older secrets can still be read after a rotation.
        older: Vec<DataPath> = Default("[]"),
    }
}

/// All settings, valid.
///
/// Their `Debug` shows no secrets.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The URL that devices use.
    pub public_url: PublicUrl,
    /// The directory of the database and the master key, and of uploads until they are complete.
    pub data_dir: PathBuf,
    /// What people are told.
    pub organization: Organization,
    /// The database.
    pub database: Database,
    /// The listener for devices.
    pub devices: Devices,
    /// Where pages, SCEP and packages are served.
    pub pages: Pages,
    /// The listener for admins.
    pub admin: Admin,
    /// The proxies that are trusted.
    pub proxy: Proxy,
    /// The enrollment profile.
    pub enrollment: Enrollment,
    /// How profiles are signed.
    pub profiles: Profiles,
    /// SCEP.
    pub scep: Scep,
    /// Apple's push service.
    pub push: Push,
    /// The MDM vendor certificate.
    pub vendor: Vendor,
    /// Uploaded apps. They are kept in the database; while one is uploaded, it takes as much room in `data_dir` as well.
    pub apps: Apps,
    /// How long history is kept.
    pub retention: Retention,
    /// For tools that speak NanoMDM's interface.
    pub compat: Compat,
    /// Calls to addresses which an admin configured.
    pub hooks: Hooks,
    /// The log.
    pub log: Log,
    /// Metrics.
    pub metrics: Metrics,
    /// The master keys' files.
    pub master_key: MasterKeys,
    /// The active master key itself, where the environment holds it in `MUSTER_MASTER_KEY`; then `master_key.file` is
    /// not read.
    pub master_key_text: Option<Secret<String>>,
}

impl Settings {
    pub(super) const SECTIONS: &[&Section] = &[
        &Place::SECTION,
        &Organization::SECTION,
        &Database::SECTION,
        &Devices::SECTION,
        &Pages::SECTION,
        &Admin::SECTION,
        &Proxy::SECTION,
        &Enrollment::SECTION,
        &Profiles::SECTION,
        &Scep::SECTION,
        &Push::SECTION,
        &Vendor::SECTION,
        &Apps::SECTION,
        &Retention::SECTION,
        &Compat::SECTION,
        &Hooks::SECTION,
        &Log::SECTION,
        &Metrics::SECTION,
        &MasterKeys::SECTION,
    ];

    /// Reads settings from a text, as if `file` held it, with `environment` over them.
    ///
    /// # Errors
    /// Everything that is wrong with them, at once.
    pub fn parse(
        file: &Path,
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Faults> {
        let environment: Vec<_> = environment.into_iter().collect();
        let master_key = environment.iter().find(|(name, text)| name == "MUSTER_MASTER_KEY" && !text.is_empty());
        let master_key_text = master_key.map(|(_, text)| Secret::new(text.clone()));
        let mut reader = Reader::new(file, text, environment, Self::SECTIONS);
        let place = Place::read(&mut reader);
        reader.set_data_directory(&place.data_dir);
        let settings = Self {
            public_url: place.public_url,
            data_dir: place.data_dir,
            organization: Organization::read(&mut reader),
            database: Database::read(&mut reader),
            devices: Devices::read(&mut reader),
            pages: Pages::read(&mut reader),
            admin: Admin::read(&mut reader),
            proxy: Proxy::read(&mut reader),
            enrollment: Enrollment::read(&mut reader),
            profiles: Profiles::read(&mut reader),
            scep: Scep::read(&mut reader),
            push: Push::read(&mut reader),
            vendor: Vendor::read(&mut reader),
            apps: Apps::read(&mut reader),
            retention: Retention::read(&mut reader),
            compat: Compat::read(&mut reader),
            hooks: Hooks::read(&mut reader),
            log: Log::read(&mut reader),
            metrics: Metrics::read(&mut reader),
            master_key: MasterKeys::read(&mut reader),
            master_key_text,
        };
        check::check(&settings, &mut reader);
        let faults = reader.into_faults();
        if faults.is_empty() { Ok(settings) } else { Err(Faults(faults)) }
    }

    /// The URL of pages, SCEP and packages: their own, or the devices'.
    #[must_use]
    pub fn pages_url(&self) -> &PublicUrl {
        self.pages.public_url.as_ref().unwrap_or(&self.public_url)
    }
}
