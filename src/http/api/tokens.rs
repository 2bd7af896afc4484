//! `/api/v1/tokens`

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Problem;
use super::admit::Caller;
use super::cursor::{Page, Window};
use super::input::{At, Creation, Query};
use super::output::Made;
use crate::model::{Role, Timestamp, TokenId};
use crate::service::{App, tokens};
use crate::store::TokenRow;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(list_tokens, create_token)).routes(routes!(get_token, revoke_token))
}

/// A token of this API, without its text.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Token {
    id: TokenId,
    /// Whose it is, or what it is for.
    #[schema(example = "help desk")]
    name: String,
    role: Role,
    created_at: Timestamp,
    /// Who made it: the name of a token, or `command line`.
    #[schema(example = "command line")]
    created_by: String,
    /// When it ends; absent for never.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    /// When it was last used; up to a minute behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<Timestamp>,
    /// Since when it does not hold any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<Timestamp>,
}

impl From<TokenRow> for Token {
    fn from(row: TokenRow) -> Self {
        Self {
            id: row.id,
            name: row.name,
            role: row.role,
            created_at: row.created_at,
            created_by: row.created_by,
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
            revoked_at: row.revoked_at,
        }
    }
}

/// Which tokens.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct TokenQuery {
    /// Most items of a page.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// Where the page begins: `next_cursor` of the page before.
    #[param(max_length = 4096)]
    cursor: Option<String>,
}

/// A token to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "help desk", "role": "operator", "expires_at": "2027-11-22T00:00:00Z"}))]
pub(super) struct NewToken {
    /// Whose it is, or what it is for.
    #[schema(min_length = 1, max_length = 200)]
    name: String,
    role: Role,
    /// When it ends; without it, never.
    expires_at: Option<Timestamp>,
}

/// A token that was made, with its text, which is shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CreatedToken {
    #[serde(flatten)]
    facts: Token,
    /// What clients send after `Bearer`.
    #[schema(example = "muster_4fKqBz…")]
    token: String,
}

/// List the tokens
///
/// Newest first; those that ended too.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "Tokens", params(TokenQuery),
    responses((status = 200, body = Page<Token>)))]
async fn list_tokens(
    State(app): State<App>,
    Query { value: query, list }: Query<TokenQuery>,
) -> Result<Json<Page<Token>>, Problem> {
    let window = Window::<TokenId>::read(query.limit, query.cursor.as_deref(), &list)?;
    let rows = tokens::list(&app, window.after, window.rows()).await?;
    Ok(Json(window.page(rows, |row| row.id, Token::from)))
}

/// Make a token
///
/// The answer shows its text, this once.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "Tokens", request_body = NewToken,
    responses((status = 201, body = CreatedToken, headers(("Location" = String)))))]
async fn create_token(
    State(app): State<App>,
    Creation(actor, new): Creation<NewToken>,
) -> Result<Made<CreatedToken>, Problem> {
    let new = tokens::NewToken { name: new.name, role: new.role, expires_at: new.expires_at };
    let made = tokens::create(&app, &actor, new).await?;
    let at = format!("/api/v1/tokens/{}", made.row.id);
    Ok(Made { at, body: CreatedToken { facts: made.row.into(), token: made.text.expose().clone() } })
}

/// Show a token
///
/// Without its text, which nobody can show again.
#[utoipa::path(get, path = "/api/v1/tokens/{id}", tag = "Tokens", params(("id" = TokenId, Path)),
    responses((status = 200, body = Token)))]
async fn get_token(State(app): State<App>, At(id): At<TokenId>) -> Result<Json<Token>, Problem> {
    Ok(Json(tokens::get(&app, id).await?.into()))
}

/// Revoke a token
///
/// It holds no more from this moment on. It stays in the list.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", tag = "Tokens", params(("id" = TokenId, Path)),
    responses((status = 204, description = "It does not hold any more")))]
async fn revoke_token(State(app): State<App>, caller: Caller, At(id): At<TokenId>) -> Result<StatusCode, Problem> {
    tokens::revoke(&app, &caller.0, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
