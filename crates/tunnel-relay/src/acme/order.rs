//! One order of a certificate.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;

use super::on_disk;
use super::shelf::{self, Shelf};
use crate::config::AcmeSettings;
use crate::tls::{Answer, Tls, Validity, provider};

/// A certificate that was just issued, and is kept.
pub(super) struct Issued {
    pub(super) pair: CertifiedKey,
    pub(super) validity: Validity,
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum Failed {
    /// Nothing was asked for: the authority cannot be reached, or our own account cannot be read.
    Unreachable(anyhow::Error),
    /// The authority has looked at what was asked for, and it came to nothing.
    Order(anyhow::Error),
}

impl Failed {
    pub(super) fn into_error(self) -> anyhow::Error {
        match self {
            Self::Unreachable(error) | Self::Order(error) => error,
        }
    }
}

/// Longest wait for the account, and for all of an order.
const ACCOUNT_WAIT: Duration = Duration::from_secs(60);
const ORDER_WAIT: Duration = Duration::from_secs(300);
/// Longest wait for the authority to look at one thing.
const POLL: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(120));

/// An account that is not on the disk yet. Authorities count who opens accounts, so that it must not be opened anew with
/// each order because the disk is full.
pub(super) struct Unkept {
    account: Account,
    credentials: Arc<AccountCredentials>,
}

/// Orders a certificate, answers the authority's challenges, and keeps what it issues. `unkept` is for the next order.
pub(super) async fn order(
    tls: &Tls,
    settings: &AcmeSettings,
    shelf: &Arc<Shelf>,
    unkept: &mut Option<Unkept>,
) -> Result<Issued, Failed> {
    let account = tokio::time::timeout(ACCOUNT_WAIT, account(settings, shelf, unkept));
    let account = account
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {} s", ACCOUNT_WAIT.as_secs())))
        .with_context(|| format!("asking the authority {}", settings.directory));
    let account = match account {
        Ok(account) => account,
        Err(error) if is_answer(&error) => {
            note_failure(shelf).await;
            return Err(Failed::Order(error));
        }
        Err(error) => return Err(Failed::Unreachable(error)),
    };
    let issued = tokio::time::timeout(ORDER_WAIT, issue(tls, settings, &account));
    let issued =
        issued.await.unwrap_or_else(|_| Err(anyhow::anyhow!("not done within {} s", ORDER_WAIT.as_secs())));
    let ordered = match issued {
        Ok((chain, key)) => shelf::pair(&chain, &key).map(|pair| (pair, chain, key)),
        Err(error) => Err(error),
    };
    match ordered {
        Ok(((pair, validity), chain, key)) => {
            if let Err(error) = on_disk(Arc::clone(shelf), |shelf| shelf.store(chain, key)).await {
                // It holds, but after a restart another one has to be ordered.
                tracing::warn!(error = format!("{error:#}"), "the certificate could not be kept");
            }
            Ok(Issued { pair, validity })
        }
        Err(error) => {
            note_failure(shelf).await;
            let names = settings.domains.join(" ");
            Err(Failed::Order(error.context(format!(
                "ordering a certificate for {names}; the authority must reach this relay at port 443 of each name"
            ))))
        }
    }
}

async fn note_failure(shelf: &Arc<Shelf>) {
    if let Err(error) = on_disk(Arc::clone(shelf), Shelf::note_failure).await {
        tracing::warn!(error = format!("{error:#}"), "the failed order could not be noted");
    }
}

/// Tells whether the authority itself said no, which it may count.
fn is_answer(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(instant_acme::Error::Api(_)))
}

/// Finds the account with the authority, or opens one.
async fn account(
    settings: &AcmeSettings,
    shelf: &Arc<Shelf>,
    unkept: &mut Option<Unkept>,
) -> anyhow::Result<Account> {
    // The library's client takes the process's; whoever was first, it is the same one.
    let _installed = rustls::crypto::CryptoProvider::install_default((*provider()).clone());
    let builder = || match &settings.ca_file {
        Some(file) => Account::builder_with_root(file).with_context(|| format!("reading {}", file.display())),
        None => Account::builder().context("setting up TLS to the authority"),
    };
    let (account, credentials) = if let Some(Unkept { account, credentials }) = unkept {
        (account.clone(), Arc::clone(credentials))
    } else {
        if let Some(credentials) = on_disk(Arc::clone(shelf), Shelf::account).await? {
            return Ok(builder()?.from_credentials(credentials).await?);
        }
        let contact: Vec<&str> = settings.contact.as_deref().into_iter().collect();
        let new =
            NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let (account, credentials) = builder()?.create(&new, settings.directory.to_string(), None).await?;
        let credentials = Arc::new(credentials);
        *unkept = Some(Unkept { account: account.clone(), credentials: Arc::clone(&credentials) });
        (account, credentials)
    };
    match on_disk(Arc::clone(shelf), move |shelf| shelf.store_account(&credentials)).await {
        Ok(()) => *unkept = None,
        Err(error) => tracing::warn!(
            error = format!("{error:#}"),
            "the account with the authority could not be kept, that is tried again with the next order"
        ),
    }
    Ok(account)
}

/// Returns the chain and its key as PEM.
async fn issue(tls: &Tls, settings: &AcmeSettings, account: &Account) -> anyhow::Result<(String, String)> {
    let names: Vec<Identifier> = settings.domains.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&names)).await?;
    let answering = tls.answering();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            other => bail!("the authority's permission is {other:?}"),
        }
        let mut challenge = authorization
            .challenge(ChallengeType::TlsAlpn01)
            .context("the authority does not offer tls-alpn-01")?;
        let name = challenge.identifier().to_string();
        let proof = proof(&name, challenge.key_authorization().digest().as_ref())?;
        answering.add(Answer { name, proof: Arc::new(proof) });
        challenge.set_ready().await?;
    }
    match order.poll_ready(&POLL).await? {
        OrderStatus::Ready => {}
        OrderStatus::Invalid => bail!("{}", what_was_found(&mut order).await),
        other => bail!("the order is {other:?}"),
    }
    drop(answering);
    let key = order.finalize().await?;
    let chain = order.poll_certificate(&POLL).await?;
    Ok((chain, key))
}

/// Asks what the authority found when it looked.
async fn what_was_found(order: &mut Order) -> String {
    let mut found = String::from("the authority could not check the names");
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        for error in state.challenges.iter().filter_map(|challenge| challenge.error.as_ref()) {
            found.push_str(&format!("; {error}"));
        }
    }
    found
}

/// Makes the certificate that an authority looks for (RFC 8737 §3).
fn proof(name: &str, digest: &[u8]) -> anyhow::Result<CertifiedKey> {
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let key = provider().key_provider.load_private_key(key)?;
    // Not by `from_der`, which would look into the certificate and stumble over the extension that it is made for.
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_can_be_made() {
        let proof = proof("relay.test", &[7; 32]).unwrap();
        // OCTET STRING of 32 bytes in the extension's value.
        let expected = [&[0x04, 0x20][..], &[7; 32]].concat();
        assert!(proof.cert[0].windows(expected.len()).any(|window| window == expected));
    }
}
