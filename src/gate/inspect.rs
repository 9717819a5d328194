//! What a token says of itself. Nothing of it is believed here.

use serde_json::Value;

use super::provider::install_provider;
use super::token::{MAX_TOKEN_BYTES, TokenError, refusal};

/// A token that was taken apart.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// Its header.
    pub header: Value,
    /// Its claims.
    pub claims: Value,
}

/// Takes `token` apart; its signature is not looked at.
///
/// # Errors
/// When it is no JWT, or one with an algorithm that is never believed.
pub fn inspect(token: &str) -> Result<Inspected, TokenError> {
    install_provider();
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::Malformed);
    }
    let data =
        jsonwebtoken::dangerous::insecure_decode::<Value>(token).map_err(|error| refusal(error.kind()))?;
    let header = serde_json::to_value(&data.header).map_err(|_| TokenError::Malformed)?;
    Ok(Inspected { header, claims: data.claims })
}
