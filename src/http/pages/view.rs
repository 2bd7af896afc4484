//! The pages as HTML. They load nothing, run nothing, and can be read by everybody.

use std::time::Duration;

use askama::Template;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use time::macros::format_description;

use crate::model::Timestamp;
use crate::service::enrollment::LinkPage;

/// The style of all pages.
pub(super) const STYLE: &str = include_str!("../../../templates/enroll/style.css");

/// The page of a link.
#[derive(Template)]
#[template(path = "enroll/link.html")]
pub(super) struct LinkView<'a> {
    style: &'static str,
    organization: &'a str,
    support: &'a str,
    code: &'a str,
    user_name: Option<&'a str>,
    profile_name: &'a str,
    ready: bool,
    valid_for: String,
    open_until: Option<String>,
    rights: Vec<&'static str>,
    qr: String,
}

impl<'a> LinkView<'a> {
    /// `qr` is the page's own address as SVG.
    pub(super) fn new(page: &'a LinkPage, code: &'a str, qr: &str) -> Self {
        Self {
            style: STYLE,
            organization: &page.organization,
            support: &page.support,
            code,
            user_name: page.user_name.as_deref(),
            profile_name: &page.profile_name,
            ready: page.ready,
            valid_for: in_words(page.profile_lifetime),
            open_until: page.expires_at.map(day_and_time),
            rights: rights(page.access_rights),
            qr: STANDARD.encode(qr),
        }
    }
}

/// The page that asks for a code.
#[derive(Template)]
#[template(path = "enroll/ask.html")]
pub(super) struct AskView<'a> {
    pub(super) style: &'static str,
    pub(super) organization: &'a str,
    pub(super) support: &'a str,
    pub(super) problem: Option<&'static str>,
}

/// A page that says why there is nothing else to see.
#[derive(Template)]
#[template(path = "enroll/notice.html")]
pub(super) struct NoticeView<'a> {
    pub(super) style: &'static str,
    pub(super) organization: &'a str,
    pub(super) support: &'a str,
    pub(super) heading: &'static str,
    pub(super) text: &'a str,
    /// Where to try again, if that may help.
    pub(super) again: Option<String>,
}

/// What access rights mean for the person who holds the device. Source: Apple's schema, `com.apple.mdm`, AccessRights.
fn rights(bits: u32) -> Vec<&'static str> {
    const SEE_DEVICE: u32 = 16 | 32 | 512 | 1024;
    let all = [
        (SEE_DEVICE, "see what device it is, its system version, its network addresses and how it is protected"),
        (1 | 2, "install settings, such as Wi-Fi, mail or restrictions, and take them away"),
        (256, "see which apps are installed"),
        (4096, "install and remove apps that it manages"),
        (2048, "change the device's name and similar settings"),
        (4, "lock the device and clear its passcode"),
        (8, "erase the device"),
    ];
    all.into_iter().filter(|(bit, _)| bits & bit != 0).map(|(_, text)| text).collect()
}

/// A length of time, rounded down to its largest unit.
fn in_words(time: Duration) -> String {
    let minutes = time.as_secs() / 60;
    let (number, unit) = match minutes {
        0..120 => (minutes, "minute"),
        120..2880 => (minutes / 60, "hour"),
        _ => (minutes / 1440, "day"),
    };
    if number == 1 { format!("1 {unit}") } else { format!("{number} {unit}s") }
}

fn day_and_time(at: Timestamp) -> String {
    let format = format_description!("[day padding:none] [month repr:long] [year], [hour]:[minute] UTC");
    at.to_datetime().format(&format).unwrap_or_else(|_| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> LinkPage {
        LinkPage {
            organization: "Example <School>".to_owned(),
            support: "Ask at the reception, +1 555 0100".to_owned(),
            profile_name: "Device management".to_owned(),
            user_name: Some("A & B".to_owned()),
            expires_at: Some(Timestamp::from_seconds(1_795_324_800)),
            access_rights: 8191,
            profile_lifetime: Duration::from_secs(3600),
            ready: true,
        }
    }

    #[test]
    fn the_page_of_a_link() {
        let page = page();
        let html = LinkView { style: "", ..LinkView::new(&page, "abcd2345", "<svg/>") }.render().unwrap();
        assert!(!html.contains("<script") && !html.contains("<School>"));
        assert_eq!(html.matches("class=\"button\"").count(), 1, "one button");
        insta::assert_snapshot!(html);
    }

    #[test]
    fn the_page_of_a_link_of_a_server_that_is_not_ready() {
        let page = LinkPage {
            ready: false,
            user_name: None,
            expires_at: None,
            support: String::new(),
            access_rights: 1,
            ..page()
        };
        let html = LinkView { style: "", ..LinkView::new(&page, "abcd2345", "<svg/>") }.render().unwrap();
        assert!(!html.contains("/profile\""), "nothing to download");
        insta::assert_snapshot!(html);
    }

    #[test]
    fn the_page_that_asks_for_a_code() {
        let view = AskView { style: "", organization: "Example School", support: "", problem: None };
        insta::assert_snapshot!(view.render().unwrap());
        let wrong = AskView { problem: Some("That is no code."), ..view }.render().unwrap();
        assert!(wrong.contains("role=\"alert\"") && wrong.contains("aria-invalid"));
    }

    #[test]
    fn a_page_that_says_why() {
        let view = NoticeView {
            style: "",
            organization: "Example School",
            support: "Ask at the reception",
            heading: "This link has expired",
            text: "Ask for another one.",
            again: Some("/enroll/abcd2345".to_owned()),
        };
        insta::assert_snapshot!(view.render().unwrap());
    }

    #[test]
    fn times_are_told_in_words() {
        let of = |seconds| in_words(Duration::from_secs(seconds));
        assert_eq!(
            [of(60), of(3600), of(7200), of(90_000), of(172_800)],
            ["1 minute", "60 minutes", "2 hours", "25 hours", "2 days"]
        );
    }
}
