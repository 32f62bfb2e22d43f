//! `token issue`.

use serde_json::json;

use super::{Context, with_hub};
use crate::cli::{TokenCommand, TokenIssueArgs};
use crate::config::Profile;
use crate::failure::Failure;
use crate::hub::Hub;
use crate::identity::issuer::{LocalIssuer, new_token_id};
use crate::identity::token::{Audience, Claims};
use crate::identity::{IdentityError, Role};
use crate::report::Report;

pub(super) async fn run(command: TokenCommand, context: &Context<'_>) -> Result<Report, Failure> {
    let TokenCommand::Issue(args) = command;
    with_hub(&context.opening, async |hub| issue(hub, &args).await).await
}

async fn issue(hub: &Hub, args: &TokenIssueArgs) -> Result<Report, Failure> {
    if hub.config().identity.profile == Profile::Service {
        return Err(IdentityError::NoLocalIssuer.into());
    }
    let issuer = LocalIssuer::of(hub).await?;
    let claims = claims(hub, &issuer, args)?;
    let principal = claims.principal()?;
    needed(args)?;
    let token = issuer.issue(hub, &claims).await?;
    let json = json!({ "token": token, "principal": principal.name, "claims": claims });
    let until = qihui_catalog::Timestamp(claims.exp.saturating_mul(1000));
    Ok(Report::new(json, token).note(format!("for {}, until {until}", principal.name)))
}

fn claims(hub: &Hub, issuer: &LocalIssuer, args: &TokenIssueArgs) -> Result<Claims, Failure> {
    let identity = &hub.config().identity;
    if args.ttl > identity.token_seconds {
        let reason = format!("a token lasts at most {} seconds", identity.token_seconds);
        return Err(IdentityError::BadClaims { reason }.into());
    }
    let id = new_token_id()?;
    let mut usccs = Vec::with_capacity(args.uscc.len());
    for code in &args.uscc {
        usccs.push(super::enterprise(code)?.to_string());
    }
    let now = hub.clock().now_ms().div_euclid(1000);
    Ok(Claims {
        iss: issuer.name().to_owned(),
        aud: Audience::One(identity.audience.clone()),
        sub: args.subject.clone().unwrap_or_else(|| id.clone()),
        iat: now,
        nbf: None,
        exp: now.saturating_add(i64::try_from(args.ttl).unwrap_or(i64::MAX)),
        jti: Some(id),
        roles: args.role.iter().map(ToString::to_string).collect(),
        org: args.org.as_ref().map(ToString::to_string),
        purposes: args.purpose.iter().map(ToString::to_string).collect(),
        usccs,
        department: args.department.clone(),
        feeds: args.feed.iter().map(ToString::to_string).collect(),
    })
}

/// Refuses a role without what it reaches: a token that could do nothing is a mistake.
fn needed(args: &TokenIssueArgs) -> Result<(), IdentityError> {
    for role in &args.role {
        let lacks = match role {
            Role::Enterprise if args.uscc.is_empty() => "an enterprise needs --uscc",
            Role::Analyst | Role::Subscriber if args.org.is_none() => {
                "an analyst or subscriber needs --org"
            }
            Role::Analyst if args.purpose.is_empty() => "an analyst needs --purpose",
            Role::FeedOwner if args.department.is_none() && args.feed.is_empty() => {
                "a feed_owner needs --department or --feed"
            }
            _ => continue,
        };
        let reason = lacks.to_owned();
        return Err(IdentityError::BadClaims { reason });
    }
    Ok(())
}
