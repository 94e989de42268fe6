//! The token: whether there is one, and what the relay thinks of it. Pure.

use jiff::Timestamp;
use tunnel_api::auth::StoredIn;
use tunnel_api::warning::{TOKEN_EXPIRED, TOKEN_INVALID, TOKEN_SCOPE};
use tunnel_api::{AuthStatus, Check, Severity};

use super::check::{Subject, span};
use crate::secrets::TokenError;
use crate::tunnel::{TunnelReport, advice};

/// A token that nobody renews is worth a word so long before it ends.
const SOON_S: i64 = 24 * 60 * 60;

/// What is known of the token.
pub(super) struct Login<'a> {
    pub(super) auth: &'a AuthStatus,
    /// What the relay's `/health` says of it: `valid`, `invalid`, `expired`. None where it was not asked.
    pub(super) relays_word: Option<&'a str>,
}

pub(super) fn subject() -> Subject {
    Subject::new("token", "relay: token")
}

/// Judges that there is no token.
pub(super) fn absent(error: &TokenError) -> Check {
    let advice = advice::no_token(error);
    // A tunnel need not be; a file that is there and useless is another matter.
    if advice.severity == Severity::Info { subject().warn_as(&advice) } else { subject().fail_as(&advice) }
}

pub(super) fn token(login: &Login<'_>, report: &TunnelReport, now: Timestamp) -> Check {
    let subject = subject();
    // The relay knows best, and it said more than `/health` does.
    let refusal = report.warning.as_ref();
    let about_token = [TOKEN_EXPIRED, TOKEN_INVALID, TOKEN_SCOPE];
    if let Some(refusal) = refusal.filter(|refusal| about_token.contains(&refusal.code.as_str())) {
        return subject.fail_as(refusal);
    }
    match login.relays_word {
        Some("invalid") => {
            let detail = "the relay does not know this token, another relay may have issued it";
            return subject.fail(detail, advice::NEW_TOKEN);
        }
        Some("expired") => {
            return subject.fail("the relay says that the token has expired", advice::NEW_TOKEN);
        }
        _ => {}
    }
    let auth = login.auth;
    let whose = auth.subject.as_deref().map_or_else(String::new, |subject| format!("of {subject}, "));
    let kept = match auth.stored_in {
        StoredIn::Keyring => "kept in the keyring",
        StoredIn::Credential => "out of systemd's credential cloud-token",
        StoredIn::File => "kept in an encrypted file",
        StoredIn::TokenFile => "out of the token file",
        StoredIn::None | StoredIn::Unknown => "kept nowhere",
    };
    let Some(end) = auth.expires_at else { return subject.pass(format!("{whose}without an end, {kept}")) };
    let left = end.as_second().saturating_sub(now.as_second());
    let Ok(seconds) = u64::try_from(left) else {
        return subject.fail(format!("it has expired {} ago", span(left.unsigned_abs())), advice::NEW_TOKEN);
    };
    let renewal = if auth.refreshable { ", renewed by itself" } else { "" };
    let detail = format!("{whose}expires in {} ({end:.0}){renewal}, {kept}", span(seconds));
    if left < SOON_S && !auth.refreshable {
        subject.warn(detail, advice::NEW_TOKEN)
    } else {
        subject.pass(detail)
    }
}

#[cfg(test)]
mod tests {
    use tunnel_api::{Verdict, Warning};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn judged(auth: &AuthStatus, word: Option<&str>, code: Option<&str>) -> Check {
        let warning = code.map(|code| Warning::new(code, "the relay says no", "get another"));
        let report = TunnelReport { warning, ..TunnelReport::default() };
        let login = Login { auth, relays_word: word };
        token(&login, &report, Timestamp::from_second(NOW).unwrap())
    }

    fn auth(left: Option<i64>, refreshable: bool) -> AuthStatus {
        AuthStatus {
            authenticated: true,
            subject: Some("alice".to_owned()),
            expires_at: left.map(|left| Timestamp::from_second(NOW + left).unwrap()),
            stored_in: StoredIn::File,
            refreshable,
            last_error: None,
        }
    }

    #[test]
    fn absent_token_warns_with_how_to_log_in_and_a_useless_file_fails() {
        let check = absent(&TokenError::None);
        assert_eq!(check.verdict, Verdict::Warn);
        assert!(check.next_step.contains("tunnelctl login"), "{}", check.next_step);
        let useless = TokenError::NotAToken("/t".into());
        assert_eq!(absent(&useless).verdict, Verdict::Fail);
    }

    #[test]
    fn end_of_a_token_is_told_before_and_after() {
        let check = judged(&auth(Some(30 * 86_400), false), Some("valid"), None);
        assert_eq!(check.verdict, Verdict::Pass);
        assert_eq!(
            check.detail,
            "of alice, expires in 30 days (2027-02-14T08:00:00Z), kept in an encrypted file"
        );
        assert_eq!(judged(&auth(Some(SOON_S - 1), false), None, None).verdict, Verdict::Warn);
        assert_eq!(judged(&auth(Some(SOON_S - 1), true), None, None).verdict, Verdict::Pass);
        let check = judged(&auth(Some(-7200), false), None, None);
        assert_eq!((check.verdict, check.detail.as_str()), (Verdict::Fail, "it has expired 2 hours ago"));
        assert_eq!(judged(&auth(None, false), None, None).verdict, Verdict::Pass);
    }

    #[test]
    fn relays_no_counts_more_than_what_the_token_says_itself() {
        let good = auth(Some(30 * 86_400), true);
        for word in ["invalid", "expired"] {
            assert_eq!(judged(&good, Some(word), None).verdict, Verdict::Fail, "{word}");
        }
        let check = judged(&good, Some("valid"), Some(TOKEN_SCOPE));
        assert_eq!((check.verdict, check.detail.as_str()), (Verdict::Fail, "the relay says no"));
        assert_eq!(judged(&good, Some("valid"), Some("relay_unreachable")).verdict, Verdict::Pass);
    }
}
