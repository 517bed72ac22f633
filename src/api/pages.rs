//! Calls that a web page can make. A browser lets any page send requests to any address, including this machine's own,
//! and open WebSockets there (RFC 6455, section 10.2). The headers that it adds tell such calls from those of other
//! programs. A page may call only if its origin is among `access.origins`.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, TRANSFER_ENCODING, VARY,
};
use hyper::{Method, Request, Version};

use super::callers::Caller;
use super::error::ApiError;
use crate::config::Config;
use crate::wire::handshake::{UNKNOWN_CODING, is_known_coding, is_listed, shown};
use crate::wire::host::{self, Host};

/// How the calling page is related to the server that it calls, as browsers say it (Fetch Metadata, section 2.4).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The methods that a page may use. Those that need no preflight are named too: it does no harm.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST");
const HEADERS: HeaderValue = HeaderValue::from_static("authorization, content-type");
/// How long a browser need not ask again, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Checks a request against the rules that every HTTP server must enforce: one host (RFC 9112, section 3.2), and a body
/// that it can read (section 6.1).
pub(super) fn check_form<B>(request: &Request<B>) -> Result<Option<Host<'_>>, ApiError> {
    let all = |name| request.headers().get_all(name).into_iter().map(HeaderValue::as_bytes);
    let minor = u8::from(request.version() != Version::HTTP_10);
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let host = host::of_request(minor, all(HOST), authority).map_err(ApiError::BadRequest)?;
    match is_known_coding(all(TRANSFER_ENCODING)) {
        true => Ok(host),
        false => Err(ApiError::NotImplemented(UNKNOWN_CODING)),
    }
}

/// Refuses calls of pages that may not call. Returns the origin of a page that may; None: no page calls.
pub(super) fn check_page(
    headers: &HeaderMap,
    host: Option<Host<'_>>,
    config: &Config,
    caller: Caller,
) -> Result<Option<HeaderValue>, ApiError> {
    let mut listed = None;
    for origin in headers.get_all(ORIGIN) {
        if !is_listed(origin.as_bytes(), &config.origins) {
            let origin = shown(origin.as_bytes());
            let why = format!("pages of the origin \"{origin}\" may not call here: it is not among access.origins");
            return Err(ApiError::Forbidden(why.into()));
        }
        listed = Some(origin.clone());
    }
    // With a listed origin, this header adds nothing.
    for site in headers.get_all(SEC_FETCH_SITE) {
        if listed.is_none() && !["none", "same-origin"].iter().any(|fine| site == *fine) {
            let site = shown(site.as_bytes());
            let why = format!("pages of other origins may not call here (Sec-Fetch-Site: {site}), see access.origins");
            return Err(ApiError::Forbidden(why.into()));
        }
    }
    match host {
        Some(Host::Name(name)) if !may_be_called(host, config, caller) => {
            let name = shown(name.as_bytes());
            let why = format!(
                "\"{name}\" is no name of this API, which has no users: call it by its IP address or as localhost, or set \
                 access.users or cluster.advertise.api"
            );
            Err(ApiError::Forbidden(why.into()))
        }
        _ => Ok(listed),
    }
}

/// Whether the API may be called by that host name. A page can make a name of its own resolve to this machine (DNS
/// rebinding); its browser then takes the API for the page's own server. So an open API that is reached over loopback
/// answers only to addresses, to localhost and to its configured name.
pub(super) fn may_be_called(host: Option<Host<'_>>, config: &Config, caller: Caller) -> bool {
    let Some(host) = host.filter(|host| !host.is_address_or_localhost()) else { return true };
    let open = config.users.is_empty() && caller.local.to_canonical().is_loopback();
    let advertised = config.cluster.advertise.as_deref().and_then(|at| at.rsplit_once(':')).map(|(name, _)| name);
    !open || advertised.is_some_and(|name| host.is_named(name))
}

/// Whether a page's browser asks first whether the page may call (Fetch, section 3.2.2).
pub(super) fn is_preflight<B>(request: &Request<B>) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Lets a listed page see the response.
pub(super) fn share(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(VARY, HeaderValue::from_static("origin"));
}

/// Lets a listed page make the call that its browser asks about.
pub(super) fn allow(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
}
