//! Enrollment pages as a person reads them: where the button leads, and what the page says if there is none.

use url::Url;

/// How much of a page's text is told, in characters.
const SHOWN: usize = 300;

/// The link of a page that leads to a profile.
pub(super) fn profile_link(place: &Url, html: &str) -> Option<Url> {
    html.split("href=").skip(1).find_map(|rest| {
        let quote = rest.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
        let target = rest.get(1..)?.split(quote).next()?.replace("&amp;", "&");
        let url = place.join(&target).ok()?;
        let path = url.path();
        (path.ends_with("/profile") || path.ends_with(".mobileconfig")).then_some(url)
    })
}

/// What a page says, in short: what it marks as a message (`role="status"` or `"alert"`), else from its first heading
/// on, else all of it.
pub(super) fn reason(html: &str) -> String {
    let marked = ["role=\"status\"", "role=\"alert\""].iter().find_map(|mark| element_with(html, mark));
    let heading = || html.find("<h1").and_then(|at| html.get(at..));
    let body = || html.find("<body").and_then(|at| html.get(at..));
    text(marked.or_else(heading).or_else(body).unwrap_or(html))
}

/// The element whose opening tag has this attribute, up to the first end of an element of its kind.
fn element_with<'a>(html: &'a str, attribute: &str) -> Option<&'a str> {
    let begin = html.get(..html.find(attribute)?)?.rfind('<')?;
    let element = html.get(begin..)?;
    let kind = element.get(1..)?.split(|char: char| !char.is_ascii_alphanumeric()).next()?;
    let end = element.find(&format!("</{kind}"));
    end.map_or(Some(element), |end| element.get(..end))
}

/// The text between the tags, without what is not shown, cut to a readable length.
fn text(html: &str) -> String {
    let mut words = String::new();
    let mut rest = html;
    while let Some((before, tag)) = rest.split_once('<') {
        words.push_str(before);
        // An element of inline text, such as <strong>, ends no word.
        let inline = ["strong", "em", "b>", "i>", "a>", "a ", "span", "code"];
        if !inline.iter().any(|kind| tag.trim_start_matches('/').starts_with(kind)) {
            words.push(' ');
        }
        let hidden = ["style", "script"].iter().find(|kind| tag.starts_with(**kind));
        let tag = hidden.and_then(|kind| tag.split_once(&format!("</{kind}"))).map_or(tag, |(_, after)| after);
        rest = tag.split_once('>').map_or("", |(_, after)| after);
    }
    words.push_str(rest);
    let words = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&#34;", "\""), ("&amp;", "&")]
        .iter()
        .fold(words, |words, (entity, char)| words.replace(entity, char));
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", words.get(..end).unwrap_or_default()),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_to_the_profile_is_found() {
        let place: Url = "https://mdm.example.org/enroll/abc".parse().unwrap();
        let html = r#"<link href="/style.css"><a class=x href="/enroll/abc/profile?a=1&amp;b=2">Install</a>"#;
        assert_eq!(profile_link(&place, html).unwrap().as_str(), "https://mdm.example.org/enroll/abc/profile?a=1&b=2");
        assert!(
            profile_link(&place, "<a href='one.mobileconfig'>").unwrap().path().ends_with("/enroll/one.mobileconfig")
        );
        assert_eq!(profile_link(&place, "<a href=/profile>no quotes</a> href=\""), None);
    }

    #[test]
    fn a_page_is_told_by_what_it_says() {
        let head = "<!doctype html><head><title>A</title><style>p{margin:0}</style></head><body><p>Example</p>";
        for (body, told) in [
            ("<h1>Used &amp; gone</h1>\n<p>Ask for <strong>another</strong>.</p>", "Used & gone Ask for another."),
            ("<h1>Enroll</h1><div class=x role=\"status\"><h2>Not ready</h2><p>Later</p></div>more", "Not ready Later"),
            ("<p role=\"alert\">Please enter a code</p>", "Please enter a code"),
            ("nothing<script>1 < 2</script> else", "Example nothing else"),
            ("<h1 broken", ""),
            ("<div role=\"status\"", ""),
        ] {
            assert_eq!(reason(&format!("{head}{body}")), told);
        }
        assert_eq!(reason("no page"), "no page");
        assert_eq!(reason(&"ä ".repeat(2000)).chars().count(), SHOWN + 1);
    }
}
