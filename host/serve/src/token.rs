//! A secret that clients have to send: `Authorization: Bearer`, RFC 6750.

use std::fmt;
use std::str::FromStr;

use hyper::Request;
use hyper::header;
use subtle::ConstantTimeEq as _;

/// Fewer bytes can be guessed.
const TOKEN_BYTES_MIN: usize = 16;
const TOKEN_BYTES_MAX: usize = 1024;

/// The secret, which is not shown.
#[derive(Clone)]
pub struct Token(Box<[u8]>);

impl Token {
    /// Whether the request has one `Authorization`, of the scheme `Bearer`, with this token. How long that takes says
    /// nothing about the token but its length.
    pub(crate) fn is_sent<B>(&self, request: &Request<B>) -> bool {
        let mut sent = request.headers().get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (sent.next(), sent.next()) else { return false };
        let Some((scheme, token)) = value.to_str().ok().and_then(|value| value.split_once(' ')) else { return false };
        scheme.eq_ignore_ascii_case("Bearer") && self.0.ct_eq(token.trim_start_matches(' ').as_bytes()).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Why a text is no token.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("a token has {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} characters, not {0}")]
    Length(usize),
    #[error("a token has only letters, digits and -._~+/=, without spaces between them")]
    Characters,
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Token, TokenError> {
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)) {
            return Err(TokenError::Characters);
        }
        if !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&text.len()) {
            return Err(TokenError::Length(text.len()));
        }
        Ok(Token(text.as_bytes().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_what_a_header_can_hold_and_nobody_guesses() {
        let refused = |text: &str| text.parse::<Token>().unwrap_err();
        assert_eq!(refused(""), TokenError::Length(0));
        assert_eq!(refused(&"x".repeat(15)), TokenError::Length(15));
        assert_eq!(refused(&"x".repeat(1025)), TokenError::Length(1025));
        assert_eq!(refused("a token with spaces in it"), TokenError::Characters);
        assert_eq!(refused("0123456789abcdefé"), TokenError::Characters);
        let token: Token = "0123456789abcdef".parse().unwrap();
        assert_eq!(format!("{token:?}"), "Token");
    }
}
