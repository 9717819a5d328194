//! Login by token, and the access list, as the broker library asks for them.
//!
//! Promises: nobody is let in without a token that the verifier believes; the client id proves nothing, and cannot be
//! used to take over or destroy the session of another principal; neither token nor claims are logged. Who first uses a
//! client id owns it for as long as that session lasts.

use std::future::{Future, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use mqtt5::Result as MqttResult;
use mqtt5::broker::auth::{AuthProvider, AuthResult};
use mqtt5::broker::storage::{DynamicStorage, StorageBackend};
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::protocol::v5::reason_codes::ReasonCode;
use tracing::info;

use super::acl::Principal;
use crate::clock::Clock;
use crate::gate::token::Verifier;

/// Decides over logins, publishes and subscriptions.
pub(super) struct TokenAuth {
    pub(super) root: String,
    pub(super) verifier: Arc<Verifier>,
    pub(super) clock: Clock,
    pub(super) storage: Arc<DynamicStorage>,
}

/// Why a login was refused; for the log, never for the client.
enum Refusal {
    NotAuthorized(String),
    ForeignSession,
    Storage,
}

impl TokenAuth {
    /// The id of the principal that logs in.
    async fn login(&self, connect: &ConnectPacket) -> Result<String, Refusal> {
        let refused = |why: &str| Refusal::NotAuthorized(why.to_owned());
        let password = connect.password.as_deref().ok_or_else(|| refused("no token was given"))?;
        let token = str::from_utf8(password).map_err(|_| refused("the token is malformed"))?;
        let claims = self
            .verifier
            .verify(token, self.clock.now())
            .map_err(|error| Refusal::NotAuthorized(error.to_string()))?;
        if connect.username.as_deref().is_some_and(|name| !name.is_empty() && name != claims.sub) {
            return Err(refused("the user name is not the token's subject"));
        }
        let id = Principal::new(claims.role, &claims.sub)
            .ok_or_else(|| refused("the token's subject cannot be a principal's name"))?
            .id();
        // The library refuses to resume the session of another user, but not to replace it by a clean start.
        match self.storage.get_session(&connect.client_id).await {
            Ok(Some(session)) if !session.is_expired() && session.user_id.as_deref() != Some(&id) => {
                Err(Refusal::ForeignSession)
            }
            Ok(_) => Ok(id),
            Err(_) => Err(Refusal::Storage),
        }
    }

    fn allows(&self, user: Option<&str>, check: impl Fn(&Principal<'_>) -> bool) -> bool {
        user.and_then(Principal::from_id).is_some_and(|principal| check(&principal))
    }
}

impl AuthProvider for TokenAuth {
    fn authenticate<'a>(
        &'a self,
        connect: &'a ConnectPacket,
        address: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = MqttResult<AuthResult>> + Send + 'a>> {
        Box::pin(async move {
            let (code, why) = match self.login(connect).await {
                Ok(id) => return Ok(AuthResult::success_with_user(id)),
                Err(Refusal::NotAuthorized(why)) => (ReasonCode::NotAuthorized, why),
                Err(Refusal::ForeignSession) => {
                    (ReasonCode::ClientIdentifierNotValid, "the client id is in use by another".to_owned())
                }
                Err(Refusal::Storage) => {
                    (ReasonCode::ServerUnavailable, "sessions cannot be read".to_owned())
                }
            };
            info!(%address, why, "login refused");
            Ok(AuthResult::fail(code))
        })
    }

    fn authorize_publish<'a>(
        &'a self,
        _client_id: &str,
        user: Option<&'a str>,
        topic: &'a str,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        Box::pin(ready(self.allows(user, |principal| principal.may_publish(&self.root, topic))))
    }

    fn authorize_subscribe<'a>(
        &'a self,
        _client_id: &str,
        user: Option<&'a str>,
        filter: &'a str,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        Box::pin(ready(self.allows(user, |principal| principal.may_subscribe(&self.root, filter))))
    }
}
