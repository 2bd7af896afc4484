//! Who may call what: the one table that the API enforces, that `docs/api/roles.md` shows, and that a test walks.

use http::Method;

use crate::model::Role;

/// One row: this route takes at least this role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The method.
    pub method: &'static str,
    /// The path's template.
    pub path: &'static str,
    /// The least role.
    pub role: Role,
    /// Whether the body may be large and slow: the time for ordinary requests does not count.
    pub is_upload: bool,
}

const fn rule(method: &'static str, path: &'static str, role: Role) -> Rule {
    Rule { method, path, role, is_upload: false }
}

/// All routes of the API. A route that is not here is refused to everybody.
///
/// A viewer reads, and never sees PINs, tokens, profiles' contents or reports. An operator enrolls devices and sends
/// commands, and touches no certificates, no tokens, no webhooks (which send what devices say elsewhere, and whose URLs may
/// hold secrets), and nothing that destroys on more than one device (which the verb itself refuses, since that depends on the
/// request).
pub const RULES: &[Rule] = &[
    rule("GET", "/api/v1/server", Role::Viewer),
    rule("GET", "/api/v1/devices", Role::Viewer),
    rule("GET", "/api/v1/devices/{id}", Role::Viewer),
    rule("DELETE", "/api/v1/devices/{id}", Role::Admin),
    rule("GET", "/api/v1/devices/{id}/commands", Role::Viewer),
    rule("POST", "/api/v1/devices/{id}/push", Role::Operator),
    rule("POST", "/api/v1/devices/{id}/approve-reenrollment", Role::Admin),
    rule("GET", "/api/v1/commands", Role::Viewer),
    rule("POST", "/api/v1/commands", Role::Operator),
    rule("GET", "/api/v1/commands/{id}", Role::Viewer),
    rule("DELETE", "/api/v1/commands/{id}", Role::Operator),
    rule("POST", "/api/v1/commands/{id}/redeliver", Role::Operator),
    rule("POST", "/api/v1/commands/{id}/release", Role::Admin),
    rule("POST", "/api/v1/commands/release-held", Role::Admin),
    rule("GET", "/api/v1/commands/{id}/deliveries/{enrollment_id}", Role::Viewer),
    rule("GET", "/api/v1/commands/{id}/deliveries/{enrollment_id}/report", Role::Operator),
    rule("GET", "/api/v1/enrollment-links", Role::Viewer),
    rule("POST", "/api/v1/enrollment-links", Role::Operator),
    rule("GET", "/api/v1/enrollment-links/{id}", Role::Viewer),
    rule("DELETE", "/api/v1/enrollment-links/{id}", Role::Operator),
    rule("POST", "/api/v1/scep/challenges", Role::Admin),
    rule("GET", "/api/v1/authorities", Role::Viewer),
    rule("POST", "/api/v1/authorities", Role::Admin),
    rule("GET", "/api/v1/authorities/{id}", Role::Viewer),
    rule("DELETE", "/api/v1/authorities/{id}", Role::Admin),
    rule("POST", "/api/v1/authorities/{id}/activate", Role::Admin),
    rule("GET", "/api/v1/certificates", Role::Viewer),
    rule("GET", "/api/v1/certificates/{sha256}", Role::Viewer),
    rule("POST", "/api/v1/certificates/{sha256}/revoke", Role::Admin),
    rule("GET", "/api/v1/audit", Role::Viewer),
    rule("GET", "/api/v1/tokens", Role::Admin),
    rule("POST", "/api/v1/tokens", Role::Admin),
    rule("GET", "/api/v1/tokens/{id}", Role::Admin),
    rule("DELETE", "/api/v1/tokens/{id}", Role::Admin),
    rule("GET", "/api/v1/webhooks", Role::Admin),
    rule("POST", "/api/v1/webhooks", Role::Admin),
    rule("GET", "/api/v1/webhooks/{id}", Role::Admin),
    rule("PATCH", "/api/v1/webhooks/{id}", Role::Admin),
    rule("DELETE", "/api/v1/webhooks/{id}", Role::Admin),
    rule("POST", "/api/v1/webhooks/{id}/test", Role::Admin),
    rule("GET", "/api/v1/webhooks/{id}/dead", Role::Admin),
    rule("POST", "/api/v1/webhooks/{id}/replay", Role::Admin),
    rule("GET", "/api/v1/profiles", Role::Viewer),
    rule("POST", "/api/v1/profiles", Role::Operator),
    rule("GET", "/api/v1/profiles/{id}", Role::Viewer),
    rule("PUT", "/api/v1/profiles/{id}", Role::Operator),
    rule("DELETE", "/api/v1/profiles/{id}", Role::Operator),
    rule("GET", "/api/v1/profiles/{id}/content", Role::Admin),
    rule("GET", "/api/v1/apps", Role::Viewer),
    rule("POST", "/api/v1/apps", Role::Operator),
    Rule { is_upload: true, ..rule("POST", "/api/v1/apps/package", Role::Operator) },
    rule("GET", "/api/v1/apps/{id}", Role::Viewer),
    rule("PATCH", "/api/v1/apps/{id}", Role::Operator),
    rule("DELETE", "/api/v1/apps/{id}", Role::Operator),
    rule("GET", "/api/v1/apns/requests", Role::Admin),
    rule("POST", "/api/v1/apns/requests", Role::Admin),
    rule("GET", "/api/v1/apns/requests/{id}", Role::Admin),
    rule("DELETE", "/api/v1/apns/requests/{id}", Role::Admin),
    rule("GET", "/api/v1/apns/certificate", Role::Viewer),
    rule("PUT", "/api/v1/apns/certificate", Role::Admin),
    rule("GET", "/api/v1/apns/certificate/{topic}", Role::Viewer),
    rule("PATCH", "/api/v1/apns/certificate/{topic}", Role::Admin),
    rule("DELETE", "/api/v1/apns/certificate/{topic}", Role::Admin),
];

/// The rule of a route; HEAD is as GET.
#[must_use]
pub fn rule_for(method: &Method, path: &str) -> Option<&'static Rule> {
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    RULES.iter().find(|rule| rule.method == method && rule.path == path)
}

/// Whether any rule is about this path.
#[must_use]
pub fn knows_path(path: &str) -> bool {
    RULES.iter().any(|rule| rule.path == path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_table_and_the_routes_are_the_same() {
        let document = super::super::openapi();
        let mut documented = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys() {
                documented.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
        let ruled: BTreeSet<_> = RULES.iter().map(|rule| format!("{} {}", rule.method, rule.path)).collect();
        assert_eq!(documented, ruled);
        assert_eq!(ruled.len(), RULES.len(), "no route has two rules");
    }
}
