//! How a verb that failed is told: the sentence, the exit code, and the object for programs.

use serde_json::{Value, json};
use tunnel_client::{Error, exit};

use crate::refusal::Refusal;

/// Why a verb failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: u8,
    /// The word by which programs know it. Stable.
    code: String,
    pub(crate) message: String,
    /// The HTTP status, where it was the daemon that refused.
    status_code: Option<u16>,
    /// What is wrong with a configuration.
    faults: Value,
}

impl Failure {
    /// Returns a failure of this program's own; its code is the exit code's name.
    pub(crate) fn new(exit: u8, message: impl Into<String>) -> Self {
        let code = exit::name(exit).to_owned();
        Self { exit, code, message: message.into(), status_code: None, faults: Value::Null }
    }

    pub(crate) fn of(error: &anyhow::Error) -> Self {
        if let Some(error) = error.downcast_ref::<Error>() {
            // Its text says all that helps; the sources below it are for logs.
            return Self::of_client(error);
        }
        match error.downcast_ref::<Refusal>() {
            Some(refusal) => Self::new(refusal.code(), refusal.to_string()),
            None => Self::new(exit::FAILED, format!("{error:#}")),
        }
    }

    fn of_client(error: &Error) -> Self {
        let body = error.body();
        let words = body.and_then(|body| in_verbs(&body.code, &body.error));
        Self {
            exit: match error.code() {
                // What is switched off is there; only not now.
                "metrics_disabled" => exit::CONFLICT,
                // What the relay does not allow is a conflict for the daemon, which itself lets this user in.
                "not_allowed" => exit::NOT_ALLOWED,
                _ => error.exit_code(),
            },
            code: error.code().to_owned(),
            message: words.map_or_else(|| error.to_string(), str::to_owned),
            status_code: body.map(|body| body.status_code),
            faults: body
                .filter(|body| !body.faults.is_empty())
                .map_or(Value::Null, |body| json!(body.faults)),
        }
    }

    /// Returns the object that stands for the answer which did not come.
    pub(crate) fn json(&self) -> Value {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(status) = self.status_code {
            error["status_code"] = status.into();
        }
        if !self.faults.is_null() {
            error["faults"] = self.faults.clone();
        }
        json!({ "error": error, "exit": self.exit })
    }
}

/// Says again in verbs of this program what the API says to programs that call it. None where its words will do.
fn in_verbs(code: &str, sentence: &str) -> Option<&'static str> {
    match code {
        "metrics_disabled" => {
            Some("metrics are switched off; to switch them on: tunnelctl config set enableMetrics true")
        }
        "cloud_proxy_disabled" => Some(
            "the tunnel is switched off in the configuration; to switch it on: tunnelctl connections enable cloud",
        ),
        "unknown_connection" => {
            Some("there is no connection with this id; those that there are: tunnelctl connections list")
        }
        // Of what is looked up by a name, the verbs speak themselves.
        "not_found" if sentence.starts_with("there is no such endpoint") => Some(
            "tunneld has nothing at this address; --url takes no path, as in http://127.0.0.1:8765. If it has none, \
             tunneld is older than tunnelctl: systemctl --user restart tunneld",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tunnel_api::ErrorBody;

    use super::*;

    fn refused(code: &str, status_code: u16, error: &str) -> Failure {
        let body =
            ErrorBody { code: code.to_owned(), status_code, error: error.to_owned(), ..ErrorBody::default() };
        Failure::of(&Error::Refused(Box::new(body)).into())
    }

    #[test]
    fn what_the_api_says_to_programs_is_said_in_verbs() {
        for code in ["metrics_disabled", "cloud_proxy_disabled", "unknown_connection"] {
            let failure = refused(code, 409, "PUT it there");
            assert!(failure.message.contains("tunnelctl "), "{failure:?}");
            assert_eq!(failure.code, code);
        }
        assert_eq!(refused("metrics_disabled", 404, "").exit, exit::CONFLICT);
        assert_eq!(refused("busy", 503, "try again").message, "try again");
        assert_eq!(refused("not_found", 404, "there is no copy").message, "there is no copy");
        assert!(refused("not_found", 404, "there is no such endpoint; x").message.contains("--url"));
    }

    #[test]
    fn object_has_what_is_known_and_no_more() {
        assert_eq!(
            refused("busy", 503, "try again").json(),
            json!({ "error": { "code": "busy", "message": "try again", "status_code": 503 }, "exit": 1 })
        );
        let own = Failure::of(&Refusal::new(exit::NOT_FOUND, "it is not there").into());
        assert_eq!(
            own.json(),
            json!({ "error": { "code": "not_found", "message": "it is not there" }, "exit": 6 })
        );
        let other = Failure::of(&anyhow::anyhow!("below").context("above"));
        assert_eq!((other.exit, other.message.as_str()), (exit::FAILED, "above: below"));
    }
}
