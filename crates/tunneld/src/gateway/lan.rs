//! The gateway as other machines see it.

use std::net::IpAddr;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use http_body_util::Either;
use hyper::body::Incoming;
use tunnel_broker::Ingress;

use super::{Gateway, GatewayBody, effect, preflight, refused};
use crate::doors::Introduction;
use crate::doors::accept::Handler;
use crate::doors::peer::Peer;
use crate::guard::Verdict;

/// Answers the requests of one connection from the network: with a key, whoever the caller is.
#[derive(Debug, Clone)]
pub(crate) struct LanGateway {
    gateway: Gateway,
    caller: IpAddr,
    introduction: Introduction,
}

impl LanGateway {
    pub(crate) fn new(gateway: Gateway, caller: IpAddr, introduction: Introduction) -> Self {
        Self { gateway, caller, introduction }
    }
}

impl Handler for LanGateway {
    type Body = GatewayBody;

    async fn handle(&self, _: Peer, request: Request<Incoming>) -> Response<GatewayBody> {
        let Self { gateway, caller, introduction } = self;
        let verdict = gateway.guards.lan().check_page(&request, effect);
        let cors = match verdict {
            Verdict::Pass(cors) => cors,
            Verdict::Preflight(granted) => return last(preflight(granted)),
            Verdict::Refuse(refusal) => return last(refused(refusal, request.uri().path())),
        };
        let mut response = match gateway.wicket.admit_from(request.headers(), *caller) {
            Ok(admitted) => {
                introduction.note_good_key();
                gateway.forward_admitted(Ingress::Lan, admitted, request).await
            }
            Err(refusal) => last(refusal.response(request.uri().path()).map(Either::Right)),
        };
        if let Some(cors) = cors {
            cors.apply(response.headers_mut());
        }
        response
    }
}

/// Ends the connection with this answer, which always fits into its buffer. Who has no key could hold a place for ever
/// otherwise, with requests whose answers it never reads.
fn last(mut response: Response<GatewayBody>) -> Response<GatewayBody> {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
