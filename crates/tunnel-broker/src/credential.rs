use std::fmt;
use std::sync::Arc;

use http::HeaderValue;
use tokio::sync::watch;

/// The secret that is sent to a backend, as `Authorization: Bearer`.
///
/// Clones are the same secret: whoever keeps it sets it at any time, and what is sent from then on has the new one.
/// Until it is set for the first time the backend is not asked anything. The value is in no debug output.
#[derive(Clone)]
pub struct Credential(Arc<Slot>);

struct Slot {
    name: String,
    secret: watch::Sender<Secret>,
}

#[derive(Clone)]
enum Secret {
    /// Whoever keeps it is still looking.
    Awaited,
    Missing(Arc<str>),
    Known(HeaderValue),
}

/// Why there is nothing to send. The texts are for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoSecret {
    #[error("the secret {0} has not been found yet")]
    Awaited(String),
    #[error("{why}; store it with: tunnelctl connections credential set {name}")]
    Missing { name: String, why: Arc<str> },
    #[error("the secret {0} is sent over https or to this machine only; change the connection's url")]
    Readable(String),
}

/// A text that cannot be sent in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not one secret as it was issued: no spaces, no line ends")]
pub struct InvalidSecret;

impl Credential {
    /// Returns a credential of this name that waits for its secret.
    pub fn new(name: impl Into<String>) -> Self {
        Self(Arc::new(Slot { name: name.into(), secret: watch::Sender::new(Secret::Awaited) }))
    }

    /// The name under which the secret is kept.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Sets the secret.
    ///
    /// # Errors
    ///
    /// When it cannot be the token of a header; then nothing changes.
    pub fn set(&self, secret: &str) -> Result<(), InvalidSecret> {
        if secret.is_empty() || !secret.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(InvalidSecret);
        }
        let mut value = HeaderValue::try_from(format!("Bearer {secret}")).map_err(|_| InvalidSecret)?;
        value.set_sensitive(true);
        self.0.secret.send_if_modified(|secret| {
            let same = matches!(secret, Secret::Known(known) if *known == value);
            *secret = Secret::Known(value);
            !same
        });
        Ok(())
    }

    /// Says that there is no secret, and why: `no secret named x`.
    pub fn missing(&self, why: impl Into<Arc<str>>) {
        let why = why.into();
        self.0.secret.send_if_modified(|secret| {
            let same = matches!(secret, Secret::Missing(known) if *known == why);
            *secret = Secret::Missing(why);
            !same
        });
    }

    /// Tells whether it is not known yet whether there is a secret.
    pub fn is_awaited(&self) -> bool {
        matches!(*self.0.secret.borrow(), Secret::Awaited)
    }

    /// Tells whether there is a secret.
    pub fn is_known(&self) -> bool {
        matches!(*self.0.secret.borrow(), Secret::Known(_))
    }

    /// Returns the header's value; marked as sensitive.
    pub(crate) fn header(&self) -> Result<HeaderValue, NoSecret> {
        let name = || self.0.name.clone();
        match &*self.0.secret.borrow() {
            Secret::Known(value) => Ok(value.clone()),
            Secret::Awaited => Err(NoSecret::Awaited(name())),
            Secret::Missing(why) => Err(NoSecret::Missing { name: name(), why: Arc::clone(why) }),
        }
    }

    /// Waits until it is known whether there is a secret.
    pub(crate) async fn settled(&self) {
        // Cannot fail: the sender is a field of `self`.
        drop(self.0.secret.subscribe().wait_for(|secret| !matches!(secret, Secret::Awaited)).await);
    }

    /// Follows the changes.
    pub(crate) fn changes(&self) -> CredentialChanges {
        CredentialChanges { secret: self.0.secret.subscribe() }
    }
}

/// Tells when a secret changes.
pub(crate) struct CredentialChanges {
    secret: watch::Receiver<Secret>,
}

impl CredentialChanges {
    /// Waits for the next change.
    pub(crate) async fn next(&mut self) {
        if self.secret.changed().await.is_err() {
            // Nobody is left who could change it.
            std::future::pending::<()>().await;
        }
    }
}

impl PartialEq for Credential {
    /// Compares which secret it is, not its value.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Credential {}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credential").field(&self.0.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_sent_as_it_was_set_last_and_shown_nowhere() {
        let credential = Credential::new("gpu");
        assert_eq!(credential.header(), Err(NoSecret::Awaited("gpu".to_owned())));
        credential.set("canary-1").unwrap();
        let other = credential.clone();
        other.set("canary-2").unwrap();
        let header = credential.header().unwrap();
        assert_eq!(header.to_str().unwrap(), "Bearer canary-2");
        assert!(!format!("{credential:?} {header:?}").contains("canary"));
        credential.missing("no secret named gpu");
        let told = credential.header().unwrap_err().to_string();
        assert_eq!(told, "no secret named gpu; store it with: tunnelctl connections credential set gpu");
    }

    #[test]
    fn what_no_header_can_hold_is_refused_and_changes_nothing() {
        let credential = Credential::new("gpu");
        credential.set("good").unwrap();
        for bad in ["", "two words", "line\r\nX-Forged: 1", "ümlaut"] {
            assert_eq!(credential.set(bad), Err(InvalidSecret), "{bad:?}");
        }
        assert_eq!(credential.header().unwrap().to_str().unwrap(), "Bearer good");
    }
}
