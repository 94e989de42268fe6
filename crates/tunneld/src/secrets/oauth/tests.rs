//! Against an authorization server that answers as it was told to.

use serde_json::json;

use super::*;
use crate::secrets::testing::issuer::Issuer;

fn renewal(issuer: &Issuer) -> Renewal {
    Renewal {
        refresh_token: "canary-refresh".to_owned().into(),
        token_endpoint: issuer.endpoint("/token?tenant=a"),
        client_id: Some("desk & co".to_owned()),
        resource: Some("https://relay.example/".to_owned()),
    }
}

async fn outcome(status: u16, body: Value) -> Result<Issued, RefreshError> {
    let issuer = Issuer::start();
    issuer.will_answer(status, &body);
    refresh(&renewal(&issuer), &Way::default()).await
}

#[tokio::test]
async fn token_is_renewed_with_the_form_of_the_standard() {
    let issuer = Issuer::start();
    let answer = json!({ "access_token": "canary-new", "token_type": "bearer", "expires_in": 900,
                         "refresh_token": "canary-rotated", "scope": "tunnel" });
    issuer.will_answer(200, &answer);
    let renewed = refresh(&renewal(&issuer), &Way::default()).await.unwrap();
    assert_eq!(renewed.access_token.expose_secret(), "canary-new");
    assert_eq!(renewed.refresh_token.as_ref().unwrap().expose_secret(), "canary-rotated");
    assert_eq!(renewed.expires_in, Some(900));
    assert!(!format!("{renewed:?}").contains("canary"));
    let pairs = [
        ("path", "/token?tenant=a"),
        ("grant_type", "refresh_token"),
        ("refresh_token", "canary-refresh"),
        ("client_id", "desk & co"),
        ("resource", "https://relay.example/"),
    ];
    let expected = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    assert_eq!(issuer.forms(), [expected]);
}

#[tokio::test]
async fn little_is_enough_of_an_answer() {
    let renewed = outcome(200, json!({ "access_token": "a", "expires_in": "60" })).await.unwrap();
    assert_eq!((renewed.expires_in, renewed.refresh_token.is_none()), (Some(60), true));
}

#[tokio::test]
async fn login_that_is_over_is_told_from_trouble_that_passes() {
    let over =
        outcome(400, json!({ "error": "invalid_grant", "error_description": "canary" })).await.unwrap_err();
    assert!(over.is_final() && matches!(over, RefreshError::LoginExpired { .. }), "{over:?}");
    let refused = outcome(401, json!({ "error": "invalid_client" })).await.unwrap_err();
    assert!(!refused.is_final() && refused.to_string().ends_with("invalid_client"), "{refused}");
    for (status, body) in
        [(400, json!({ "error": "canary" })), (500, json!({ "error": "invalid_grant" })), (302, json!({}))]
    {
        let error = outcome(status, body).await.unwrap_err();
        assert!(matches!(error, RefreshError::Unavailable { .. }), "{status}: {error:?}");
        assert!(!format!("{error:?} {error}").contains("canary"), "{error:?}");
    }
}

#[tokio::test]
async fn answer_without_a_usable_token_is_none() {
    for body in [
        json!({}),
        json!({ "access_token": "" }),
        json!({ "access_token": "two words" }),
        json!({ "access_token": "a", "token_type": "mac" }),
        json!({ "access_token": "a", "refresh_token": "b\nc" }),
    ] {
        let error = outcome(200, body.clone()).await.unwrap_err();
        assert!(matches!(error, RefreshError::BadAnswer { .. }), "{body}: {error:?}");
    }
    let issuer = Issuer::start();
    issuer.will_say("HTTP/1.1 200 OK\r\n", &"x".repeat(200_000));
    let error = refresh(&renewal(&issuer), &Way::default()).await.unwrap_err();
    assert!(matches!(error, RefreshError::Call(CallError::Http { .. })), "{error:?}");
}

#[tokio::test]
async fn server_in_trouble_may_say_when_to_come_back() {
    let issuer = Issuer::start();
    issuer.will_say("HTTP/1.1 503 Busy\r\nRetry-After: 120\r\n", "");
    let error = refresh(&renewal(&issuer), &Way::default()).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(120)));
}

#[tokio::test]
async fn server_that_cannot_be_reached_is_named_by_its_host() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = crate::secrets::Endpoint::parse(&format!("http://{gone}/canary")).unwrap();
    let renewal = Renewal {
        refresh_token: "canary".to_owned().into(),
        token_endpoint: endpoint,
        client_id: None,
        resource: None,
    };
    let error = refresh(&renewal, &Way::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "127.0.0.1 cannot be reached");
    assert!(!format!("{error:?} {renewal:?}").contains("canary"), "{error:?}");
}

#[tokio::test]
async fn server_that_never_answers_is_waited_for_within_the_limits() {
    let issuer = Issuer::start();
    let mut login = Credentials::bare("canary".to_owned().into(), 0);
    assert!(!revoke(&login, &Way::default()).await.unwrap(), "there is nowhere to revoke it");
    login.revocation_endpoint = Some(issuer.endpoint("/revoke"));
    // The clock runs by itself once all that is left is to wait.
    tokio::time::pause();
    let refreshing = refresh(&renewal(&issuer), &Way::default()).await;
    assert!(matches!(refreshing, Err(RefreshError::Call(CallError::Timeout { .. }))), "{refreshing:?}");
    assert!(matches!(revoke(&login, &Way::default()).await, Err(RevokeError::Timeout { .. })));
}

#[tokio::test]
async fn refresh_token_is_revoked_where_there_is_one() {
    let issuer = Issuer::start();
    let mut login = Credentials::bare("access".to_owned().into(), 0);
    login.revocation_endpoint = Some(issuer.endpoint("/revoke"));
    for _ in 0..2 {
        issuer.will_answer(200, &json!({}));
        assert!(revoke(&login, &Way::default()).await.unwrap());
        login.renewal = Some(renewal(&issuer));
    }
    issuer.will_answer(500, &json!({}));
    assert!(matches!(revoke(&login, &Way::default()).await, Err(RevokeError::Refused { .. })));
    let tokens: Vec<String> = issuer.forms().iter().map(|form| form["token"].clone()).collect();
    assert_eq!(tokens, ["access", "canary-refresh", "canary-refresh"]);
}
